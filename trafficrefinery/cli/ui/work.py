"""Long work without packets: where it is done, and what it is at."""

from __future__ import annotations

from typing import Annotated

import typer

from trafficrefinery.errors import UsageError

Group = Annotated[
    str,
    typer.Option(
        metavar="COLUMN,...",
        help="Label columns that are never on both sides of a split, such as video_id, site, group.NAME; "
        "default: those of the target.",
    ),
]
Jobs = Annotated[int, typer.Option(min=1, max=256, help="Number of processes.")]
Cluster = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster, tcp://HOST:PORT.")]


def names(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(filter(None, map(str.strip, text.split(","))))


def number_list(text: str, option: str) -> tuple[int, ...]:
    """Numbers between commas; none of an empty text.

    Raises:
        UsageError: it is something else.
    """
    try:
        return tuple(int(one) for one in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f'{option}: "{text}" is not a list of numbers, such as 240,360,480') from None
