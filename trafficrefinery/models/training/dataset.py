"""Datasets of labelled rows of sessions, flows or clients, checked, as matrices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from trafficrefinery.api.sessions import APPLICATION, GROUPS, NETWORK, TRANSPORT
from trafficrefinery.config.model import MEDIA
from trafficrefinery.errors import UsageError, did_you_mean
from trafficrefinery.models.dataset.tables import FIRST_PACKETS, GROUP_PREFIX, LABEL_COLUMNS, OPENED_BY
from trafficrefinery.models.inference import feature_matrix
from trafficrefinery.models.inference.bundle import column_units
from trafficrefinery.models.sessions import SessionRegistry
from trafficrefinery.models.sessions.provenance import Provenance
from trafficrefinery.models.targets import RESOLUTION, UNITS, Target, Unit
from trafficrefinery.models.targets.label_columns import labels_as_text, target_of_table
from trafficrefinery.models.targets.units import END, PACKETS, SECONDS
from trafficrefinery.models.units.flow_columns import unit_name
from trafficrefinery.records.inferences import SESSION
from trafficrefinery.records.reading import read_given_table
from trafficrefinery.system.files import sha256_of

_LABEL, _GROUP, _UNIT, _LEAST_SESSIONS = "_label", "_group.", "_unit", 10
STARTUP_COLUMNS = "application.start_"
FEATURE_SETS = {
    "net": (NETWORK,), "transport": (TRANSPORT,), "app": (APPLICATION,), "net+app": (NETWORK, APPLICATION),
    "all": GROUPS,
}  # fmt: skip
"""The feature sets of the paper's comparison, by the groups of their columns; a group of a user is one as well."""


class Dataset(NamedTuple):
    """Labelled rows of one table.

    Args:
        table: the rows, ordered by unit and time.
        columns: the features.
        target: that the labels are of.
        truth: int64 places in `labels`, or float64 quantities.
        labels: that there are, in the target's order; none of a quantity.
        groups: int64, rows with the same number are never on both sides of a split.
        sessions: int64, number of the session, flow or client of each row.
        sha256: of the file.
    """

    file: str
    table: pa.Table
    columns: tuple[str, ...]
    target: Target
    truth: NDArray[Any]
    labels: tuple[str, ...]
    groups: NDArray[np.int64]
    sessions: NDArray[np.int64]
    interval_s: float
    sha256: str

    @property
    def first_packets(self) -> int | None:
        """Of each flow and interval, that the features are made from; None: all."""
        told = (self.table.schema.metadata or {}).get(FIRST_PACKETS)
        return int(told) if told else None

    @property
    def opened_by(self) -> str:
        """What opened the sessions."""
        return str((self.table.schema.metadata or {}).get(OPENED_BY, MEDIA.encode()).decode())

    def matrix(self, columns: tuple[str, ...]) -> NDArray[np.float32]:
        """Features, (rows, columns); NaN where they were not observed."""
        return feature_matrix(self.table, columns)

    def units(self) -> dict[str, str]:
        """Of each column."""
        return column_units(self.table.schema)

    def made_by(self) -> dict[str, Provenance]:
        """What each column is made by; of a table that does not say so, the built-in session feature of that name."""
        said = {field.name: Provenance.of(field) for field in self.table.schema}
        known = SessionRegistry().made_by
        return known | {name: one for name, one in said.items() if one is not None}

    def take(self, rows: NDArray[np.intp]) -> Dataset:
        """Some of the rows."""
        return self._replace(
            table=self.table.take(rows), truth=self.truth[rows], groups=self.groups[rows],
            sessions=self.sessions[rows],
        )  # fmt: skip


