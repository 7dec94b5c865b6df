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

PROBABILITY, QUANTILE = "probabilities.", "quantiles."
"""What columns of probabilities and quantiles begin with; the label or the quantile follows."""
QUANTILES = (0.1, 0.5, 0.9)
"""What is told of a quantity; the second is its value."""
UNSURE, UNOBSERVED, NO_MODEL = "confidence", "unobserved", "service"
"""Why there is no value: no label is likely enough, no feature of the model was observed, no model is for the service."""


def inference_schema(labels: Sequence[str]) -> pa.Schema:
    """The columns, a probability for each label: `probabilities.720`.

    A record is of one target. `value` is its label, or `quantity` its number; neither where the model abstains.
    `applies` is false where the model is known not to be made for what is seen, null where nothing is known of that.
    `drift` is the share of features that lie outside of what the training data had.
    """
    whole, real, text = pa.int64(), pa.float64(), pa.string()
    fields = {
        "schema": whole, "kind": text, "ts_start": real, "ts_end": real, "service": text, "client_ip": text,
        "session_id": text, "target": text, "value": text, "quantity": real, "measured_in": text, "confidence": real,
        **{f"{PROBABILITY}{label}": real for label in labels},
        **{f"{QUANTILE}{quantile}": real for quantile in QUANTILES},
        "applies": pa.bool_(), "why": text, "drift": real, "model": text,
    }  # fmt: skip
    return pa.schema(list(fields.items()))


def inference_items(table: pa.Table) -> list[dict[str, Any]]:  # JSON values
    """Rows of `inference_schema` as JSON objects: `value` is the label or the number, and the probabilities of the
    target's labels are in an object of their own, as quantiles are; null without any."""
    names, found = table.column_names, []
    for values in zip(*(column.to_pylist() for column in table.columns), strict=True):
        row = dict(zip(names, values, strict=True))
        quantity = row.pop("quantity")
        item = {name: value for name, value in row.items() if not name.startswith((PROBABILITY, QUANTILE))}
        item["value"] = row["value"] if quantity is None else quantity
        found.append({**item, "probabilities": _told(row, PROBABILITY), "quantiles": _told(row, QUANTILE)})
    return found


def _told(row: dict[str, Any], prefix: str) -> dict[str, float] | None:
    told = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
    return {name: round(value, 4) for name, value in told.items() if value is not None} or None


def inference_lines(table: pa.Table) -> bytes:
    """The same as JSON lines."""
    return b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in inference_items(table))
