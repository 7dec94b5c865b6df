"""Models on what was written before: records of flows, or tables of sessions, flows or clients."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from trafficrefinery.config import load_config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import UsageError
from trafficrefinery.models.targets import UNITS
from trafficrefinery.records.inferences import SESSION, inference_lines, inference_schema
from trafficrefinery.records.reading import is_parquet, read_batches, read_given_table, whole_lines
from trafficrefinery.records.sinks.base import File, Interval, Place
from trafficrefinery.records.sinks.opening import file_sink, raise_refused
from trafficrefinery.system.writing import make_directory

from .inference import Predictor, check_table, load_bundle
from .sessions import SessionRegistry, session_schema, sessions_of_lines
from .stream import Inferring, load_models
from .units.flow_columns import unit_name

_OF_ALL = ("ts_start", "ts_end", "service")
"""Columns of every table, beside those of its unit, features and labels."""


def infer_files(files: Sequence[Path], models: Sequence[Path], config: Path | None, out: Path | None) -> None:
    """Write inference records to a file, or to standard output.

    Args:
        files: records of flows, or one table of sessions, flows or clients, which needs no `config`.
        out: a file named .jsonl or .parquet.

    Raises:
        UsageError, BundleError: what does not fit.
        OutputError: `out` cannot be written.
    """
    if _table_unit(files[0]):
        predictor, made = _of_table(_only(files), models, config)
    else:
        predictor, made = _of_records(files, models, config)
    if out is None:
        for inferences in made:
            sys.stdout.buffer.write(inference_lines(inferences))
        sys.stdout.buffer.flush()
        return
    make_directory(out.parent)
    written = {"inferences": File(out.stem, partial(inference_schema, predictor.labels))}
    sink = file_sink(
        "Parquet" if out.suffix == ".parquet" else "JSONLines", Place(None, out.parent, out.parent, written)
    )
    try:
        for inferences in made:
            sink.write(Interval(0, [], [], inferences))
            raise_refused(sink)
        sink.close()
        raise_refused(sink)
    except BaseException:
        sink.abandon()
        raise


def _only(files: Sequence[Path]) -> Path:
    if len(files) > 1:
        raise UsageError(f"{files[1]}: one table is read at a time")
    return files[0]


def _table_unit(file: Path) -> str:
    """What the rows of a table are about; empty for records of flows."""
    if is_parquet(file):
        try:
            schema = pq.read_schema(file)
        except (OSError, pa.ArrowException) as error:
            raise UsageError(f"{file}: cannot be read: {error}") from error
        return unit_name(schema, SESSION if "session_id" in schema.names else "")
    first = next(whole_lines(file), b"").partition(b"\n")[0]
    try:
        return SESSION if orjson.loads(first)["kind"] == "session" else ""
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{file}: is neither Parquet nor JSON lines of records") from None


def _of_records(
    files: Sequence[Path], models: Sequence[Path], config: Path | None
) -> tuple[Predictor, Iterator[pa.Table]]:
    plan = _plan_of_records(files[0], config)
    inferring = Inferring(plan, models)
    assert inferring.predictor is not None

    def made() -> Iterator[pa.Table]:
        for batch in read_batches(files, plan):
            for moment in inferring.add(batch):
                if moment.inferences is not None:
                    yield moment.inferences
        for moment in inferring.finish():
            if moment.inferences is not None:
                yield moment.inferences

    return inferring.predictor, made()


def _plan_of_records(file: Path, config: Path | None) -> Plan:
    if config is None:
        raise UsageError(
            f"{file}: not a table of sessions, flows or clients; if it has records of flows, "
            "give the configuration that they were made with, -c CONFIG"
        )
    return Plan.of(load_config(config))


def _of_table(file: Path, models: Sequence[Path], config: Path | None) -> tuple[Predictor, Iterator[pa.Table]]:
    plan = None if config is None else Plan.of(load_config(config))
    smoothing = plan is None or plan.config.inference.smoothing
    bundles = [load_bundle(folder) for folder in models] if plan is None else load_models(plan, models)
    table = _read(file, plan)
    for bundle in bundles:
        check_table(bundle, table.schema, str(file))
    predictor = Predictor(bundles, smoothing=smoothing)
    return predictor, iter([infer_table(predictor, table)] if len(table) else [])


def _read(file: Path, plan: Plan | None) -> pa.Table:
    """A table of sessions, flows or clients."""
    if is_parquet(file):
        table = read_given_table(file)
        unit = UNITS[unit_name(table.schema, SESSION)]
        missing = [name for name in (unit.id, unit.start, *_OF_ALL) if name not in table.column_names]
        if missing:
            raise UsageError(f"{file}: not a table of {unit.many} and intervals: it has no column {missing[0]}")
        if "client_ip" not in table.column_names:  # published tables do not say whose a session was
            table = table.append_column("client_ip", pa.nulls(len(table), pa.string()))
        return table
    schema = session_schema((SessionRegistry.of(plan) if plan else SessionRegistry()).fields())
    return pa.concat_tables([schema.empty_table(), *(sessions_of_lines(lines, schema) for lines in whole_lines(file))])


def read_sessions(files: Sequence[Path], config: Path | None) -> pa.Table:
    """Session-intervals of a table of them, or of records of flows, which need the configuration they were made with.

    Raises:
        UsageError: the files are neither, or a configuration is missing.
    """
    if _table_unit(files[0]) == SESSION:
        return _read(_only(files), None if config is None else Plan.of(load_config(config)))
    plan = _plan_of_records(files[0], config)
    inferring = Inferring(plan, with_sessions=True)
    moments = [moment for batch in read_batches(files, plan) for moment in inferring.add(batch)]
    tables = [moment.sessions for moment in (*moments, *inferring.finish()) if moment.sessions is not None]
    return pa.concat_tables([inferring.views.schemas[SESSION].empty_table(), *tables])


def infer_table(predictor: Predictor, table: pa.Table) -> pa.Table:
    """What models say of a table, in its order; rows of a unit need not stand together.

    Units of different files are different ones, also where they have the same id.
    """
    unit = UNITS[unit_name(table.schema, SESSION)]
    ids = table[unit.id].cast(pa.string())
    files = table["file"].to_pylist() if "file" in table.column_names else [""] * len(table)
    keys = [f"{file}\n{one}" for file, one in zip(files, ids.to_pylist(), strict=True)]
    # A predictor takes all units' intervals of one time, and forgets by time: so each unit begins at 0.
    of_unit = unit.keys(table["service"].to_pylist(), keys)
    units = {key: number for number, key in enumerate(dict.fromkeys(of_unit))}
    number = np.array([units[key] for key in of_unit])
    starts_s = np.full(len(units), np.inf)
    np.minimum.at(starts_s, number, table["ts_start"].to_numpy())
    moved = _with(table, **{unit.id: pa.array(keys)})
    for name in dict.fromkeys(("ts_start", "ts_end", unit.start)):
        moved = _with(moved, **{name: pa.array(table[name].to_numpy() - starts_s[number])})
    ends_ms = np.round(moved["ts_end"].to_numpy() * 1e3).astype(np.int64)
    order = np.argsort(ends_ms, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(ends_ms[order])) + 1)
    made = [predictor.predict_rows(moved.take(pa.array(part)), unit.name) for part in parts]
    rows = np.concatenate([part[at] for part, (_, at) in zip(parts, made, strict=True)])
    found = pa.concat_tables([some for some, _ in made]).take(pa.array(np.argsort(rows, kind="stable")))
    of = table.take(pa.array(np.sort(rows)))
    found = _with(found, **{unit.id: of[unit.id].cast(pa.string())}, ts_start=of["ts_start"], ts_end=of["ts_end"])
    return found.cast(inference_schema(predictor.labels))


def _with(table: pa.Table, **columns: Any) -> pa.Table:
    """A table with other values in some columns."""
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return table
