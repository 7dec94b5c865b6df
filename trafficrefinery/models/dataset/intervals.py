"""Label files beside traces: what was true in each interval of a session."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from trafficrefinery.errors import UsageError
from trafficrefinery.models.targets import Target
from trafficrefinery.models.targets.target import LABEL_PREFIX

from .label_rows import read_label_rows
from .labels import Label, own_targets, read_own, read_resolution, trace_stem

SUFFIX = ".labels.csv"
TIMES = ("ts_start", "ts_end")
VIDEO = ("resolution", "downloaded_resolution", "stalls", "stalled_s", "switches", "buffer_s")
COLUMNS = (*TIMES, *VIDEO)
CLIENT = "client_ip"
"""A first column for traces in which several clients play."""
_HEADS = (COLUMNS, (CLIENT, *COLUMNS), TIMES, (CLIENT, *TIMES))
_SHORTEST_MS = 1


class IntervalLabel(NamedTuple):
    """The labels of one interval, times in s since the epoch; None where a file has none of video.

    Args:
        resolution: that was on the screen for most of the time in which something played; None where nothing did.
        downloaded_resolution: of most of the video bytes whose segment was complete in it; None where none was.
        stalls: that began in it; `stalled_s` is the time of stalls in it. The start of the session is no stall.
        switches: changes of what is on the screen.
        buffer_s: media that is buffered at its end, or at the session's.
        client_ip: empty where the trace has one client.
        own: columns of the user's targets, and labels or numbers.
    """

    ts_start: float
    ts_end: float
    resolution: int | None = None
    downloaded_resolution: int | None = None
    stalls: int | None = None
    stalled_s: float | None = None
    switches: int | None = None
    buffer_s: float | None = None
    client_ip: str = ""
    own: tuple[tuple[str, str | float | None], ...] = ()


def interval_labels_path(trace: Path) -> Path:
    """Where the label file of a trace is, if it has one."""
    return trace.with_name(trace_stem(trace.name) + SUFFIX)


def read_intervals(path: Path, resolutions: Collection[int], targets: Mapping[str, Target] = {}) -> list[IntervalLabel]:
    """The rows of a label file, which lie on a grid of their own: all as long, at multiples of that.

    Args:
        targets: that the user defined, by name.

    Raises:
        UsageError: the file, or a line of it, is wrong.
    """
    columns, found = read_label_rows(path)
    own = _own_columns(columns, path, targets)
    rows = [_row(row, where, resolutions, own) for where, row in found]
    seen: set[tuple[str, float]] = set()
    for row in rows:
        if _length_ms(row) != _length_ms(rows[0]):
            raise UsageError(
                f"{path}: {row.ts_start:g} to {row.ts_end:g} is not as long as the others; give all the same length"
            )
        if (row.client_ip, row.ts_start) in seen:
            raise UsageError(f"{path}: ts_start: {row.ts_start:.0f} stands there twice")
        seen.add((row.client_ip, row.ts_start))
    if not any(row.resolution or any(value is not None for _, value in row.own) for row in rows):
        raise UsageError(
            f"{path}: has no label; take the line of its trace out of the labels, and move the trace elsewhere"
        )
    return rows


def _own_columns(columns: Sequence[str], path: Path, targets: Mapping[str, Target]) -> dict[str, Target]:
    """The columns of the user's targets, in a first line that is as it must be."""
    own = own_targets(columns, targets, path)
    others = tuple(name for name in columns if name not in own)
    if others not in _HEADS[: 4 if own else 2]:
        raise UsageError(
            f"{path}: the first line must be {','.join(COLUMNS)}, or have {CLIENT} before these; in place of what "
            f"follows the times, or behind it, it may have {LABEL_PREFIX}NAME"
        )
    return own


def _row(row: dict[str, str], where: str, resolutions: Collection[int], own: Mapping[str, Target]) -> IntervalLabel:
    numbers: dict[str, Any] = {CLIENT: row.get(CLIENT, "")}
    numbers["own"] = read_own(row, own, where)
    for name in COLUMNS:
        if name not in row:
            continue
        text = row[name]
        if name.endswith("resolution"):
            numbers[name] = read_resolution(text, f"{where}: {name}", resolutions) if text else None
        else:
            numbers[name] = _number(text, f"{where}: {name}", whole=name in ("stalls", "switches"))
    found = IntervalLabel(**numbers)
    length_ms = _length_ms(found)
    if length_ms < _SHORTEST_MS or round(found.ts_start * 1e3) % length_ms:
        raise UsageError(
            f"{where}: {row['ts_start']} to {row['ts_end']} is not an interval: "
            "it does not start at a multiple of its length"
        )
    return found


