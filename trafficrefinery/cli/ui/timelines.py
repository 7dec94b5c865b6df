"""The table of sessions that a replay prints: the resolution over time, as inferred."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from trafficrefinery.errors import UsageError
from trafficrefinery.models.sessions.timelines import Timeline
from trafficrefinery.system.files import open_text

from .lines import cell

if TYPE_CHECKING:
    from rich.table import Table

    from trafficrefinery.models.sessions.timelines import Run, Timelines

Truth = dict[str, list[tuple[float, float, int]]]
"""Of each client: start and end of an interval in s since the epoch, and the resolution."""

RUNS = 6
"""Of one session at most; a longer timeline is in the inference records."""


def read_truth(path: Path) -> Truth:
    """What was played, by client: resolutions and their intervals, of a CSV file.

    Raises:
        UsageError: the file cannot be read, or lacks a column.
    """
    truth: Truth = {}
    try:
        with open_text(path, newline="", encoding="utf-8-sig") as opened:
            for row in csv.DictReader(opened):
                if row["resolution"]:
                    interval = float(row["ts_start"]), float(row["ts_end"]), int(row["resolution"])
                    truth.setdefault(row["client_ip"], []).append(interval)
    except OSError as error:
        raise UsageError(f"--truth: {path}: cannot be read: {error.strerror}") from error
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        columns = "client_ip, ts_start, ts_end, resolution"
        raise UsageError(f"--truth: {path}: must be a CSV file with the columns {columns}: {error}") from error
    return truth


def timeline_table(timelines: Timelines, sessions: int, truth: Truth | None = None) -> Table:
    """The first sessions of so many, a row each; with what was played below what was inferred."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for title in ("session of", "client", "startup", "resolution"):
        table.add_column(title, justify="right" if title == "startup" else "left", overflow="fold")
    for one in timelines.kept.values():
        startup = "–" if one.startup_s is None else f"{one.startup_s:.1f} s"
        inferred = told(one.runs)
        if truth is not None:
            played = Timeline(one.service, one.client_ip, one.session_start)
            last_s = one.session_start + one.runs[-1].to_s
            for ts_start, ts_end, resolution in truth.get(one.client_ip, []):
                if one.session_start < ts_end <= last_s:
                    played.add(resolution, ts_start, ts_end)
            inferred = f"inferred {inferred}\nplayed   {told(played.runs) or 'unknown'}"
        table.add_row(cell(one.service), one.client_ip, startup, inferred)
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
