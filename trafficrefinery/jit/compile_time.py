"""What is known of compiling where the compiler may never be imported."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class CompilerError(Exception):
    """A function cannot be compiled; the compiler's own words."""


class Compiling:
    """What compiling took in this process; what comes from the cache takes nothing.

    Attributes:
        seconds: in all.
        begins: called when the compiler starts on something.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.begins: Callable[[], object] = lambda: None
        self._depth = 0  # the passes of the compiler nest
        self._since = 0.0

    def notify(self, event: Any) -> None:
        """Numba's: a pass starts or ends."""
        if event.is_start:
            if self._depth == 0:
                self._since = time.perf_counter()
                self.begins()
            self._depth += 1
        else:
            self._depth -= 1
            if self._depth == 0:
                self.seconds += time.perf_counter() - self._since


compiling = Compiling()
