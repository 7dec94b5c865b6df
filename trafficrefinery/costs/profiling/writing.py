"""The files of a profile: figures as JSON and as a table, plots, and one report that needs no other file."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

from trafficrefinery.errors import OutputError

from .figures import Plot, draw, human_bytes

_TEMPLATE = "report.html.j2"
_UNITS = {
    "gb_per_day": "GB/d", "memory_gib": "GiB", "bytes_per_hour": "bytes/h", "bytes_per_record": "bytes",
    "state_bytes_per_flow": "bytes", "ns_per_packet": "ns", "ns_per_packet_by_batch": "ns",
    "collect_ns_per_flow": "ns", "state_bytes_of_session": "bytes", "state_bytes_of_session_by_class": "bytes",
    "bytes": "bytes",
    "_bytes": "bytes", "_ns": "ns", "_us": "us", "_ms": "ms", "packets_per_s": "1/s", "bits_per_s": "bit/s", "_s": "s",
}  # fmt: skip
"""By the end of a name."""
_SERIES = ("batch_ns", "repetitions", "sessions_by_flows")


def write_costs(costs: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `costs.json`, `costs.parquet`, `plots/` and `report.html`.

    Raises:
        OutputError: the folder cannot be written to.
    """
    try:
        return _write(costs, folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _write(costs: Mapping[str, Any], folder: Path) -> list[Path]:
    paths = [folder / name for name in ("costs.json", "costs.parquet", "report.html")]
    paths[0].write_text(json.dumps(_without_nan(costs), indent=1, allow_nan=False) + "\n")
    pq.write_table(table_of_costs(costs), paths[1])
    paths[2].write_text(report(costs, draw(costs, folder / "plots")))
    return paths


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


def report(costs: Mapping[str, Any], plots: list[Plot]) -> str:
    """The report: one page, plots and style in it; it asks for nothing from anywhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["bytes"] = lambda size: "–" if size is None else human_bytes(size)
    environment.filters["number"] = number
    environment.filters["ns"] = nanoseconds
    environment.filters["share"] = lambda value: f"{100 * value:.1f} %"
    pictures = {
        plot.path.stem: {
            "title": plot.title, "caption": plot.caption,
            "data": base64.b64encode(plot.path.read_bytes()).decode(),
        }
        for plot in plots
    }  # fmt: skip
    return environment.get_template(_TEMPLATE).render(costs=costs, plots=pictures)


def nanoseconds(value: float | None) -> str:
    """To a tenth, which is more than is certain; whole ones from 100 on."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def number(value: float | None) -> str:
    """As people read it: three digits that count, thousands with commas."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
