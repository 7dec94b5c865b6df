"""Answers from the flows of the last closed interval."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trafficrefinery.engine.plan import Plan
from trafficrefinery.jit.lazy import Late

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
else:
    pa, pc = Late("pyarrow"), Late("pyarrow.compute")

Item = dict[str, Any]  # a JSON object
_BYTES = ("PacketCounters.bytes_up", "PacketCounters.bytes_down")


def address(text: str) -> str | None:
    """An IPv4 or IPv6 address as records write it; None when it is none."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        if len(packed) == 16 and packed.startswith(b"\0" * 10 + b"\xff\xff"):  # IPv4 in IPv6
            return socket.inet_ntop(socket.AF_INET, packed[12:])
        return socket.inet_ntop(family, packed)
    return None


def matching(table: pa.Table, wanted: Mapping[str, str]) -> pa.Array:
    """Indices of the rows in which all these columns have these values."""
    chosen = pa.chunked_array([np.ones(table.num_rows, bool)])
    for column, value in wanted.items():
        chosen = pc.and_(chosen, pc.equal(table[column], value))
    return pc.indices_nonzero(chosen)


def records_of(table: pa.Table, plan: Plan) -> list[Item]:
    """Rows as the records that sinks write, with the features of the classes that the service collects."""
    collected = {
        service.name: [cls.__name__ for cls in plan.profiles[number].classes]
        for service, number in zip(plan.config.services, plan.service_profile, strict=True)
    }
    return [_record(row, collected.get(row["service"], ())) for row in table.to_pylist()]


def _record(row: Item, classes: Sequence[str]) -> Item:
    record = {name: value for name, value in row.items() if "." not in name}
    features: dict[str, Item] = {name: {} for name in classes}
    for name, value in row.items():
        cls, dot, field = name.partition(".")
        if dot and cls in features:
            features[cls][field] = value
    return {**record, "features": features}


def devices(table: pa.Table) -> list[Item]:
    """Client addresses with their totals, those with most bytes first; bytes need the class PacketCounters."""
    found = [
        {**_totals_item(row, "client_ip"), "services": sorted(row["service_distinct"])}
        for row in _totals(_narrow(table), "client_ip")
    ]
    return sorted(found, key=_most_bytes)


def _most_bytes(item: Item) -> tuple[int, int, str]:
    return -(item["bytes_up"] or 0) - (item["bytes_down"] or 0), -item["flows"], item["client_ip"]


def services_of(table: pa.Table, rows: pa.Array) -> list[Item]:
    """Totals of each service in some rows."""
    items = [_totals_item(row, "service") for row in _totals(_narrow(table).take(rows), "service")]
    return sorted(items, key=lambda item: str(item["service"]))


def _narrow(table: pa.Table) -> pa.Table:
    counted = {name: table[name] if name in table.column_names else pa.nulls(len(table), pa.int64()) for name in _BYTES}
    return pa.table({"client_ip": table["client_ip"], "service": table["service"], **counted})


def _totals(narrow: pa.Table, key: str) -> list[Item]:
    sums = [(name, "sum") for name in _BYTES]
    rows: list[Item] = narrow.group_by(key).aggregate([("service", "distinct"), ([], "count_all"), *sums]).to_pylist()
    return rows


def _totals_item(row: Item, key: str) -> Item:
    up, down = (row[f"{name}_sum"] for name in _BYTES)
    return {key: row[key], "flows": row["count_all"], "bytes_up": up, "bytes_down": down}
