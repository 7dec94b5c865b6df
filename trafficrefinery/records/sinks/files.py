"""Records as JSON lines and as Arrow tables, which become files and messages."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trafficrefinery.engine.feature_classes.fields import output_fields
from trafficrefinery.jit.lazy import Late

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from trafficrefinery.engine.plan import Plan
    from trafficrefinery.records.batches import Batch
else:
    pl, pa = Late("polars"), Late("pyarrow")

_TABLE_ROWS = 1 << 13
"""Rows that become columns at a time: fewer take longer, more take memory."""


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
