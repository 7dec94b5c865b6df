"""Progress of long work on a terminal."""

from __future__ import annotations

import sys
import time
from typing import Self

_EVERY_S = 0.1
_SURE_AFTER_S = 3.0
_PER_CENT = 100


class Bar:
    """A `Progress`: what is being done, how far it is, packets/s; in a pipe only why nothing happens yet."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = not quiet and sys.stderr.isatty()
        self._doing = ""
        self._since_s = self._last_s = 0.0

    def __enter__(self) -> Self:
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[text]}"),
                console=Console(stderr=True), transient=True, expand=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None, text="")
        elif not self._quiet:
            from trafficrefinery.replaying.job import CompilingNote

            self._note = CompilingNote()
        return self

    def __call__(self, doing: str, done: int = 0, total: int | None = None, packets: int | None = None, /) -> None:
        """See `Progress`."""
        if self._terminal:
            self._show(doing, done, total, packets)
        elif not self._quiet:
            self._note(doing)

    def _show(self, doing: str, done: int, total: int | None, packets: int | None) -> None:
        now_s = time.monotonic()
        if doing != self._doing:
            self._doing, self._since_s = doing, now_s
            self._bar.reset(self._task, total=None)
        elif now_s - self._last_s < _EVERY_S:
            return
        self._last_s = now_s
        text = "feature classes, first run only" if doing == "compiling" else f"{done:,} of {total:,}" if total else ""
        if total == _PER_CENT and packets is None:
            text = f"{done} %"
        if packets is not None:
            rate = packets / (now_s - self._since_s) if now_s > self._since_s else 0.0
            percent = f"{100 * done / total:3.0f}%  " if total else ""
            text = f"{percent}{packets:,} packets, {rate:,.0f} packets/s"
        elif total and done and (since_s := now_s - self._since_s) > _SURE_AFTER_S:
            text += f", {_duration(since_s / done * (total - done))} left"
        self._bar.update(self._task, description=doing, completed=done, total=total or None, text=text)

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            self._bar.stop()


def _duration(seconds: float) -> str:
    """In the unit that says enough."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
