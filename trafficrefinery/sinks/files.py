"""Records in files: JSON lines and Parquet. A file is renamed into place when it is complete."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from trafficrefinery.aggregate import Batch
from trafficrefinery.errors import OutputError
from trafficrefinery.worker import Plan
from trafficrefinery.outputs import output_fields

PARTIAL = ".partial"
"""Suffix of a file that is being written. Its lines are complete; after an interrupt it stays."""


class RecordSink(Protocol):
    """Takes batches of records; `close` completes the output, `abandon` keeps what there is."""

    def write(self, batch: Batch) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


def encode_json_lines(batch: Batch) -> bytes:
    """The records of a batch as JSON lines: numbers, strings and null only."""
    features = [
        pl.DataFrame(columns).to_struct(name) if columns else pl.Series(name, [{}] * len(batch.flow["flow_id"]))
        for name, columns in batch.features.items()
    ]
    frame = pl.DataFrame({**batch.flow, "features": pl.DataFrame(features).to_struct("features")})
    out = io.BytesIO()
    frame.write_ndjson(out)
    return out.getvalue()


class _PartialFile:
    """A file under a temporary name until `close`."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_name(path.name + PARTIAL)
        with _output_errors(self.partial):
            self.file: BinaryIO = self.partial.open("wb")

    def close(self) -> None:
        with _output_errors(self.path):
            self.file.close()
            self.partial.replace(self.path)


class _output_errors:  # noqa: N801 (a context manager)
    """Turns what the system refuses into an OutputError that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            hint = "; free some space and run again" if error.errno == errno.ENOSPC else ""
            raise OutputError(f"{self._path}: cannot be written: {os.strerror(error.errno or 0)}{hint}") from error


class JsonLines:
    """`records.jsonl`: whole lines only, also after an interrupt or a full disk."""

    def __init__(self, path: Path) -> None:
        self._out = _PartialFile(path)
        self._complete = 0

    def write(self, batch: Batch) -> None:
        self.write_bytes(encode_json_lines(batch))

    def write_objects(self, objects: Iterable[dict[str, Any]]) -> None:
        """Write plain objects, a line each."""
        self.write_bytes(b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in objects))

    def write_bytes(self, lines: bytes) -> None:
        """Write whole lines; on failure the file is cut back to the last whole write."""
        try:
            with _output_errors(self._out.path):
                self._out.file.write(lines)
                self._out.file.flush()
        except OutputError:
            os.truncate(self._out.partial, self._complete)
            raise
        self._complete += len(lines)

    def close(self) -> None:
        self._out.close()

    def abandon(self) -> None:
        """Leave the partial file with its complete lines."""
        self._out.file.close()


class Parquet:
    """`records.parquet`: one column a field, features as `Class.field`, for all services of the configuration."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self._path, self._partial = path, path.with_name(path.name + PARTIAL)
        self._schema = parquet_schema(plan)
        with _output_errors(self._partial):
            self._writer = pq.ParquetWriter(self._partial, self._schema, compression="zstd")

    def write(self, batch: Batch) -> None:
        table = batch_table(batch)
        columns = [
            table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
            for field in self._schema
        ]
        with _output_errors(self._path):
            self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        with _output_errors(self._path):
            self._writer.close()
            self._partial.replace(self._path)

    def abandon(self) -> None:
        """A Parquet file without its end cannot be read: finish what there is, under the partial name."""
        with _output_errors(self._path):
            self._writer.close()


_FLOW_TYPES: dict[str, pa.DataType] = {
    "schema": pa.int64(), "kind": pa.string(), "sensor": pa.string(), "ts_start": pa.float64(), "ts_end": pa.float64(),
    "service": pa.string(), "matched_by": pa.string(), "domain": pa.string(), "protocol": pa.string(),
    "client_ip": pa.string(), "client_port": pa.int64(), "server_ip": pa.string(), "server_port": pa.int64(),
    "flow_id": pa.string(), "flow_start": pa.float64(),
}  # fmt: skip
_FIELD_TYPES: dict[str, pa.DataType] = {
    "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "ints": pa.list_(pa.int64()),
    "floats": pa.list_(pa.float64()), "bytes": pa.string(),
}  # fmt: skip


def parquet_schema(plan: Plan) -> pa.Schema:
    """The columns of all services together."""
    fields = dict(_FLOW_TYPES)
    for profile in plan.profiles:
        for cls in profile.classes:
            fields.update({f"{cls.__name__}.{field.name}": _FIELD_TYPES[field.kind] for field in output_fields(cls)})
    return pa.schema(list(fields.items()))


def batch_table(batch: Batch) -> pa.Table:
    """A batch as an Arrow table, features as `Class.field`."""
    columns = dict(batch.flow)
    for name, fields in batch.features.items():
        columns.update({f"{name}.{column.name}": column for column in fields})
    return pl.DataFrame(columns).to_arrow()


def open_records(directory: Path, form: str, plan: Plan) -> RecordSink:
    """The records file of a replay in `directory` (made when missing)."""
    return Parquet(directory / "records.parquet", plan) if form == "parquet" else JsonLines(directory / "records.jsonl")


def make_directory(directory: Path) -> None:
    """Make an output directory and see that it can be written to."""
    with _output_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()


def table_of(batches: Sequence[Batch], plan: Plan) -> pa.Table:
    """Batches as one Arrow table with the columns of `parquet_schema`."""
    schema = parquet_schema(plan)
    tables = [batch_table(batch) for batch in batches]
    return pa.concat_tables(
        [
            pa.table(
                [t[f.name].cast(f.type) if f.name in t.column_names else pa.nulls(len(t), f.type) for f in schema],
                schema=schema,
            )
            for t in tables
        ]
        or [schema.empty_table()]
    )
