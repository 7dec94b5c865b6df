"""The table of sessions that a replay prints: the resolution over time, as inferred."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from trafficrefinery.timelines import Run, Timelines

RUNS = 6
"""Of one session at most; a longer timeline is in the inference records."""


def timeline_table(timelines: Timelines, sessions: int) -> Table:
    """The first sessions of so many, a row each."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for title in ("session of", "client", "startup", "resolution, inferred"):
        table.add_column(title, justify="right" if title == "startup" else "left", overflow="fold")
    for one in timelines.kept.values():
        startup = "–" if one.startup_s is None else f"{one.startup_s:.1f} s"
        table.add_row(Text(one.service), one.client_ip, startup, told(one.runs))
    more = sessions - len(timelines.kept)
    if more > 0:
        table.add_row(Text(f"and {more:,} more", "dim"))
    return table


def told(runs: list[Run]) -> str:
    """`720p 0:00-1:20, 480p 1:20-2:00`; what the model abstained from is a question mark."""
    parts = [
        f"{'?' if run.resolution is None else f'{run.resolution}p'} {clock(run.from_s)}-{clock(run.to_s)}"
        for run in runs[:RUNS]
    ]
    return ", ".join([*parts, *(["..."] if len(runs) > RUNS else [])])


def clock(time_s: float) -> str:
    """Minutes and seconds, hours where there are any: 1:20, 1:00:05."""
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
