"""Records of what models infer of sessions: their columns, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from trafficrefinery.jit.lazy import Late

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = Late("pyarrow")

PROBABILITY = "probabilities."
"""What columns of probabilities begin with; the resolution follows."""


def inference_schema(resolutions: Sequence[int]) -> pa.Schema:
    """The columns, a probability for each resolution: `probabilities.720`.

    `drift` is the share of features that lie outside of what the training data had.
    """
    whole, real, text = pa.int64(), pa.float64(), pa.string()
    fields = {
        "schema": whole, "kind": text, "ts_start": real, "ts_end": real, "service": text, "client_ip": text,
        "session_id": text, "resolution": whole, "confidence": real,
        **{f"{PROBABILITY}{resolution}": real for resolution in resolutions},
        "startup_delay_s": real, "drift": real, "model": text,
    }  # fmt: skip
    return pa.schema(list(fields.items()))


def inference_items(table: pa.Table) -> list[dict[str, Any]]:  # JSON values
    """Rows of `inference_schema` as JSON objects, the probabilities in one of their own; null without a resolution."""
    names, found = table.column_names, []
    for values in zip(*(column.to_pylist() for column in table.columns), strict=True):
        row = dict(zip(names, values, strict=True))
        shares = {name.removeprefix(PROBABILITY): row.pop(name) for name in names if name.startswith(PROBABILITY)}
        known = row["confidence"] is not None
        rounded = {name: round(share, 4) for name, share in shares.items()} if known else None
        found.append({**row, "probabilities": rounded})
    return found


def inference_lines(table: pa.Table) -> bytes:
    """The same as JSON lines."""
    return b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in inference_items(table))
