"""Session-intervals as JSON lines, and back."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pyarrow as pa

from trafficrefinery.jit.lazy import Late
from trafficrefinery.records.schema import SCHEMA

from .columns import groups_of

if TYPE_CHECKING:
    import polars as pl
else:
    pl = Late("polars")

KIND = "session"


def session_lines(table: pa.Table) -> bytes:
    """Session-intervals as JSON lines: features in an object for each group, what was not observed null."""
    frame = pl.DataFrame(table)
    groups = [
        frame.select(pl.col(f"^{group}\\..*$").name.map(lambda name: name.partition(".")[2])).to_struct(group)
        for group in groups_of(frame.columns)
    ]
    out = io.BytesIO()
    frame.select(
        pl.lit(SCHEMA).alias("schema"), pl.lit(KIND).alias("kind"),
        *(name for name in frame.columns if "." not in name),
        pl.DataFrame(groups).to_struct("features"),
    ).write_ndjson(out)  # fmt: skip
    return out.getvalue()


def sessions_of_lines(lines: bytes, schema: pa.Schema) -> pa.Table:
    """What `session_lines` wrote, with the columns of `session_schema`."""
    fields: dict[str, list[pl.Field]] = {group: [] for group in groups_of(schema.names)}
    empty = pl.DataFrame(schema.empty_table())
    for name, kind in empty.schema.items():
        group, dot, field = name.partition(".")
        if dot:
            fields[group].append(pl.Field(field, kind))
    known = {name: kind for name, kind in empty.schema.items() if "." not in name}
    features = pl.Struct([pl.Field(group, pl.Struct(own)) for group, own in fields.items()])
    frame = pl.read_ndjson(io.BytesIO(lines), schema={**known, "features": features})
    groups = frame["features"].struct.unnest()
    columns = [
        groups[group].struct.field(field.name).alias(f"{group}.{field.name}")
        for group, own in fields.items()
        for field in own
    ]
    whole = pl.DataFrame([*(frame[name] for name in known), *columns])
    return whole.select(schema.names).to_arrow().cast(schema)
