"""The table of sessions that a replay prints: what was inferred over time."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from trafficrefinery.errors import UsageError
from trafficrefinery.models.sessions.timelines import Timeline
from trafficrefinery.models.targets import RESOLUTION, Target
from trafficrefinery.models.targets.target import LABEL_PREFIX
from trafficrefinery.records.inferences import NOT_PLAYING
from trafficrefinery.system.files import open_text

from .lines import cell

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from trafficrefinery.models.sessions.timelines import Run, Timelines

_RESOLUTION = RESOLUTION.label_column
Truth = dict[str, list[tuple[float, float, dict[str, str]]]]
"""For each client: start and end of an interval, in s since the epoch, and the labels of the interval by column."""

RUNS = 6
"""Of one session at most; a longer timeline is in the inference records."""


def read_truth(path: Path) -> Truth:
    """What was right, by client: labels and their intervals, of a CSV file.

    Raises:
        UsageError: the file cannot be read, or lacks a column.
    """
    truth: Truth = {}
    try:
        with open_text(path, newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            labels = [name for name in reader.fieldnames or () if name == _RESOLUTION or name.startswith(LABEL_PREFIX)]
            if not labels:
                raise ValueError(f"has no {_RESOLUTION}")
            for row in reader:
                interval = (
                    float(row["ts_start"]),
                    float(row["ts_end"]),
                    {name: row[name] for name in labels if row[name]},
                )
                truth.setdefault(row["client_ip"], []).append(interval)
    except OSError as error:
        raise UsageError(f"--truth: {path}: cannot be read: {error.strerror}") from error
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        columns = f"client_ip, ts_start, ts_end, and {_RESOLUTION} or {LABEL_PREFIX}NAME"
        raise UsageError(f"--truth: {path}: must be a CSV file with the columns {columns}: {error}") from error
    return truth


def timeline_table(timelines: Timelines, sessions: int, truth: Truth | None = None) -> Table:
    """The first sessions of so many, a row each; with the truth below what was inferred."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    targets = sorted(timelines.targets, key=lambda target: target.has_labels)  # the timelines last: they are the widest
    for title in ("session of", "client", *(target.name for target in targets)):
        table.add_column(title, overflow="fold")
    for one in timelines.kept.values():
        answers = [_answer(one, target, None if truth is None else truth.get(one.client_ip, [])) for target in targets]
        table.add_row(cell(one.service), one.client_ip, *answers)
    more = sessions - len(timelines.kept)
    if more > 0:
        table.add_row(Text(f"and {more:,} more", "dim"))
    return table


def _answer(one: Timeline, target: Target, truth: list[tuple[float, float, dict[str, str]]] | None) -> Text:
    """What was inferred of a session; of a quantity the mean."""
    from rich.text import Text

    if not target.has_labels:
        found = one.quantities.get(target.name)
        return cell(f"{sum(found) / len(found):.1f} {target.measured_in}".rstrip() if found else "–")
    runs = one.runs.get(target.name)
    if not runs:
        return cell("–")
    inferred = told(runs, target)
    if truth is None:
        return cell(inferred)
    right = Timeline(one.service, one.client_ip, one.session_start)
    last_s = one.session_start + runs[-1].to_s
    for ts_start, ts_end, labels in truth:
        if one.session_start < ts_end <= last_s and target.label_column in labels:
            right.add(target.name, labels[target.label_column], ts_start, ts_end)
    real = told(right.runs.get(target.name, []), target) or "unknown"
    return Text("\n").join((cell(f"inferred {inferred}"), cell(f"truth    {real}")))


def told(runs: list[Run], target: Target) -> str:
    """`720p 0:00-1:20, 480p 1:20-2:00`; what the model abstained from is a question mark."""
    parts = [f"{_shown(run.label, target)} {clock(run.from_s)}-{clock(run.to_s)}" for run in runs[:RUNS]]
    return ", ".join([*parts, *(["..."] if len(runs) > RUNS else [])])


def _shown(label: str | None, target: Target) -> str:
    if label is None:
        return "?"
    return target.shown(label) if label else NOT_PLAYING


def clock(time_s: float) -> str:
    """Minutes and seconds, hours where there are any: 1:20, 1:00:05."""
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
