"""Naive twin of FlowStatistics: keeps the size of every packet."""

from __future__ import annotations

from typing import Any

import numpy as np


def flow_statistics(packets: list[Any]) -> dict[str, Any]:
    """Output of one interval with at least one packet."""
    sizes = [int(p.ip_bytes) for p in packets]
    duration_s = (max(p.ts_ns for p in packets) - packets[0].ts_ns) / 1e9
    return {
        "duration_s": duration_s,
        "pps": len(sizes) / duration_s if duration_s else float("nan"),
        "bytes_per_s": sum(sizes) / duration_s if duration_s else float("nan"),
        "ip_bytes_mean": np.mean(sizes),
        "ip_bytes_std": np.std(sizes),
        "ip_bytes_p25": np.percentile(sizes, 25),
        "ip_bytes_p50": np.percentile(sizes, 50),
        "ip_bytes_p75": np.percentile(sizes, 75),
        "ip_bytes_min": min(sizes),
        "ip_bytes_max": max(sizes),
        "packets": len(sizes),
        "ip_bytes": sum(sizes),
    }
