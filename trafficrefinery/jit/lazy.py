"""Modules that take long to import, and that a process may not need, or not before its first packet."""

from __future__ import annotations

import importlib
from typing import Any


class Late:
    """Stands for a module, which is imported when something in it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