def read_dataset(
    path: Path, target: str | Target = RESOLUTION.name, groups: Sequence[str] = (), service: str | None = None,
    only: Collection[str] = (),
) -> Dataset:  # fmt: skip
    """Read a dataset of `dataset build` or `dataset import`; of a target that is answered once, one interval of each
    unit.

    Args:
        target: or its name, see `target_of_table`.
        groups: label columns; rows that agree in any of them are never on both sides of a split. Empty: the target's.
        service: only this one.
        only: only rows with these labels; empty: all.

    Raises:
        UsageError: the file is none, has no rows with labels, a feature is NaN or infinite, there is no such group, or
            its rows are of other units than the target.
    """
    table = _read(path)
    unit = UNITS[unit_name(table.schema, SESSION)]
    asked = target if isinstance(target, Target) else target_of_table(target, table.schema, path)
    if asked.label_column not in table.column_names:
        target_of_table(asked.name, table.schema, path)  # raises
    if asked.unit != unit.name:
        raise UsageError(f"{path}: is a table of {unit.many}, but {asked.name} is asked of {UNITS[asked.unit].many}")
    frame = pl.DataFrame(table.select([name for name in table.column_names if "." not in name]))
    frame = frame.with_columns(_key(unit).alias(_UNIT))
    frame = frame.with_columns(pl.Series(_LABEL, pl.Series(table[asked.label_column]))).with_row_index("_row")
    groups = tuple(groups) or asked.groups
    frame = _with_groups(frame, table, groups, path)
    if service is not None:
        frame = _of_service(frame, service, path)
    frame = _labelled(frame, asked, only, path).sort(_UNIT, "ts_start")
    chosen = table.take(frame["_row"].to_numpy())
    columns = tuple(field.name for field in table.schema if group_of(field))
    if not columns:
        raise UsageError(f"{path}: has no features; make it with `trafficrefinery dataset build`")
    _check_finite(chosen, columns, path)
    lengths = (frame["ts_end"] - frame["ts_start"]).round(6).unique()
    if len(lengths) != 1:
        raise UsageError(f"{path}: has intervals of different lengths ({', '.join(f'{one:g}s' for one in lengths)})")
    labels = asked.ordered(frame[_LABEL].to_list()) if asked.has_labels else ()
    place = {label: number for number, label in enumerate(labels)}
    truth = np.array([place[one] for one in frame[_LABEL].to_list()]) if labels else frame[_LABEL].to_numpy()
    return Dataset(
        str(path), chosen, columns, asked, truth, labels, _joined([frame[f"{_GROUP}{one}"] for one in groups]),
        _numbers(frame[_UNIT]), float(lengths[0]), sha256_of(path),
    )  # fmt: skip


def _read(path: Path) -> pa.Table:
    table = read_given_table(path, "is no Parquet file: {}; make one with `trafficrefinery dataset build`")
    unit = UNITS[unit_name(table.schema, SESSION)]
    named = "session" if unit.name == SESSION else "file"
    for name in (named, "ts_start", "ts_end", unit.id, unit.start, "service"):
        if name not in table.column_names:
            hint = did_you_mean(name, table.column_names)
            raise UsageError(f"{path}: has no column {name}{hint}; make it with `trafficrefinery dataset build`")
    return table


def _key(unit: Unit) -> pl.Expr:
    """The same for rows of one unit: of a session its label's name, else what identifies it in its file."""
    if unit.name == SESSION:
        return pl.col("session").cast(pl.String)
    return pl.concat_str("file", "service", unit.id, separator="\n")


def _of_service(frame: pl.DataFrame, service: str, path: Path) -> pl.DataFrame:
    known = frame["service"].unique().sort().to_list()
    if service not in known:
        raise UsageError(f'--service: {path} has no rows of "{service}"; there are {", ".join(known)}')
    return frame.filter(pl.col("service") == service)


def _with_groups(frame: pl.DataFrame, table: pa.Table, groups: Sequence[str], path: Path) -> pl.DataFrame:
    """Add the groups of rows; a row that has none is of the group of its unit."""
    texts = [name for name, (kind, _) in LABEL_COLUMNS.items() if pa.types.is_string(kind)]
    known = [name for name in table.column_names if name in texts or name.startswith(GROUP_PREFIX)]
    for group in groups:
        if group not in known:
            raise UsageError(f"--group: {path} has no column {group} of labels; there are {', '.join(known)}")
    return frame.with_columns(
        pl.Series(f"{_GROUP}{one}", pl.Series(table[one]).cast(pl.String)).fill_null(frame[_UNIT]) for one in groups
    )


def _labelled(frame: pl.DataFrame, target: Target, only: Collection[str], path: Path) -> pl.DataFrame:
    """The rows from which the target can be learnt, their labels as text or as float64."""
    if not len(frame):
        raise UsageError(f"{path}: is empty; build it from traces with sessions")
    if "is_last" in frame.columns:
        frame = frame.filter(pl.col("is_last") == (target.when.at == END))
    kind = frame[_LABEL].dtype
    if kind.is_nested():
        raise UsageError(f"{path}: {target.label_column}: holds {kind}; write one label in each row")
    if target.has_labels:
        frame = frame.with_columns(labels_as_text(frame[_LABEL]))
    elif kind.is_numeric() or kind == pl.Null:
        frame = frame.with_columns(pl.col(_LABEL).cast(pl.Float64).fill_nan(None))
        if frame[_LABEL].is_infinite().any():
            raise UsageError(f"{path}: {target.label_column}: has infinite numbers; write null for what is not known")
    else:
        raise UsageError(f"{path}: {target.label_column}: holds {kind}, but {target.name} is a quantity; give numbers")
    kept = frame.filter(pl.col(_LABEL).is_not_null())
    if target.has_labels:
        kept = _of_labels(kept, target, only, path)
    if target.is_once:
        kept = _answered_once(kept, target)
    count, many = kept[_UNIT].n_unique(), UNITS[target.unit].many
    if (target.is_once or not target.has_labels) and count < _LEAST_SESSIONS:
        raise UsageError(
            f"{path}: has {count} {many} with {target.label_column}, ten are needed; add them to labels.csv"
        )
    if target.has_labels and kept[_LABEL].n_unique() < 2:
        raise UsageError(
            f"{path}: all rows have the {target.name} {kept[_LABEL][0]}; nothing can be learnt from one class"
        )
    return kept


