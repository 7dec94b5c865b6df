"""Plots of what a configuration costs: the paper's Figures 2b and 6a to 6c, and where the time goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

_COLOURS = (
    "#3b6fb6", "#e07b39", "#3f9b6c", "#b5476e", "#7a5fb0", "#8a6d4b", "#c9a227", "#4aa3b5", "#94a13a", "#d1615d",
    "#6b7785",
)  # fmt: skip
_SHARED_COLOURS = ("#59646f", "#7f8b97", "#a5b0ba", "#c9d1d8")
_STYLE: Any = {  # Matplotlib names each key in its type
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 12,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.grid": True, "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8, "axes.axisbelow": True, "axes.edgecolor": "#8a949e", "axes.labelcolor": "#333b44",
    "xtick.color": "#333b44", "ytick.color": "#333b44", "legend.frameon": False,
}  # fmt: skip
_FORMS = {"jsonl": "JSON lines", "jsonl.zst": "JSON lines, zstd", "parquet": "Parquet"}
_FORM_COLOURS = {"jsonl": "#3b6fb6", "jsonl.zst": "#8fb3dd", "parquet": "#e07b39"}
_DPI = 144
_CAPTIONS = {
    "time": (
        "Nanoseconds of one packet of the trace: what all classes share, what each class adds, measured alone; and "
        "beneath it everything together."
    ),
    "processing": (
        "Of each class alone, net of what is shared: bar from the first to the third quartile of batches, line from "
        "the 5th to the 95th percentile, stroke: median, dot and number: mean (paper, Figure 6b)."
    ),
    "state": (
        "All flows of a client and a service that are in the flow cache at the end of an interval (paper, Figure 6a)."
    ),
    "memory": "Of all flows of a service, at the end of each interval.",
    "storage": "Bytes an hour of this traffic, on a logarithmic scale (paper, Figures 2b and 6c).",
}


class Plot(NamedTuple):
    """A plot in a file, with what it shows."""

    path: Path
    title: str
    caption: str


def draw(costs: Mapping[str, Any], folder: Path) -> list[Plot]:
    """Draw all plots into a folder, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = []
    with mpl.rc_context(_STYLE):
        for name, title, caption, figure in _figures(costs):
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=_DPI)
            plots.append(Plot(path, title, caption))
    return plots


def _figures(costs: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Figure]]:
    titles = {
        "time": ("Where the time goes", _time),
        "processing": ("Processing", _processing),
        "state": ("State of a session", _state),
        "memory": ("State over time", _memory),
        "storage": ("Storage", _storage),
    }
    for name, (title, figure_of) in titles.items():
        if name != "storage" or costs["storage"]["traffic"]["pcap_bytes_per_hour"]:
            yield name, title, _CAPTIONS[name], figure_of(costs)


