"""Progress of long work on a terminal."""

from __future__ import annotations

import sys
import time
from typing import Self

import typer


class Bar:
    """What is being done, percent, packets, packets/s on a terminal; in a pipe only why nothing happens yet."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = not quiet and sys.stderr.isatty()
        self._doing = ""
        self._since = self._last = 0.0
        self._compiler_told = False

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
        return self

    def update(self, doing: str, packets: int, position: int, total: int | None) -> None:
        """See `job.Progress`."""
        if self._terminal:
            self._show(doing, packets, position, total)
        elif doing == "compiling" and not self._quiet and not self._compiler_told:
            from trafficrefinery.replaying.job import COMPILING_NOTE

            self._compiler_told = True
            typer.echo(COMPILING_NOTE, err=True)

    def _show(self, doing: str, packets: int, position: int, total: int | None) -> None:
        now = time.monotonic()
        if doing != self._doing:
            self._doing, self._since, self._last = doing, now, 0.0
            self._bar.reset(self._task, total=None)
        elif now - self._last < 0.1:
            return
        self._last = now
        text = "feature classes, first run only"
        if doing != "compiling":
            rate = packets / (now - self._since) if now > self._since else 0.0
            percent = f"{100 * position / total:3.0f}%  " if total else ""
            text = f"{percent}{packets:,} packets, {rate:,.0f} packets/s"
        self._bar.update(self._task, description=doing, completed=position, total=total or None, text=text)

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            self._bar.stop()
