"""Progress of long work: one way to report it, wherever it is shown."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then while something long is done."""

    def __call__(self, doing: str, done: int = 0, total: int | None = None, packets: int | None = None, /) -> None:
        """Report.

        Args:
            doing: what is being done, in a few words.
            done: how much of it: bytes, traces, sessions.
            total: of how much; None: not known, or nothing that is counted.
            packets: processed so far, where work is on packets.
        """


def silent(doing: str, done: int = 0, total: int | None = None, packets: int | None = None, /) -> None:
    """Progress that nobody asked for."""