def _axes(height: float, width: float = 8.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _colours(costs: Mapping[str, Any]) -> dict[str, str]:
    return {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(costs["classes"])}


def _time(costs: Mapping[str, Any]) -> Figure:
    shared, end, packets = costs["shared"], costs["end_to_end"], costs["end_to_end"]["packets"]
    parts = [
        ("parse", shared["parse_ns"]["value"], _SHARED_COLOURS[0]),
        ("flow cache, intervals", shared["lookup_ns"], _SHARED_COLOURS[1]),
        ("names (DNS, TLS, QUIC)", shared["names_ns"]["value"], _SHARED_COLOURS[2]),
        ("call", shared["call_ns"]["value"], _SHARED_COLOURS[3]),
    ]
    colours = _colours(costs)
    for name, one in costs["classes"].items():
        parts.append((name, max(one["ns_per_packet"]["value"], 0) * one["packets"] / packets, colours[name]))
    parts.append(("collect_features", end["collect_ns"], "#2d3640"))
    figure, axes = _axes(3.1 + 0.18 * ((len(parts) + 1) // 3))
    left = 0.0
    for name, value, colour in parts:
        axes.barh(1, value, left=left, color=colour, height=0.55, label=f"{name}  {value:.1f}", edgecolor="white")
        left += value
    axes.barh(0, end["measured_ns"], color="#2f8f83", height=0.55)
    axes.text(end["measured_ns"], 0, f"  {end['measured_ns']:.1f}", va="center")
    axes.text(left, 1, f"  {left:.1f}", va="center")
    axes.set_yticks([0, 1], ["measured together", "sum of the parts"])
    axes.set_xlim(0, 1.12 * max(left, end["measured_ns"]))
    axes.set_xlabel("ns a packet")
    axes.grid(visible=False, axis="y")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _processing(costs: Mapping[str, Any]) -> Figure:
    found = sorted(costs["classes"].items(), key=lambda item: -item[1]["ns_per_packet"]["value"])
    figure, axes = _axes(1.3 + 0.42 * len(found))
    colours = _colours(costs)
    for at, (name, one) in enumerate(found):
        by_batch = one["ns_per_packet_by_batch"]
        axes.hlines(at, by_batch["p5"], by_batch["p95"], color="#59646f", linewidth=1.2)
        axes.barh(at, by_batch["p75"] - by_batch["p25"], left=by_batch["p25"], height=0.55, color=colours[name])
        axes.vlines(by_batch["median"], at - 0.275, at + 0.275, color="black", linewidth=1.5)
        axes.plot(by_batch["mean"], at, "o", color="white", markeredgecolor="black", markersize=5)
        axes.text(by_batch["p95"], at, f"  {by_batch['mean']:.1f}", va="center", fontsize=9)
    axes.set_yticks(range(len(found)), [name for name, _ in found])
    axes.set_xlim(left=0)
    axes.set_xlabel("ns a packet")
    axes.grid(visible=False, axis="y")
    return figure


def _state(costs: Mapping[str, Any]) -> Figure:
    figure, axes = _axes(3.8)
    colours = _colours(costs)
    sizes: dict[str, dict[float, int]] = {name: {} for name in costs["classes"]}
    for service in costs["services"].values():
        for flows, count in service["sessions_by_flows"]:
            for name in service["classes"]:
                size = flows * costs["classes"][name]["state_bytes"] if name in costs["classes"] else 0
                if size:
                    sizes[name][size] = sizes[name].get(size, 0) + count
    for name, counted in sizes.items():
        if counted:
            values = sorted(counted)
            shares = np.cumsum([counted[value] for value in values])
            axes.step(
                [values[0], *values], [0, *(shares / shares[-1])], where="post", color=colours[name], label=name,
                linewidth=2,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human_bytes(value)))
    axes.set(xlabel="state of a session", ylabel="share of session-intervals", ylim=(0, 1.02))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def _memory(costs: Mapping[str, Any]) -> Figure:
    figure, axes = _axes(3.3)
    starts = np.array(costs["flow_cache"]["interval_starts_s"])
    times = (starts - starts.min()) / 60
    for (name, service), colour in zip(costs["services"].items(), _COLOURS * 10, strict=False):
        axes.plot(
            times, service["state_bytes_at_interval_ends"], color=colour, label=name, linewidth=2,
            marker="o" if len(times) < 60 else None, markersize=3,
        )  # fmt: skip
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: human_bytes(value)))
    axes.set_ylim(bottom=0)
    axes.set(xlabel="minutes since the first interval", ylabel="state")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def _storage(costs: Mapping[str, Any]) -> Figure:
    stored = costs["storage"]
    groups = [("all classes", stored["all_classes"]["bytes_per_hour"])]
    groups += [(name, one["storage"]["bytes_per_hour"]) for name, one in costs["classes"].items()]
    singles = [("pcap", stored["traffic"]["pcap_bytes_per_hour"]),
               ("pcap, headers only", stored["traffic"]["headers_bytes_per_hour"])]  # fmt: skip
    if not stored["netflow"]["absent"]:
        singles.append(("NetFlow", stored["netflow"]["bytes_per_hour"]))
    figure, axes = _axes(1.6 + 0.26 * len(singles) + 0.62 * len(groups))
    at, ticks, labels = 0.0, [], []
    for name, size in singles:
        axes.barh(at, size, height=0.7, color="#59646f")
        axes.text(size, at, f"  {human_bytes(size)}", va="center", fontsize=8.5)
        ticks.append(at)
        labels.append(name)
        at += 1
    for name, sizes in groups:
        at += 0.4
        for number, (form, size) in enumerate(sizes.items()):
            if size:
                axes.barh(at + number * 0.72, size, height=0.66, color=_FORM_COLOURS[form],
                          label=_FORMS[form] if name == "all classes" else None)  # fmt: skip
                axes.text(size, at + number * 0.72, f"  {human_bytes(size)}", va="center", fontsize=8.5)
        ticks.append(at + 0.72)
        labels.append(name)
        at += 0.72 * len(sizes)
    axes.set_yticks(ticks, labels)
    axes.invert_yaxis()
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 4)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: human_bytes(value)))
    axes.set_xlabel("bytes an hour")
    axes.grid(visible=False, axis="y")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def human_bytes(size: float) -> str:
    """With a unit, powers of 1,000."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"
