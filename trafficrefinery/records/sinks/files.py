"""Records in files: JSON lines and Parquet. A file is renamed into place when it is complete."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from trafficrefinery.engine.feature_fields import output_fields
from trafficrefinery.errors import OutputError
from trafficrefinery.jit.lazy import Late

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    from trafficrefinery.engine.worker import Plan
    from trafficrefinery.records.batches import Batch
else:
    pl, pa, pq = Late("polars"), Late("pyarrow"), Late("pyarrow.parquet")

PARTIAL = ".partial"
"""Suffix of a file that is being written. Its lines are complete; after an interrupt it stays."""
_ROW_GROUP = 1 << 15
"""Rows of a Parquet row group, which are held in memory, at least."""
_TABLE_ROWS = 1 << 13
"""Rows that become columns at a time: fewer take longer, more take memory."""


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Turns what the system refuses into an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise output_error(error, path) from error


def output_error(error: OSError, path: str | Path) -> OutputError:
    """What the system refused, as an error that names the file."""
    hint = "; free some space and run again" if error.errno == errno.ENOSPC else ""
    reason = os.strerror(error.errno) if error.errno else error
    return OutputError(f"{path}: cannot be written: {reason}{hint}")


def make_directory(directory: Path) -> None:
    """Make an output directory and see that it can be written to."""
    with _output_errors(directory):
        if directory.is_file():
            raise OutputError(f"{directory}: is a file; name a directory")
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()


def encode_json_lines(batch: Batch) -> bytes:
    """The records of a batch as JSON lines: numbers, strings and null only."""
    return b"".join(json_slices(batch))


def json_slices(batch: Batch) -> Iterator[bytes]:
    """The same, some lines at a time."""
    return map(_json_lines, batch.slices())


def _json_lines(batch: Batch) -> bytes:
    features = [
        pl.DataFrame(columns).to_struct(name) if columns else pl.Series(name, [{}] * len(batch.flow["flow_id"]))
        for name, columns in batch.features.items()
    ]
    frame = pl.DataFrame({**batch.flow, "features": pl.DataFrame(features).to_struct("features")})
    out = io.BytesIO()
    frame.write_ndjson(out)
    return out.getvalue()


def whole_lines_bytes(path: Path) -> int:
    """Where the last whole line ends. Zeros, which power loss may leave, are in no line."""
    end = at = 0
    with path.open("rb") as opened:
        while piece := opened.read(1 << 20):
            lines, zero, _ = piece.partition(b"\0")
            end = max(end, at + lines.rfind(b"\n") + 1 if b"\n" in lines else 0)
            if zero:
                break
            at += len(piece)
    return end


class JsonLines:
    """A file of JSON lines: whole lines only, also after an interrupt or on a full disk."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(path.name + PARTIAL)
        with _output_errors(self._partial):
            self._file = self._partial.open("wb", buffering=0)  # a buffer could not be cut back to whole lines

    def write(self, batch: Batch) -> None:
        """Write a line for each record."""
        for lines in json_slices(batch):
            self.write_lines(lines)

    def write_objects(self, objects: Iterable[dict[str, Any]]) -> None:
        """Write plain objects, a line each."""
        self.write_lines(b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in objects))

    def write_lines(self, lines: bytes) -> None:
        """Write whole lines. After a failure the file is of no use but for `abandon`."""
        rest = memoryview(lines)
        with _output_errors(self._path):
            while rest:
                rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """The output is complete: give the file its name."""
        with _output_errors(self._path):
            self._file.close()
            self._partial.replace(self._path)

    def abandon(self) -> Path | None:
        """Keep the whole lines that were written under the partial name, which is returned; None if there are none."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):  # it has its name already
            whole_bytes = whole_lines_bytes(self._partial)
            if whole_bytes:
                with contextlib.suppress(OSError):  # it could not be written to either
                    os.truncate(self._partial, whole_bytes)
                return self._partial
        self._partial.unlink(missing_ok=True)
        return None


class Parquet:
    """A Parquet file with the columns of a schema."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._partial = path, path.with_name(path.name + PARTIAL)
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._rows = 0
        with _output_errors(self._partial):
            self._writer = pq.ParquetWriter(self._partial, self._schema, compression="zstd")

    def write(self, batch: Batch) -> None:
        """Write a row for each record."""
        for part in batch.slices(_TABLE_ROWS):
            self.write_table(_batch_table(part, self._schema))

    def write_table(self, table: pa.Table) -> None:
        """Write rows that have the columns of the schema."""
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= _ROW_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        if not self._waiting:
            return
        group, self._waiting = pa.concat_tables(self._waiting), []
        with _output_errors(self._path):
            self._writer.write_table(group)
        self._rows += len(group)

    def close(self) -> None:
        """The output is complete: give the file its name."""
        self._write_group()
        rows, self._rows = self._rows, 0  # a file whose end cannot be written holds none
        with _output_errors(self._path):
            self._writer.close()
            self._rows = rows
            self._partial.replace(self._path)

    def abandon(self) -> Path | None:
        """As `JsonLines.abandon`; on a full disk nothing stays: a Parquet file cannot be read without its end."""
        with contextlib.suppress(OutputError, OSError):
            self._write_group()
            self._writer.close()
            if self._rows:
                return self._partial
        self._partial.unlink(missing_ok=True)
        return None


def parquet_schema(plan: Plan) -> pa.Schema:
    """The columns of all services together, features as `Class.field`."""
    whole, real, text = pa.int64(), pa.float64(), pa.string()
    fields = {
        "schema": whole, "kind": text, "sensor": text, "ts_start": real, "ts_end": real,
        "service": text, "matched_by": text, "domain": text, "protocol": text,
        "client_ip": text, "client_port": whole, "server_ip": text, "server_port": whole,
        "flow_id": text, "flow_start": real, "end": text, "sides": text,
    }  # fmt: skip
    types = {
        "int": whole, "float": real, "bool": pa.bool_(), "ints": pa.list_(whole), "floats": pa.list_(real),
        "bytes": text,
    }  # fmt: skip
    for profile in plan.profiles:
        for cls in profile.classes:
            fields.update({f"{cls.__name__}.{field.name}": types[field.kind] for field in output_fields(cls)})
    return pa.schema(list(fields.items()))


def _batch_table(batch: Batch, schema: pa.Schema) -> pa.Table:
    """A batch with the columns of a schema; what its service does not collect is null."""
    columns = dict(batch.flow)
    for name, fields in batch.features.items():
        columns.update({f"{name}.{column.name}": column for column in fields})
    made = pl.DataFrame(columns).to_arrow()
    return pa.table(
        [made[f.name].cast(f.type) if f.name in columns else pa.nulls(len(made), f.type) for f in schema],
        schema=schema,
    )


def table_of(batches: Sequence[Batch], plan: Plan) -> pa.Table:
    """Batches as one Arrow table with the columns of `parquet_schema`."""
    return reader_of(batches, plan).read_all()


def reader_of(batches: Sequence[Batch], plan: Plan) -> pa.RecordBatchReader:
    """The same, made some rows at a time."""
    schema = parquet_schema(plan)
    tables = (_batch_table(part, schema) for batch in batches for part in batch.slices(_TABLE_ROWS))
    return pa.RecordBatchReader.from_batches(schema, (one for table in tables for one in table.to_batches()))
