"""Naive twin of InterArrivals."""

from __future__ import annotations

from typing import Any


def inter_arrivals(packets: list[Any], most: int) -> dict[str, Any]:
    """Output of one interval; a time below an earlier one counts as that one."""
    latest = [max(p.ts_ns for p in packets[: i + 1]) for i in range(len(packets))]
    gaps_s = [(latest[i] - latest[i - 1]) / 1e9 for i in range(1, len(latest))]
    return {"iat_s": gaps_s[:most], "gaps_not_listed": len(gaps_s[most:])}
