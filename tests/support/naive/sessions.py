"""Sessions and their features, one client and one flow at a time, from all that was seen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trafficrefinery.api import Histogram
from trafficrefinery.api.testing import new_state

NAN = math.nan


def sessions_of(intervals: list[tuple[int, bool]], start_gap: int, end_gap: int, length: int) -> list[int]:
    """The number of the session of each (start, has media) of a client's intervals with packets; -1: none."""
    found, number, last_media, last_packet = [], -1, None, None
    for start, media in intervals:
        if last_media is not None and start - last_media >= start_gap and start - last_packet >= end_gap:
            last_media = None
        if last_media is None and media:
            number += 1
        is_open = media or (last_media is not None and start - last_packet < end_gap)
        if is_open:
            last_packet = start + length
        if media:
            last_media = start + length
        found.append(number if is_open else -1)
    return found


def series(parts: list[tuple[float, float, float, float, float]]) -> tuple[float, ...]:
    """(n, mean, std, min, max) of parts that are given so; by way of a series that has these figures."""
    parts = [part for part in parts if part[0] > 0]
    n = sum(part[0] for part in parts)
    if n == 0:
        return (0, NAN, NAN, NAN, NAN)
    mean = sum(part[0] * part[1] for part in parts) / n
    squares = sum(part[0] * (part[2] ** 2 + part[1] ** 2) for part in parts) / n - mean**2
    return (n, mean, math.sqrt(max(squares, 0)), min(part[3] for part in parts), max(part[4] for part in parts))


def segments(history: list[list[dict[str, Any]]]) -> dict[str, float]:
    """`SessionSegments` after the flows of each interval so far."""

    def figures(flow: dict[str, Any]) -> tuple[float, ...]:
        return (flow["segments"], *(flow[f"segment_bytes_{name}"] for name in ("mean", "std", "min", "max")))

    now = series([figures(flow) for flow in history[-1]])
    since = series([figures(flow) for flows in history for flow in flows])
    latest: list[float] = []
    sketch = new_state(Histogram)
    for flows in history:
        listed = [
            (position, row, size)
            for row, flow in enumerate(flows)
            for position, size in enumerate(flow["segment_sizes"])
        ]
        latest = [size for _, _, size in sorted(listed)] + latest
        for _, _, size in listed:
            sketch.add(int(size))
    latest = latest[:10]
    found = dict(
        zip(
            ("segments", "segment_bytes_mean", "segment_bytes_std", "segment_bytes_min", "segment_bytes_max"),
            now,
            strict=True,
        )
    )
    found |= dict(
        zip(("all_segments", "all_bytes_mean", "all_bytes_std", "all_bytes_min", "all_bytes_max"), since, strict=True)
    )
    for q in (50, 75, 85, 90):
        found[f"last10_bytes_p{q}"] = float(np.percentile(latest, q)) if latest else NAN
        found[f"all_bytes_p{q}"] = float(sketch.quantile(q / 100))
    found["last10_bytes_mean"] = float(np.mean(latest)) if latest else NAN
    found["last10_bytes_std"] = float(np.std(latest)) if latest else NAN
    weights = [0.25**i for i in range(len(latest))]
    found["last10_bytes_ewma"] = (
        sum(w * x for w, x in zip(weights, latest, strict=True)) / sum(weights) if latest else NAN
    )
    return found
