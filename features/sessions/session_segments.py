"""Sizes of the media segments of a session."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np

from trafficrefinery.api import Array, Histogram, MomentsOutput, array, float64, named, uint8
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


class QuantilesOutput(NamedTuple):
    p50: float
    p75: float
    p85: float
    p90: float


class LatestOutput(NamedTuple):
    moments: Annotated[MomentsOutput, named("*")]  # bytes
    quantiles: Annotated[QuantilesOutput, named("*")]  # bytes
    ewma: float  # bytes, weight 0.75 on the latest


class BeforeOutput(NamedTuple):
    max_1_before: float  # bytes, in the session's interval with packets before this one
    max_2_before: float  # bytes, two before; what is on the screen came a buffer's length ago
    max_3_before: float  # bytes
    max_4_before: float  # bytes


class SessionSegmentsOutput(NamedTuple):
    segments: int  # completed in this interval
    segment_bytes: int  # bytes of all segments completed in this interval
    sizes: Annotated[MomentsOutput, named("segment_bytes_*")]  # bytes, of the segments completed in this interval
    last10_bytes: LatestOutput  # of the session's last ten segments
    all_segments: int  # since the session's start
    all_bytes: int  # bytes, since the session's start
    all_sizes: Annotated[MomentsOutput, named("all_bytes_*")]  # bytes, of the segments since the session's start
    all_quantiles: Annotated[QuantilesOutput, named("all_bytes_*")]  # bytes, likewise, within 12.5 %
    segment_kbps: float  # 1,000 bit/s of all completed segments since the session's start
    last10_share: float  # mean of the last ten over the mean of all
    spread_share: float  # deviation of the last ten over their mean
    before: Annotated[BeforeOutput, named("segment_bytes_*")]


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
        now = flows.pooled(flows["VideoSegments.segments"], "VideoSegments.segment_bytes_*")
        since = merge(state.sizes, now)
        values, rows, positions = flows.lists("VideoSegments.segment_sizes")
        sessions = flows.session[rows]
        histogram_add(state.bins, sessions, values)
        _keep_latest(state, values, sessions, np.argsort((sessions * LATEST + positions) * len(flows.session) + rows))
        latest = _latest(state)
        since_bytes = np.nan_to_num(since.n * since.mean)
        maxima = np.where(state.maxima > 0, state.maxima, np.nan).T
        state.maxima = np.column_stack((np.nan_to_num(now.high), state.maxima[:, :-1]))
        p50, p75, p85, p90 = histogram_quantile(state.bins, (0.5, 0.75, 0.85, 0.9))
        return SessionSegmentsOutput(
            segments=now.n,
            segment_bytes=flows.sum(flows["VideoSegments.segment_bytes"]),
            sizes=now.output(),
            last10_bytes=latest,
            all_segments=since.n,
            all_bytes=since_bytes,
            all_sizes=since.output(),
            all_quantiles=QuantilesOutput(p50=p50, p75=p75, p85=p85, p90=p90),
            segment_kbps=over(since_bytes * 8 / 1_000, flows.age_s),
            last10_share=over(latest.moments.mean, since.mean),
            spread_share=over(latest.moments.std, latest.moments.mean),
            before=BeforeOutput(
                max_1_before=maxima[0], max_2_before=maxima[1], max_3_before=maxima[2], max_4_before=maxima[3]
            ),
        )


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


def _latest(state: Any) -> LatestOutput:
    """Over the last ten segments; NaN if there are none."""
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
    return LatestOutput(
        moments=MomentsOutput(mean=mean, std=std, min=quantile(0.0), max=quantile(1.0)),
        quantiles=QuantilesOutput(p50=quantile(0.5), p75=quantile(0.75), p85=quantile(0.85), p90=quantile(0.9)),
        ewma=ewma,
    )
