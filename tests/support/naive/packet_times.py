"""Naive twin of PacketTimes: keeps the time of every packet."""

from __future__ import annotations

from typing import Any

import numpy as np

NAN = float("nan")


def packet_times(intervals: list[list[Any]]) -> list[dict[str, Any]]:
    """Outputs of one flow."""
    outputs = []
    for number, packets in enumerate(intervals):
        output: dict[str, Any] = {}
        for suffix, wanted in (("", (0, 1)), ("_up", (0,)), ("_down", (1,))):
            earlier = [p.ts_ns for before in intervals[:number] for p in before if p.direction in wanted]
            now = [p for p in packets if p.direction in wanted]
            output |= series(suffix, earlier, now)
        outputs.append(output)
    return outputs


def series(suffix: str, earlier_ns: list[int], packets: list[Any]) -> dict[str, Any]:
    times_ns = monotone(earlier_ns + [p.ts_ns for p in packets])
    before, now = times_ns[: len(earlier_ns)], times_ns[len(earlier_ns) :]
    gaps_s = np.diff(now) / 1e9
    seen = len(gaps_s) > 0
    gaps_us = (np.diff(now) + 500) // 1_000
    return {
        f"iat_n{suffix}": len(gaps_s),
        f"iat_s_mean{suffix}": gaps_s.mean() if seen else NAN,
        f"iat_s_std{suffix}": gaps_s.std() if seen else NAN,
        f"iat_s_min{suffix}": gaps_s.min() if seen else NAN,
        f"iat_s_max{suffix}": gaps_s.max() if seen else NAN,
        f"first_s{suffix}": max(now[0] - packets[0].interval_start_ns, 0) / 1e9 if now else NAN,
        f"last_s{suffix}": max(now[-1] - packets[-1].interval_start_ns, 0) / 1e9 if now else NAN,
        f"idle_before_s{suffix}": (now[0] - before[-1]) / 1e9 if now and before else NAN,
        **{
            f"iat_s_p{q}{suffix}": np.percentile(gaps_us, q, method="lower") / 1e6 if seen else NAN
            for q in (25, 50, 75)
        },
    }


def monotone(times_ns: list[int]) -> list[int]:
    return [max(times_ns[: i + 1]) for i in range(len(times_ns))]
