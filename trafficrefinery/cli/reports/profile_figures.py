"""Pictures of what a configuration costs: the paper's Figures 2b and 6a to 6c, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .numbers import human_bytes
from .style import (
    BLUE,
    BYTES,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    SKY,
    SOFT,
    axes,
    colour,
    hatch,
    label,
    legend_below,
    legend_beside,
)
from .style import line as line_style

FORMS = {"jsonl": "JSON lines", "jsonl.zst": "JSON lines, zstd", "parquet": "Parquet"}
_FORM_COLOURS = {"jsonl": BLUE, "jsonl.zst": SKY, "parquet": ORANGE}
_SHARED_COLOURS = ("#59646f", "#7f8b97", "#a5b0ba", "#c9d1d8")


def time(costs: Mapping[str, Any]) -> Figure:
    """Nanoseconds of a packet: the parts, and everything together."""
    shared, end, packets = costs["shared"], costs["end_to_end"], costs["end_to_end"]["packets"]
    parts = [
        ("parse", shared["parse_ns"]["value"], _SHARED_COLOURS[0], ""),
        ("flow cache, intervals", shared["lookup_ns"], _SHARED_COLOURS[1], ""),
        ("names (DNS, TLS, QUIC)", shared["names_ns"]["value"], _SHARED_COLOURS[2], ""),
        ("call", shared["call_ns"]["value"], _SHARED_COLOURS[3], ""),
    ]
    for at, (name, one) in enumerate(costs["classes"].items()):
        share = max(one["ns_per_packet"]["value"], 0) * one["packets"] / packets
        parts.append((name, share, colour(at), hatch(at)))
    parts.append(("collect_features", end["collect_ns"], INK, ""))
    figure, bars = axes(2.7 + 0.2 * ((len(parts) + 2) // 3))
    left = 0.0
    for name, value, fill, pattern in parts:
        bars.barh(1, value, left=left, color=fill, hatch=pattern, height=0.55, label=f"{name} {value:.1f}",
                  edgecolor=PAPER)  # fmt: skip
        left += value
    bars.barh(0, end["measured_ns"], color=GREEN, height=0.55)
    label(bars, end["measured_ns"], 0, f"{end['measured_ns']:.1f}")
    label(bars, left, 1, f"{left:.1f}")
    bars.set_yticks([0, 1], ["measured together", "sum of the parts"])
    bars.set_xlim(0, 1.12 * max(left, end["measured_ns"]))
    bars.set_xlabel("ns per packet")
    bars.grid(visible=False, axis="y")
    legend_below(figure, bars)
    return figure


def processing(costs: Mapping[str, Any]) -> Figure:
    """Nanoseconds that each class adds to a packet, over batches."""
    order = {name: at for at, name in enumerate(costs["classes"])}
    found = sorted(costs["classes"].items(), key=lambda item: -item[1]["ns_per_packet"]["value"])
    figure, boxes = axes(1.1 + 0.42 * len(found))
    for at, (name, one) in enumerate(found):
        by_batch = one["ns_per_packet_by_batch"]
        boxes.hlines(at, by_batch["p5"], by_batch["p95"], color=SOFT, linewidth=1.2)
        boxes.barh(at, by_batch["p75"] - by_batch["p25"], left=by_batch["p25"], height=0.55, color=colour(order[name]),
                   hatch=hatch(order[name]), edgecolor=PAPER)  # fmt: skip
        boxes.vlines(by_batch["median"], at - 0.275, at + 0.275, color=INK, linewidth=1.5)
        boxes.plot(by_batch["mean"], at, "o", color=PAPER, markeredgecolor=INK, markersize=5)
        label(boxes, max(by_batch["p95"], by_batch["mean"]), at, f"{by_batch['mean']:.1f}")
    boxes.set_yticks(range(len(found)), [name for name, _ in found])
    boxes.set_ylim(-0.6, len(found) - 0.4)
    boxes.set_xlim(left=0)
    boxes.set_xlabel("ns per packet")
    boxes.grid(visible=False, axis="y")
    return figure


def state(costs: Mapping[str, Any]) -> Figure:
    """The distribution of the state of a session, of each class."""
    figure, shares = axes(3.8)
    for at, name in enumerate(costs["classes"]):
        counted = _sessions_by_size(costs, name)
        if counted:
            values = sorted(counted)
            sums = np.cumsum([counted[value] for value in values])
            shares.step([values[0], *values], [0, *(sums / sums[-1])], where="post", color=colour(at), label=name,
                        linestyle=line_style(at))  # fmt: skip
    shares.set_xscale("log")
    shares.xaxis.set_major_formatter(BYTES)
    shares.xaxis.set_minor_formatter(lambda *_: "")
    shares.set(xlabel="state of a session", ylabel="share of session-intervals", ylim=(0, 1.02))
    legend_beside(shares)
    return figure


def _sessions_by_size(costs: Mapping[str, Any], name: str) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for service in costs["services"].values():
        if name in service["classes"]:
            for flows, count in service["sessions_by_flows"]:
                size = flows * costs["classes"][name]["state_bytes"]
                if size:
                    sizes[size] = sizes.get(size, 0) + count
    return sizes


def memory(costs: Mapping[str, Any]) -> Figure:
    """The state of each service over time."""
    figure, lines = axes(3.3)
    starts = np.array(costs["flow_cache"]["interval_starts_s"])
    times = (starts - starts.min()) / 60
    for at, (name, service) in enumerate(costs["services"].items()):
        lines.plot(times, service["state_bytes_at_interval_ends"], color=colour(at), linestyle=line_style(at),
                   label=name, marker="o" if len(times) < 60 else None, markersize=3)  # fmt: skip
    lines.yaxis.set_major_formatter(BYTES)
    lines.set_ylim(bottom=0)
    lines.set(xlabel="minutes since the first interval", ylabel="state")
    legend_beside(lines)
    return figure


def storage(costs: Mapping[str, Any]) -> Figure:
    """Bytes that an hour of this traffic takes: packets, NetFlow, and the records of each class."""
    stored = costs["storage"]
    groups = [("all classes", stored["all_classes"]["bytes_per_hour"])]
    groups += [(name, one["storage"]["bytes_per_hour"]) for name, one in costs["classes"].items()]
    singles = [("pcap", stored["traffic"]["pcap_bytes_per_hour"]),
               ("pcap, headers only", stored["traffic"]["headers_bytes_per_hour"])]  # fmt: skip
    if not stored["netflow"]["absent"]:
        singles.append(("NetFlow", stored["netflow"]["bytes_per_hour"]))
    figure, bars = axes(1.6 + 0.26 * len(singles) + 0.62 * len(groups))
    at, ticks, labels = 0.0, [], []
    for name, size in singles:
        bars.barh(at, size, height=0.7, color=SOFT)
        label(bars, size, at, human_bytes(size))
        ticks.append(at)
        labels.append(name)
        at += 1
    for name, sizes in groups:
        at += 0.4
        for row, (form, size) in enumerate(sizes.items()):
            if size:
                bars.barh(at + row * 0.72, size, height=0.66, color=_FORM_COLOURS[form],
                          label=FORMS[form] if name == "all classes" else None)  # fmt: skip
                label(bars, size, at + row * 0.72, human_bytes(size))
        ticks.append(at + 0.72)
        labels.append(name)
        at += 0.72 * len(sizes)
    bars.set_yticks(ticks, labels)
    bars.invert_yaxis()
    bars.set_xscale("log")
    low, high = bars.get_xlim()
    bars.set_xlim(low, high * 4)
    bars.xaxis.set_major_formatter(BYTES)
    bars.set_xlabel("bytes per hour")
    bars.grid(visible=False, axis="y")
    legend_below(figure, bars)
    return figure