def _length_ms(row: IntervalLabel) -> int:
    return round((row.ts_end - row.ts_start) * 1e3)


def _number(text: str, where: str, *, whole: bool) -> float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf:
        raise UsageError(f'{where}: "{text}" is not a {"number" if whole else "number of seconds"}')
    return number


def intervals_of(
    trace: Path, labels: Sequence[Label], labels_file: Path, resolutions: Collection[int], targets: Mapping[str, Target]
) -> list[IntervalLabel]:
    """The rows of the label file of a trace; none where its labels are of whole sessions.

    Raises:
        UsageError: a session has no label, or one stands in both files; see `read_intervals`.
    """
    path = interval_labels_path(trace)
    rows = read_intervals(path, resolutions, targets) if path.is_file() else []
    of_intervals = {column for column, _ in rows[0].own} if rows else set()
    if rows and rows[0].stalls is not None:
        of_intervals.add("resolution")
    for label in labels:
        if not rows and label.resolution is None and not label.own:
            raise UsageError(
                f"{labels_file}: {label.file}: resolution: is empty, and there is no label file {path.name} beside the "
                "trace; give one of them"
            )
        for column, value in (("resolution", label.resolution), *label.own):
            if value is not None and column in of_intervals:
                raise UsageError(
                    f"{labels_file}: {label.file}: {column}: stands there, and {path.name} has one for each interval; "
                    "leave it empty, or take it out of that file"
                )
    return rows


def with_intervals(frame: pl.DataFrame, rows: list[IntervalLabel]) -> pl.DataFrame:
    """Add the columns of label files to the intervals of a session, by their time, and their client where it is given.

    Labels of other lengths are shared out: an interval has the resolution of most of its time, its part of the time of
    stalls, and the counts of labels that start in it.
    """
    lengths_ms = ((frame["ts_end"] - frame["ts_start"]) * 1e3).round().cast(pl.Int64).unique()
    labels = _on_grid(rows, lengths_ms[0] if len(lengths_ms) else _length_ms(rows[0]))
    if rows[0].stalls is None:  # a file without video
        labels = labels.drop(VIDEO)
    by = ["start_ms", *([CLIENT] if any(row.client_ip for row in rows) else [])]
    frame = frame.with_columns((pl.col("ts_start") * 1e3).round().cast(pl.Int64).alias("start_ms"))
    found = frame.join(labels.drop({CLIENT} - set(by)), on=by, how="left", maintain_order="left")
    return found.drop("start_ms")


def _on_grid(rows: list[IntervalLabel], interval_ms: int) -> pl.DataFrame:
    """The labels of intervals of this length: `start_ms`, `client_ip`, and the columns but times."""
    types = {"stalls": pl.Int64, "switches": pl.Int64, "resolution": pl.Int64, "downloaded_resolution": pl.Int64}
    schema = {**{name: types.get(name, pl.Float64) for name in COLUMNS}, CLIENT: pl.String}
    labels = pl.DataFrame([row._replace(own=())._asdict() for row in rows], schema=schema)
    own = pl.DataFrame([dict(row.own) for row in rows], infer_schema_length=None) if rows[0].own else pl.DataFrame()
    labels = pl.concat([labels, own], how="horizontal")
    length_ms = _length_ms(rows[0])
    slot_ms = math.gcd(length_ms, interval_ms)
    slots = length_ms // slot_ms
    first = pl.col("slot") == 0
    labels = labels.with_columns(pl.lit(list(range(slots))).alias("slot")).explode("slot").with_columns(
        (((pl.col("ts_start") * 1e3).round().cast(pl.Int64) + pl.col("slot") * slot_ms) // interval_ms * interval_ms)
        .alias("start_ms"),
        pl.col("stalled_s") / slots,
        *(pl.when(first).then(pl.col(name)).otherwise(0).alias(name) for name in ("stalls", "switches")),
    )  # fmt: skip
    shown = pl.col("resolution", "downloaded_resolution")
    return labels.group_by("start_ms", CLIENT, maintain_order=True).agg(
        shown.drop_nulls().mode(maintain_order=True).first(),
        pl.col("stalls", "stalled_s", "switches").sum(),
        pl.col("buffer_s").last(),
        *(pl.col(name).mean() if kind.is_float() else pl.col(name).drop_nulls().mode(maintain_order=True).first()
          for name, kind in own.schema.items()),
    )  # fmt: skip
