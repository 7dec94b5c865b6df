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
from trafficrefinery.models.dataset.tables import FIRST_PACKETS, OPENED_BY
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

from .copies import Fingerprints, originals
from .groups import check_groups, dataset_warnings, group_values, joined, numbers_of

_LABEL, _UNIT, _ORIGINAL, _LEAST_SESSIONS = "_label", "_unit", "_original", 10
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
        by: the columns that the groups are of.
        warnings: what makes figures of this data say less than they seem to.
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
    by: tuple[str, ...]
    warnings: tuple[str, ...] = ()

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

    def units_named(self) -> pl.Series:
        """What tells the unit of each row from all others of the table."""
        return _without_features(self.table).select(_key(UNITS[self.target.unit]).alias(_UNIT)).to_series()


def read_dataset(
    path: Path, target: str | Target = RESOLUTION.name, groups: Sequence[str] = (), service: str | None = None,
    only: Collection[str] = (),
) -> Dataset:  # fmt: skip
    """Read a dataset of `dataset build` or `dataset import`; of a target that is answered once, one interval of each
    unit.

    Args:
        target: or its name, see `target_of_table`.
        groups: columns, see `group_columns`; rows that agree in any of them are never on both sides of a split, nor are
            units that are copies of each other. Empty: the target's.
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
    frame = _without_features(table).with_columns(_key(unit).alias(_UNIT))
    frame = frame.with_columns(pl.Series(_LABEL, pl.Series(table[asked.label_column]))).with_row_index("_row")
    by = tuple(dict.fromkeys(groups)) or asked.groups
    check_groups(by, table.schema, f"--group: {path}")
    columns = tuple(field.name for field in table.schema if group_of(field))
    if not columns:
        raise UsageError(f"{path}: has no features; make it with `trafficrefinery dataset build`")
    if service is not None:
        frame = _of_service(frame, service, path)
    frame = _with_originals(frame, table, columns)
    frame = _labelled(frame, asked, only, path).sort(_UNIT, "ts_start")
    chosen = table.take(frame["_row"].to_numpy())
    _check_finite(chosen, columns, path)
    lengths = (frame["ts_end"] - frame["ts_start"]).round(6).unique()
    if len(lengths) != 1:
        raise UsageError(f"{path}: has intervals of different lengths ({', '.join(f'{one:g}s' for one in lengths)})")
    labels = asked.ordered(frame[_LABEL].to_list()) if asked.has_labels else ()
    place = {label: number for number, label in enumerate(labels)}
    truth = np.array([place[one] for one in frame[_LABEL].to_list()]) if labels else frame[_LABEL].to_numpy()
    numbers = [numbers_of(group_values(chosen, one).fill_null(frame[_UNIT])) for one in by]
    number = joined([*numbers, numbers_of(frame[_ORIGINAL])])
    warnings = (*_copies_said(frame, path), *dataset_warnings(chosen, truth, labels, number, by, asked.name))
    return Dataset(
        str(path), chosen, columns, asked, truth, labels, number, numbers_of(frame[_UNIT]), float(lengths[0]),
        sha256_of(path), by, warnings,
    )  # fmt: skip


def _without_features(table: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(table.select([name for name in table.column_names if "." not in name]))


def _with_originals(frame: pl.DataFrame, table: pa.Table, columns: tuple[str, ...]) -> pl.DataFrame:
    """Add the unit that each row's unit is a copy of, or is itself."""
    chosen = table.take(frame["_row"].to_numpy())
    features = (feature_matrix(chosen, (name,))[:, 0] for name in columns)
    units = numbers_of(frame[_UNIT])
    found = originals(units, Fingerprints.of(features, frame["ts_start"].to_numpy()))
    return frame.with_columns(pl.Series(_ORIGINAL, found))


def _copies_said(frame: pl.DataFrame, path: Path) -> list[str]:
    copies = frame.group_by(_ORIGINAL).agg(pl.col(_UNIT).unique().sort()).filter(pl.col(_UNIT).list.len() > 1)
    if not len(copies):
        return []
    first, second = (one.replace("\n", " ") for one in copies.sort(_ORIGINAL)[_UNIT][0].to_list()[:2])
    many = int(copies[_UNIT].list.len().sum()) - len(copies)
    what = "is a copy of another" if many == 1 else "are copies of others"
    return [(f"{path}: {many} of {frame[_UNIT].n_unique()} {what}, such as {second} of {first}; they are never on both "
             "sides of a split")]  # fmt: skip


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
