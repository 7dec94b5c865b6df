"""Sizes of the media segments of a session."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from trafficrefinery.api import Array, Histogram, array, float64, uint8
from trafficrefinery.api.sessions import (
    APPLICATION,
    Flows,
    Series,
    SessionFeature,
    histogram_add,
    histogram_quantile,
    merge,
    over,
)

LATEST, BEFORE = 10, 4
WEIGHTS = 0.25 ** np.arange(LATEST)


class SessionSegmentsOutput(NamedTuple):
    segments: int  # completed in this interval
    segment_bytes: int  # bytes of all segments completed in this interval
    segment_bytes_mean: float  # bytes
    segment_bytes_std: float  # bytes
    segment_bytes_min: float  # bytes
    segment_bytes_max: float  # bytes
    last10_bytes_mean: float  # bytes, of the session's last ten segments
    last10_bytes_std: float  # bytes
    last10_bytes_min: float  # bytes
    last10_bytes_max: float  # bytes
    last10_bytes_p50: float  # bytes
    last10_bytes_p75: float  # bytes
    last10_bytes_p85: float  # bytes
    last10_bytes_p90: float  # bytes
    last10_bytes_ewma: float  # bytes, weight 0.75 on the latest
    all_segments: int  # since the session's start, as what follows
    all_bytes: int  # bytes
    all_bytes_mean: float  # bytes
    all_bytes_std: float  # bytes
    all_bytes_min: float  # bytes
    all_bytes_max: float  # bytes
    all_bytes_p50: float  # bytes, within 12.5 % as all that follow
    all_bytes_p75: float  # bytes
    all_bytes_p85: float  # bytes
    all_bytes_p90: float  # bytes
    segment_kbps: float  # 1,000 bit/s of all completed segments since the session's start
    last10_share: float  # mean of the last ten over the mean of all
    spread_share: float  # deviation of the last ten over their mean
    segment_bytes_max_1_before: float  # bytes, in the session's interval with packets before this one
    segment_bytes_max_2_before: float  # bytes, two before; what is on the screen came a buffer's length ago
    segment_bytes_max_3_before: float  # bytes
    segment_bytes_max_4_before: float  # bytes


class SessionSegments(SessionFeature):
    """Segment sizes of the interval, of the last ten segments, and since the session's start.

    Flows do not tell when each of their segments was complete. Of one interval, the latest segment of each flow counts
    as later than the second latest of any, and so on; flows in turn by their id. Quantiles since the start leave out
    segments that a flow counts but does not list (more than ten in an interval).
    """

    group = APPLICATION
    needs = ("VideoSegments",)

    sizes: Series  # bytes
    bins: Histogram  # bytes
    latest_bytes: Array[float] = array(float64, LATEST)  # the latest first
    latest_n: uint8
    maxima: Array[float] = array(float64, BEFORE)  # bytes, of the intervals before, the latest first; 0: no segment

    @staticmethod
    def collect_sessions(state: Any, flows: Flows) -> SessionSegmentsOutput:
        n = flows["VideoSegments.segments"]
        figures = (flows[f"VideoSegments.segment_bytes_{figure}"] for figure in ("mean", "std", "min", "max"))
        now = flows.pooled(n, *figures)
        since = merge(state.sizes, now)
        values, rows, positions = flows.lists("VideoSegments.segment_sizes")
        sessions = flows.session[rows]
        histogram_add(state.bins, sessions, values)
        _keep_latest(state, values, sessions, np.argsort((sessions * LATEST + positions) * len(flows.session) + rows))
        latest = _latest(state)
        since_bytes = np.nan_to_num(since.n * since.mean)
        figures_of_now = (now.n, flows.sum(flows["VideoSegments.segment_bytes"]), *now[1:])
        figures_since = (since.n, since_bytes, *since[1:], *histogram_quantile(state.bins, (0.5, 0.75, 0.85, 0.9)))
        relative = (
            over(since_bytes * 8 / 1_000, flows.age_s), over(latest[0], since.mean), over(latest[1], latest[0]),
        )  # fmt: skip
        maxima = np.where(state.maxima > 0, state.maxima, np.nan)
        state.maxima = np.column_stack((np.nan_to_num(now.high), state.maxima[:, :-1]))
        return SessionSegmentsOutput._make((*figures_of_now, *latest, *figures_since, *relative, *maxima.T))


def _keep_latest(state: Any, values: Any, sessions: Any, order: Any) -> None:
    """Put new segments before the old ones; `order` has the latest of each session first."""
    if not len(order):
        return
    values, sessions = values[order], sessions[order]
    new = np.bincount(sessions, minlength=len(state.latest_n))
    place = np.arange(len(sessions)) - (np.cumsum(new) - new)[sessions]
    kept = place < LATEST
    both = np.concatenate((np.zeros((len(new), LATEST)), state.latest_bytes), axis=1)
    both[sessions[kept], place[kept]] = values[kept]
    new = np.minimum(new, LATEST)[:, None]
    at = np.arange(LATEST)
    state.latest_bytes = np.take_along_axis(both, np.where(at < new, at, LATEST + at - new), axis=1)
    state.latest_n = np.minimum(state.latest_n + new[:, 0], LATEST)


def _latest(state: Any) -> list[Any]:
    """Mean, deviation, minimum, maximum, quantiles and EWMA of the last ten; NaN without any."""
    n = state.latest_n.astype(np.intp)
    there = np.arange(LATEST) < n[:, None]
    sizes = np.where(there, state.latest_bytes, 0.0)
    mean = over(sizes.sum(axis=1), n)
    away = np.where(there, sizes - mean[:, None], 0.0)
    ordered = np.sort(np.where(there, sizes, np.inf), axis=1)
    row = np.arange(len(n))

    def quantile(q: float) -> Any:
        rank = q * np.maximum(n - 1, 0)
        below = rank.astype(np.intp)
        lower, upper = ordered[row, below], ordered[row, np.minimum(below + 1, np.maximum(n - 1, 0))]
        with np.errstate(invalid="ignore"):
            return np.where(n > 0, lower + (rank - below) * (upper - lower), np.nan)

    ewma = over((sizes * WEIGHTS).sum(axis=1), (there * WEIGHTS).sum(axis=1))
    std = np.sqrt(over((away * away).sum(axis=1), n))
    return [mean, std, quantile(0.0), quantile(1.0), *map(quantile, (0.5, 0.75, 0.85, 0.9)), ewma]
