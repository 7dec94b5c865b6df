"""The files of a profile: figures as JSON and as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trafficrefinery.system.writing import Whole, output_errors, write_file

_UNITS = {
    "gb_per_day": "GB/d", "memory_gib": "GiB", "bytes_per_hour": "bytes/h", "bytes_per_record": "bytes",
    "state_bytes_per_flow": "bytes", "ns_per_packet": "ns", "ns_per_packet_by_batch": "ns",
    "collect_ns_per_flow": "ns", "state_bytes_of_session": "bytes", "state_bytes_of_session_by_class": "bytes",
    "bytes": "bytes",
    "_bytes": "bytes", "_ns": "ns", "_us": "us", "_ms": "ms", "packets_per_s": "1/s", "bits_per_s": "bit/s", "_s": "s",
}  # fmt: skip
"""By the end of a name."""
_SERIES = ("batch_ns", "repetitions", "sessions_by_flows")


def write_costs(costs: Mapping[str, Any], folder: Path) -> None:
    """Write `costs.json` and `costs.parquet`.

    Raises:
        OutputError: the folder cannot be written to.
    """
    write_file(folder / "costs.json", json.dumps(_without_nan(costs), indent=1, allow_nan=False) + "\n")
    with output_errors(folder), Whole(folder / "costs.parquet") as draft:
        pq.write_table(table_of_costs(costs), draft)


def _without_nan(value: Any) -> Any:  # JSON values
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table_of_costs(costs: Mapping[str, Any]) -> pa.Table:
    """All single figures, a row each: `part` (classes, services, ...), `name`, `figure`, `unit`, `value`."""
    rows: list[tuple[str, str, str, str, float]] = []
    for part in ("classes", "steps", "services"):
        for name, figures in costs[part].items():
            rows += [(part, name, *figure) for figure in _figures(figures)]
    for part in ("flow_cache", "shared", "end_to_end", "storage", "projection", "trace"):
        rows += [(part, "", *figure) for figure in _figures(costs[part] or {})]
    for model in costs["models"]:
        rows += [("models", model["label"], *figure) for figure in _figures(model)]
    columns = list(zip(*rows, strict=True))
    names = ("part", "name", "figure", "unit", "value")
    return pa.table(dict(zip(names, [*map(pa.array, columns[:4]), pa.array(columns[4], pa.float64())], strict=True)))


def _figures(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, float]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _figures(value, f"{name}.")
        elif isinstance(value, int | float) and key not in _SERIES:
            yield name, _unit_of(name), float(value)


def _unit_of(name: str) -> str:
    if name.endswith(".noise"):
        return "share"
    for part in reversed(name.split(".")):
        for ending, unit in _UNITS.items():
            if part.endswith(ending):
                return unit
    return ""
