"""Records of what models infer of sessions, flows and clients: their columns, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from trafficrefinery.jit.lazy import Late

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = Late("pyarrow")

SESSION, FLOW, CLIENT = "session", "flow", "client"
IDENTITY = {
    SESSION: ("session_id",), FLOW: ("flow_id", "protocol", "client_port", "server_ip", "server_port"), CLIENT: (),
}  # fmt: skip
"""Fields that say which unit a record is of, beside `service` and `client_ip`, by kind of unit."""
PROBABILITY, QUANTILE = "probabilities.", "quantiles."
"""What columns of probabilities and quantiles begin with; the label or the quantile follows."""
QUANTILES = (0.1, 0.5, 0.9)
"""What is told of a quantity; the second is its value."""
UNSURE, UNOBSERVED, NO_MODEL, NOT_PLAYING = "confidence", "unobserved", "service", "not playing"
"""Why there is no value: no label is likely enough, no feature of the model was observed, the service has none, nothing
is played.
"""


def inference_schema(labels: Sequence[str]) -> pa.Schema:
    """The columns, a probability for each label: `probabilities.720`.

    A record is of one target and one unit; what identifies units of other kinds, see `IDENTITY`, is null. `value` is
    its label, or `quantity` its number; neither where the model abstains. `applies` is false where the model is known
    not to be made for what is seen, null where nothing is known of that. `playing` is that of the session-interval.
    `drift` is the share of features that lie
    outside of what the training data had.
    """
    whole, real, text = pa.int64(), pa.float64(), pa.string()
    fields = {
        "schema": whole, "kind": text, "ts_start": real, "ts_end": real, "service": text, "client_ip": text,
        "unit": text, "session_id": text, "flow_id": text, "protocol": text, "client_port": whole, "server_ip": text,
        "server_port": whole, "target": text, "value": text, "quantity": real, "measured_in": text, "confidence": real,
        **{f"{PROBABILITY}{label}": real for label in labels},
        **{f"{QUANTILE}{quantile}": real for quantile in QUANTILES},
        "applies": pa.bool_(), "playing": pa.bool_(), "why": text, "drift": real, "model": text,
    }  # fmt: skip
    return pa.schema(list(fields.items()))


def inference_items(table: pa.Table) -> list[dict[str, Any]]:  # JSON values
    """Rows of `inference_schema` as JSON objects: `value` is the label or the number, and the probabilities of the
    target's labels are in an object of their own, as quantiles are; null without any."""
    if not len(table):  # what the query interface has before the first interval lacks columns
        return []
    columns = {
        name: table[name].to_pylist()
        for name in table.column_names
        if not name.startswith((PROBABILITY, QUANTILE)) and name != "quantity"
    }
    columns["value"] = [
        label if quantity is None else quantity
        for label, quantity in zip(columns["value"], table["quantity"].to_pylist(), strict=True)
    ]
    columns |= {prefix.rstrip("."): _told(table, prefix) for prefix in (PROBABILITY, QUANTILE)}
    units = columns["unit"]
    of_others = {unit: _of_others(unit) for unit in dict.fromkeys(units)}
    for name in set.intersection(*of_others.values()):
        del columns[name]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if len(of_others) > 1:
        rows = [{name: row[name] for name in row if name not in of_others[row["unit"]]} for row in rows]
    return rows


def _of_others(unit: str) -> set[str]:
    """What the records of a unit do not have."""
    return {name for some in IDENTITY.values() for name in some} - set(IDENTITY[unit])


def _told(table: pa.Table, prefix: str) -> list[dict[str, float] | None]:
    """Of each row the values of the columns that have one, to four digits; None without any."""
    names = [name for name in table.column_names if name.startswith(prefix)]
    found: list[dict[str, float] | None] = [None] * len(table)
    if not names:
        return found
    values = np.round(np.column_stack([table[name].to_numpy() for name in names]), 4)  # nulls become NaN
    kinds, kind_of = np.unique(~np.isnan(values), axis=0, return_inverse=True)
    for number, there in enumerate(kinds):
        labels = [name.removeprefix(prefix) for name, is_there in zip(names, there, strict=True) if is_there]
        rows = np.flatnonzero(kind_of.ravel() == number)
        if labels:
            for row, told in zip(rows.tolist(), values[np.ix_(rows, there)].tolist(), strict=True):
                found[row] = dict(zip(labels, told, strict=True))
    return found


def inference_lines(table: pa.Table) -> bytes:
    """The same as JSON lines."""
    return b"".join(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in inference_items(table))
