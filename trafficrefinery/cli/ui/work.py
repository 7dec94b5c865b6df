"""Long work without packets: where it is done, and what it is at."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from trafficrefinery.errors import UsageError
from trafficrefinery.replaying.tasks import connected

Group = Annotated[
    str, typer.Option(help="Label whose rows are never on both sides of a split: video_id, session, site.")
]
Jobs = Annotated[int, typer.Option(min=1, max=256, help="Processes, side by side.")]
Cluster = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster, tcp://HOST:PORT.")]


def number_list(text: str, option: str) -> tuple[int, ...]:
    """Numbers between commas; none of an empty text.

    Raises:
        UsageError: it is something else.
    """
    try:
        return tuple(int(one) for one in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f'{option}: "{text}" is no list of numbers, such as 240,360,480') from None


@contextlib.contextmanager
def parallel(cluster: str | None) -> Iterator[None]:
    """Where joblib's work is done."""
    if cluster is None:
        yield
        return
    import joblib

    with connected(cluster), joblib.parallel_config("dask"):
        yield


@contextlib.contextmanager
def progress_of(quiet: bool) -> Iterator[Callable[[str], None]]:
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading") as status:
        yield status.update


@contextlib.contextmanager
def traces_bar(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, moved by the traces that are done and those that there are."""
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("traces"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("traces", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
