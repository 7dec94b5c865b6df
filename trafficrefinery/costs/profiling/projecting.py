"""From a trace to a link: what the same mix of traffic takes at another rate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from trafficrefinery.engine.flow_cache import HEADER
from trafficrefinery.errors import UsageError

_UNITS = {"kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9, "Tbit/s": 1e12}
FRAMING_BYTES = 24
"""That a frame takes on Ethernet beyond what is captured: check sequence, preamble, gap (IEEE 802.3)."""
CACHE_BYTES = HEADER.itemsize + 2 * 4 + 4 * 8
"""Of a flow beside its state: header, free lists, and index, which is at most four times as large as needed."""
_DAY_S = 86_400
SHORTEST_S = 1.0
"""A trace that is shorter says nothing of an hour."""


def parse_link(text: str) -> float:
    """Bit/s of `"10Gbit/s"`.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kMGT]bit/s)", text)
    if found is None or not float(found[1]):
        raise UsageError(f'--link: "{text}" is not a rate; write a number with one of {", ".join(_UNITS)}: 10Gbit/s')
    return float(found[1]) * _UNITS[found[2]]


def format_link(bits_per_s: float) -> str:
    """As `parse_link` reads it."""
    unit = max((name for name, factor in _UNITS.items() if factor <= bits_per_s), key=_UNITS.__getitem__,
               default="kbit/s")  # fmt: skip
    return f"{bits_per_s / _UNITS[unit]:g} {unit}"


def project(costs: Mapping[str, Any], bits_per_s: float) -> dict[str, Any] | None:
    """Cores, memory and disk that the traffic of a trace takes when it fills a link; None for a very short trace.

    Args:
        costs: what was measured, see `profile`.
    """
    trace, occupancy = costs["trace"], costs["flow_cache"]
    if trace["seconds"] < SHORTEST_S:
        return None
    packet_bytes = trace["wire_bytes"] / trace["packets"] + FRAMING_BYTES
    packets_per_s = bits_per_s / 8 / packet_bytes
    times = packets_per_s * trace["seconds"] / trace["packets"]
    flows = occupancy["all_flows_peak"] * times
    cache_bytes = flows * CACHE_BYTES + occupancy["peak_state_bytes"] * times
    per_day = times * _DAY_S / trace["seconds"]
    stored = {form: size * per_day / 1e9 for form, size in costs["storage"]["all_classes"]["bytes"].items()}
    traffic = costs["storage"]["traffic"]
    stored |= {name: traffic[f"{name}_bytes"] * per_day / 1e9 for name in ("pcap", "headers")}
    if not costs["storage"]["netflow"]["absent"]:
        stored["netflow"] = costs["storage"]["netflow"]["bytes"] * per_day / 1e9
    return {
        "link": format_link(bits_per_s), "bits_per_s": bits_per_s, "times_trace": times,
        "packets_per_s": packets_per_s, "cores": packets_per_s * costs["end_to_end"]["measured_ns"] / 1e9,
        "flows": flows, "memory_gib": cache_bytes / 2**30, "gb_per_day": stored,
        "assumptions": _assumptions(packet_bytes, times, trace["seconds"]),
    }  # fmt: skip


def _assumptions(packet_bytes: float, times: float, seconds: float) -> list[str]:
    return [
        f"The link is full, all day, of this mix: {packet_bytes:,.0f} bytes a packet on the wire, framing included.",
        (
            f"{times:,.1f} times the flows of the trace at once, each as long and as fast as there. The trace lasts "
            f"{seconds:,.0f} s: flows that go on for longer, or wait for the idle time-out after it, are more."
        ),
        (
            "A packet costs what it does on this machine with as many flows as the trace has; with many more, memory "
            "is slower."
        ),
        (
            "Packets are shared out evenly to the cores. Reading from the network card, other processes, and the rings "
            "of the capture are not in it."
        ),
    ]