def _of_labels(frame: pl.DataFrame, target: Target, only: Collection[str], path: Path) -> pl.DataFrame:
    if not len(frame):
        raise UsageError(f"{path}: no row has a {target.name}; build it with labels")
    said = frame[_LABEL].unique().sort().to_list()
    read = {text: str(target.read(text, f"{path}: {target.label_column}")) for text in said}
    frame = frame.with_columns(pl.col(_LABEL).replace_strict(read, return_dtype=pl.String))
    there = sorted(set(read.values()))
    missing = [one for one in only if one not in there]
    if missing:
        known = ", ".join(target.ordered(there))
        raise UsageError(f'--only: {path} has no rows of {target.name} "{missing[0]}"; there are {known}')
    return frame.filter(pl.col(_LABEL).is_in(list(only))) if only else frame


def _answered_once(frame: pl.DataFrame, target: Target) -> pl.DataFrame:
    """The interval of each unit in which a target is answered that is answered once, see `Asked.due`."""
    ordered, after = frame.sort("ts_start"), target.when.after
    if target.when.at == SECONDS:
        start = pl.col(UNITS[target.unit].start)
        ordered = ordered.filter((pl.col("ts_end") - start >= after) & (pl.col("ts_start") - start < after))
    elif target.when.at == PACKETS:
        ordered = ordered.filter(pl.col("packets").fill_null(0).cum_sum().over(_UNIT) >= after)
    return ordered.group_by(_UNIT, maintain_order=True).first()


def _joined(groups: Sequence[pl.Series]) -> NDArray[np.int64]:
    """The same number for rows that agree in any of the groups, directly or by way of others."""
    numbers = [_numbers(group) for group in groups]
    joined, changed = numbers[0], len(numbers) > 1
    while changed:
        before = joined
        for number in numbers:
            least = np.full(int(number.max()) + 1, len(joined))
            np.minimum.at(least, number, joined)
            joined = least[number]
        changed = bool((joined != before).any())
    return joined


def _check_finite(table: pa.Table, columns: tuple[str, ...], path: Path) -> None:
    for name in columns:
        column = table.column(name)
        if pa.types.is_floating(column.type):
            wrong = np.flatnonzero(~np.isfinite(column.to_numpy()) & column.is_valid().to_numpy())
            if len(wrong):
                row = int(wrong[0])
                raise UsageError(f"{path}: {name}: is {column[row]} in row {row}; write null for what was not observed")


def group_of(field: pa.Field) -> str:
    """The feature group of a column: of `group.name`, or as a published column tells; empty for what is no feature."""
    group = (field.metadata or {}).get(b"group", b"").decode() or field.name.partition(".")[0]
    is_feature = group in GROUPS or Provenance.of(field) is not None
    return group if is_feature and "." in field.name else ""


def _numbers(names: pl.Series) -> NDArray[np.int64]:
    return names.rank("dense").cast(pl.Int64).to_numpy() - 1


def default_features(target: Target) -> str:
    """The feature set of models for which none is named."""
    return "net+app" if target.unit == SESSION else "all"


def feature_set(dataset: Dataset, name: str, collect: Collection[str] = ()) -> tuple[str, ...]:
    """The columns of a feature set that say something: not those that are null or the same everywhere.

    Args:
        collect: feature classes of flows that there are where the model is to run; empty: all.

    Raises:
        UsageError: there is no such set, or nothing in it.
    """
    known = tuple(dict.fromkeys(group_of(dataset.table.field(one)) for one in dataset.columns))
    sets = {**FEATURE_SETS, **{group: (group,) for group in known if group not in GROUPS}, "all": (*GROUPS, *known)}
    groups: tuple[str, ...] = ()
    for part in name.split("+"):
        if part not in sets:
            hint = did_you_mean(part, sets)
            raise UsageError(f'--features: no feature set "{part}"{hint}; there are {", ".join(sets)}')
        groups += sets[part]
    columns = tuple(one for one in dataset.columns if group_of(dataset.table.field(one)) in groups)
    if collect:
        given = {name for name, one in dataset.made_by().items() if set(one.needs) <= set(collect)}
        columns = tuple(one for one in columns if one in given)
    if not dataset.target.is_once:  # these have values in one interval of a session only
        columns = tuple(one for one in columns if not one.startswith(STARTUP_COLUMNS))
    x = dataset.matrix(columns)
    kept = []
    for number, column in enumerate(columns):
        seen = x[:, number][~np.isnan(x[:, number])]
        if len(seen) and (seen[0] != seen).any():
            kept.append(column)
    if not kept:
        raise UsageError(f"{dataset.file}: has nothing of the feature set {name}; collect more feature classes")
    return tuple(kept)
