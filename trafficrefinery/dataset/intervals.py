"""Label files beside traces: what was played in each interval of a session."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from trafficrefinery.errors import UsageError

from .labels import Label, read_resolution, trace_stem

SUFFIX = ".labels.csv"
COLUMNS = (
    "ts_start", "ts_end", "resolution", "downloaded_resolution", "stalls", "stalled_s", "switches", "buffer_s",
)  # fmt: skip
CLIENT = "client_ip"
"""A first column for traces in which several clients play."""
_TIME_SLACK_S = 1e-3


class IntervalLabel(NamedTuple):
    """The labels of one interval, times in s since the epoch.

    Args:
        resolution: that was on the screen for most of the time in which something played; None where nothing did.
        downloaded_resolution: of most of the video bytes whose segment was complete in it; None where none was.
        stalls: that began in it; `stalled_s` is the time of stalls in it. The start of the session is no stall.
        switches: changes of what is on the screen.
        buffer_s: media that is buffered at its end, or at the session's.
        client_ip: empty where the trace has one client.
    """

    ts_start: float
    ts_end: float
    resolution: int | None
    downloaded_resolution: int | None
    stalls: int
    stalled_s: float
    switches: int
    buffer_s: float
    client_ip: str = ""


def interval_labels_path(trace: Path) -> Path:
    """Where the label file of a trace is, if it has one."""
    return trace.with_name(trace_stem(trace.name) + SUFFIX)


def read_intervals(path: Path, resolutions: Collection[int], interval_s: float) -> list[IntervalLabel]:
    """The rows of a label file, which lie on the grid of intervals.

    Raises:
        UsageError: the file, or a line of it, is wrong.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            if tuple(reader.fieldnames or ()) not in (COLUMNS, (CLIENT, *COLUMNS)):
                raise UsageError(f"{path}: the first line must be {','.join(COLUMNS)}, or have {CLIENT} before these")
            rows = [_row(row, f"{path}:{reader.line_num}", resolutions, interval_s) for row in reader]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: is no CSV file in UTF-8: {error}") from error
    seen: set[tuple[str, float]] = set()
    for row in rows:
        if (row.client_ip, row.ts_start) in seen:
            raise UsageError(f"{path}: ts_start: {row.ts_start:.0f} stands there twice")
        seen.add((row.client_ip, row.ts_start))
    if not any(row.resolution for row in rows):
        raise UsageError(f"{path}: has no resolution; remove the trace and its label")
    return rows


def _row(row: dict[str, str], where: str, resolutions: Collection[int], interval_s: float) -> IntervalLabel:
    if None in row or None in row.values():
        raise UsageError(f"{where}: has not as many values as the first line has names")
    numbers: dict[str, Any] = {CLIENT: row.get(CLIENT, "").strip()}
    for name in COLUMNS:
        text = row[name].strip()
        if name.endswith("resolution"):
            numbers[name] = read_resolution(text, f"{where}: {name}", resolutions) if text else None
        else:
            numbers[name] = _number(text, f"{where}: {name}", whole=name in ("stalls", "switches"))
    found = IntervalLabel(**numbers)
    on_grid = abs(found.ts_start / interval_s - round(found.ts_start / interval_s)) * interval_s < _TIME_SLACK_S
    if not on_grid or abs(found.ts_end - found.ts_start - interval_s) > _TIME_SLACK_S:
        raise UsageError(
            f"{where}: {row['ts_start']} to {row['ts_end']} is no interval of the configuration, which start at "
            f"multiples of {interval_s:g} s and last as long"
        )
    return found


def _number(text: str, where: str, *, whole: bool) -> float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf:
        raise UsageError(f'{where}: "{text}" is no {"number" if whole else "number of seconds"}')
    return number


def check_labelled(trace: Path, label: Label, labels_file: Path) -> Path | None:
    """The label file of a trace, None where its label has the resolution.

    Raises:
        UsageError: there is neither, or both.
    """
    path = interval_labels_path(trace)
    if label.resolution is None and not path.is_file():
        raise UsageError(
            f"{labels_file}: {label.file}: resolution: is empty, and there is no label file {path.name} beside the "
            "trace; give one of them"
        )
    if label.resolution is not None and path.is_file():
        raise UsageError(
            f"{labels_file}: {label.file}: resolution: stands there, and {path.name} has one for each interval; "
            "leave it empty, or remove that file"
        )
    return path if label.resolution is None else None


def with_intervals(frame: pl.DataFrame, rows: list[IntervalLabel]) -> pl.DataFrame:
    """Add the columns of label files to session-intervals, by their start, and their client where it is given."""
    types = {"stalls": pl.Int64, "switches": pl.Int64, "resolution": pl.Int64, "downloaded_resolution": pl.Int64}
    schema = {CLIENT: pl.String, **{name: types.get(name, pl.Float64) for name in COLUMNS}}
    labels = pl.DataFrame([row._asdict() for row in rows], schema=schema).with_columns(_start_ms("ts_start"))
    by = ["start_ms", *([CLIENT] if any(row.client_ip for row in rows) else [])]
    labels = labels.drop("ts_start", "ts_end", *({CLIENT} - set(by)))
    frame = frame.with_columns(_start_ms("ts_start"))
    return frame.join(labels, on=by, how="left", maintain_order="left").drop("start_ms")


def _start_ms(name: str) -> pl.Expr:
    """Times as whole numbers, which can be compared."""
    return (pl.col(name) * 1e3).round().cast(pl.Int64).alias("start_ms")
