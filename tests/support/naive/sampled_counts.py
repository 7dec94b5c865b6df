"""Naive twin of SampledCounts: looks for the packets of each part in turn."""

from __future__ import annotations

from typing import Any


def sampled_counts(packets: list[Any], samples: int, sample_ms: int) -> dict[str, Any]:
    """Output of one interval."""
    sample_ns = sample_ms * 1_000_000
    output: dict[str, Any] = {"packets_up": [], "packets_down": [], "bytes_up": [], "bytes_down": []}
    for part in range(samples):
        begins = part * sample_ns if part > 0 else float("-inf")
        ends = (part + 1) * sample_ns if part < samples - 1 else float("inf")
        for direction, way in ((0, "up"), (1, "down")):
            here = [p for p in packets if p.direction == direction and begins <= p.ts_ns - p.interval_start_ns < ends]
            output[f"packets_{way}"].append(len(here))
            output[f"bytes_{way}"].append(sum(p.ip_bytes for p in here))
    output["packets_beyond"] = sum(p.ts_ns - p.interval_start_ns >= samples * sample_ns for p in packets)
    return output
