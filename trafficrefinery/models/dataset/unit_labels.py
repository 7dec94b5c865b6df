"""Label files of flows and of clients: lines that say what they are of, and which rows of a table these are."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from trafficrefinery.capture.traces.discovery import is_named_as_trace
from trafficrefinery.errors import UsageError, did_you_mean
from trafficrefinery.models.targets import UNITS, Target
from trafficrefinery.models.targets.label_columns import label_field
from trafficrefinery.models.targets.target import LABEL_PREFIX
from trafficrefinery.models.units.views import UnitView
from trafficrefinery.records.inferences import FLOW

from .community_id import COMMUNITY_ID, with_community_id
from .intervals import TIMES
from .label_rows import read_label_rows
from .labels import match_files, own_targets, read_own
from .tables import GROUP_PREFIX

FILE = "file"
_CLIENT_KEYS = ("service", "client_ip")
_FLOW_KEYS = (*_CLIENT_KEYS, "client_port", "server_ip", "server_port", "protocol", "flow_id", COMMUNITY_ID)
_SHOWN = 5


class UnitLabel(NamedTuple):
    """A line of labels.

    Args:
        where: it stands.
        file: the trace; empty: any.
        keys: columns of a table, and the values that its rows must have.
        times: from and until when it holds, s since the epoch; infinite where that is not given.
        own: columns of targets, and labels or numbers; None where it is not given.
        groups: columns of groups, and names.
    """

    where: str
    file: str
    keys: tuple[tuple[str, str | int], ...]
    times: tuple[float, float]
    own: tuple[tuple[str, str | float | None], ...]
    groups: tuple[tuple[str, str | None], ...]


class UnitLabels(NamedTuple):
    """The labels of the flows or clients of a trace.

    Args:
        name: of the trace, as labels have it.
        labels: those that hold in this trace.
        targets, groups: that there are labels of, in any trace.
    """

    name: str
    labels: tuple[UnitLabel, ...]
    targets: tuple[Target, ...]
    groups: tuple[str, ...]
    unit: str

    @classmethod
    def of_traces(
        cls, directory: Path, labels_file: Path, unit: str, defined: Mapping[str, Target]
    ) -> dict[Path, UnitLabels]:
        """The traces in a directory, and the labels of each.

        Raises:
            UsageError: the label file is wrong, or labels and traces do not fit.
        """
        columns, rows = read_label_rows(labels_file)
        targets = own_targets(columns, defined, labels_file)
        _check_columns(labels_file, columns, unit)
        labels = [_label(row, where, targets) for where, row in rows]
        files = list(dict.fromkeys(label.file for label in labels if label.file))
        if any(not label.file for label in labels) and directory.is_dir():
            files += [path.name for path in sorted(directory.iterdir())
                      if is_named_as_trace(path) and path.name not in files]  # fmt: skip
        traces = match_files(directory, files, labels_file)
        if not labels or not traces:
            raise UsageError(f"{labels_file}: has no label of a trace in {directory}")
        groups = tuple(name for name in columns if name.startswith(GROUP_PREFIX))
        return {
            trace: cls(
                file, tuple(one for one in labels if one.file in ("", file)), tuple(targets.values()), groups, unit
            )
            for file, trace in zip(files, traces, strict=True)
        }

    def told(self) -> list[Any]:
        """All that a table depends on, as JSON values."""
        return [self.name, self.labels, [one.as_json() for one in self.targets], self.groups, self.unit]

    def check(self, view: UnitView, where: str, file: str) -> None:
        """Nothing can be wrong: lines that fit no row are reported."""

    def schema(self, rows: pa.Schema) -> pa.Schema:
        """The columns of the dataset: labels, then those of flows or clients."""
        own = [pa.field(name, pa.string(), metadata={"doc": "label: a group of rows"}) for name in self.groups]
        file = pa.field(FILE, pa.string(), metadata={"doc": "the trace that the row is from"})
        return pa.schema([file, *own, *map(label_field, self.targets), *rows], metadata=rows.metadata)

    def labelled(self, table: pa.Table) -> tuple[pa.Table, list[str]]:
        """The rows that have a label, with their labels; and the lines that fit no row.

        Of several lines that fit, that with the most keys counts, and of these the one that begins nearest to the row.

        Raises:
            UsageError: two lines fit a row alike, and differ.
        """
        frame = pl.DataFrame(table).with_row_index("_row")
        if any(key == COMMUNITY_ID for label in self.labels for key, _ in label.keys):
            frame = with_community_id(frame)
        fits = self._fits(frame)
        chosen = self._chosen(fits)
        made = self.schema(table.schema)
        rows = table.take(pa.array(chosen["_row"].to_numpy()))
        number = chosen["_label"].to_list()
        columns: dict[str, list[Any]] = {FILE: [self.name] * len(rows)}
        for one in (*self.groups, *(target.label_column for target in self.targets)):
            values = [dict((*label.own, *label.groups)).get(one) for label in self.labels]
            columns[one] = [values[at] for at in number]
        arrays = [
            pa.array(columns[field.name], field.type) if field.name in columns else rows[field.name] for field in made
        ]
        return pa.table(arrays, schema=made), self._absent(set(fits["_label"].to_list()))

    def _fits(self, frame: pl.DataFrame) -> pl.DataFrame:
        """All pairs of a row and a label that fit: `_row`, `_label`, and what ranks them."""
        begin = pl.max_horizontal("ts_start", "flow_start") if self.unit == FLOW else pl.col("ts_start")
        frame = frame.with_columns(begin.alias("_begin"))
        by_keys: dict[tuple[str, ...], list[int]] = {}
        for number, label in enumerate(self.labels):
            by_keys.setdefault(tuple(key for key, _ in label.keys), []).append(number)
        parts = []
        for keys, numbers in by_keys.items():
            given = pl.DataFrame({
                "_label": numbers, "_from": [self.labels[one].times[0] for one in numbers],
                "_until": [self.labels[one].times[1] for one in numbers],
                **{key: [self.labels[one].keys[at][1] for one in numbers] for at, key in enumerate(keys)},
            })  # fmt: skip
            ways = [given]
            if set(keys) >= set(_OTHER_END):
                ways.append(given.with_columns(pl.col(other).alias(key) for key, other in _OTHER_END.items()))
            for one in ways:
                rows = frame.select("_row", "_begin", "ts_end", *keys)
                found = rows.join(one, on=list(keys)) if keys else rows.join(one, how="cross")
                parts.append(found.filter((pl.col("_begin") < pl.col("_until")) & (pl.col("ts_end") > pl.col("_from")))
                             .select("_row", "_label", pl.lit(-len(keys)).alias("_keys"),
                                     (pl.col("_from") - pl.col("_begin")).abs().alias("_away")))  # fmt: skip
        return pl.concat(parts).unique(["_row", "_label"]).sort("_row", "_keys", "_away", "_label")

    def _chosen(self, fits: pl.DataFrame) -> pl.DataFrame:
        """The label of each row."""
        best = fits.group_by("_row", maintain_order=True).first()
        ties = fits.join(best, on=("_row", "_keys", "_away"), suffix="_best")
        for first, other in ties.select("_label_best", "_label").unique().sort(pl.all()).iter_rows():
            one, two = self.labels[first], self.labels[other]
            if (one.own, one.groups) != (two.own, two.groups):
                raise UsageError(f"{two.where}: fits the same rows as {one.where}, with other labels; name more keys")
        return best

    def _absent(self, used: set[int]) -> list[str]:
        named = [(number, label) for number, label in enumerate(self.labels) if label.file]
        absent = [label.where for number, label in named if number not in used]
        if not absent:
            return []
        more = f" and {len(absent) - _SHOWN:,} more" if len(absent) > _SHOWN else ""
        return [f"{self.name}: no {self.unit} in it fits {', '.join(absent[:_SHOWN])}{more}"]


_OTHER_END = {
    "client_ip": "server_ip", "server_ip": "client_ip", "client_port": "server_port", "server_port": "client_port",
}  # fmt: skip


def _check_columns(path: Path, columns: Sequence[str], unit: str) -> None:
    known = (FILE, *TIMES, *(_FLOW_KEYS if unit == FLOW else _CLIENT_KEYS))
    if not any(name.startswith(LABEL_PREFIX) for name in columns):
        raise UsageError(f"{path}: no column {LABEL_PREFIX}NAME; the first line must name one")
    for name in columns:
        if name not in known and not (name.startswith((LABEL_PREFIX, GROUP_PREFIX)) and name != GROUP_PREFIX):
            hint = did_you_mean(name, known)
            hint = hint or f"; {UNITS[unit].many} have {', '.join(known)}, {LABEL_PREFIX}NAME and {GROUP_PREFIX}NAME"
            raise UsageError(f'{path}: no such column "{name}"{hint}')


def _label(row: Mapping[str, str], where: str, targets: Mapping[str, Target]) -> UnitLabel:
    keys = tuple((name, _read(row[name], name, where)) for name in _FLOW_KEYS if row.get(name))
    begin, until = (
        _seconds(row.get(name, ""), f"{where}: {name}", default) for name, default in zip(TIMES, _ALWAYS, strict=True)
    )
    if until < begin:
        raise UsageError(f"{where}: ts_end: is before ts_start")
    return UnitLabel(
        where, os.path.normpath(row[FILE]) if row.get(FILE) else "", keys, (begin, until),
        read_own(row, targets, where),
        tuple((name, value or None) for name, value in row.items() if name.startswith(GROUP_PREFIX)),
    )  # fmt: skip


_ALWAYS = (-math.inf, math.inf)


def _seconds(text: str, where: str, default: float) -> float:
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise UsageError(f'{where}: "{text}" is not a number of seconds')
    return seconds


def _read(text: str, name: str, where: str) -> str | int:
    read, what = _FORMS.get(name, (str, ""))
    try:
        return read(text)
    except (ValueError, KeyError):
        raise UsageError(f'{where}: {name}: "{text}" is not {what}') from None


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 0xFFFF:
        raise ValueError
    return int(text)


def _protocol(text: str) -> str:
    return {"tcp": "tcp", "udp": "udp", "6": "tcp", "17": "udp"}[text.lower()]


def _community(text: str) -> str:
    if not text.startswith("1:"):
        raise ValueError
    return text


_FORMS: dict[str, tuple[Callable[[str], str | int], str]] = {
    "client_ip": (_address, "an IP address"), "server_ip": (_address, "an IP address"),
    "client_port": (_port, "a port"), "server_port": (_port, "a port"), "protocol": (_protocol, "tcp or udp"),
    COMMUNITY_ID: (_community, "a Community ID of version 1, such as 1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
}  # fmt: skip
"""For each key, how it is read, and what it must be, in words."""
