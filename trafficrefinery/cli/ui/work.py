"""Long work without packets: where it is done, and what it is at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from trafficrefinery.errors import UsageError

from .lines import say

Group = Annotated[
    str,
    typer.Option(
        metavar="COLUMN,...",
        help="Columns of which no value is on both sides of a split, such as video_id,site,group.NAME,day; "
        "default: those of the target.",
    ),
]
LeaveOut = Annotated[
    list[str] | None,
    typer.Option(
        "--leave-out",
        metavar="COLUMN[=VALUE]",
        help="Also report how good models are on each site, day or other group that they were not trained on: a label "
        "column, service, client_ip or day; may be repeated.",
    ),
]
Jobs = Annotated[int, typer.Option(min=1, max=256, help="Number of processes.")]
Cluster = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster, tcp://HOST:PORT.")]


def names(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(filter(None, map(str.strip, text.split(","))))


def warn_of(result: Mapping[str, Any]) -> None:
    """Say on standard error what makes figures say less than they seem to."""
    for line in result.get("warnings", ()):
        say(f"warning: {line}", err=True)


def number_list(text: str, option: str) -> tuple[int, ...]:
    """Numbers between commas; none of an empty text.

    Raises:
        UsageError: it is something else.
    """
    try:
        return tuple(int(one) for one in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f'{option}: "{text}" is not a list of numbers, such as 240,360,480') from None
