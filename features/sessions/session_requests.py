"""Requests of a session, and how they are answered."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from trafficrefinery.api import float64
from trafficrefinery.api.sessions import APPLICATION, Flows, Pooled, Series, SessionFeature, merge, over


class SessionRequestsOutput(NamedTuple):
    requests: int  # in this interval
    all_requests: int  # since the session's start
    pending_requests: int  # whose segment is not complete, at the interval's end
    pending_bytes: int  # bytes of segments that are not complete
    request_iat_s_mean: float  # s; gaps that end now
    request_iat_s_std: float  # s
    request_iat_s_min: float  # s
    request_iat_s_max: float  # s
    completion_iat_s_mean: float  # s, of segments
    completion_iat_s_std: float  # s
    completion_iat_s_min: float  # s
    completion_iat_s_max: float  # s
    all_request_iat_s_mean: float  # s, of the session
    all_request_iat_s_std: float  # s
    all_request_iat_s_min: float  # s
    all_request_iat_s_max: float  # s
    all_completion_iat_s_mean: float  # s
    all_completion_iat_s_std: float  # s
    all_completion_iat_s_min: float  # s
    all_completion_iat_s_max: float  # s
    ttfb_s_mean: float  # s, request to first byte
    ttfb_s_min: float  # s
    ttfb_s_max: float  # s
    download_s_mean: float  # s, first to last byte
    download_s_min: float  # s
    download_s_max: float  # s
    response_kbps: float  # 1,000 bit/s, all segments of the interval over all times from request to last byte


class SessionRequests(SessionFeature):
    """Requests, pending ones, and gaps between requests and between completions, pooled over the flows of a session.

    A gap lies between two requests (or completions) of the same flow. The published columns have them over all flows.
    """

    group = APPLICATION
    needs = ("VideoSegments",)

    requests: float64  # since the session's start
    request_iat: Series  # s
    completion_iat: Series  # s

    @staticmethod
    def collect_sessions(state: Any, flows: Flows) -> SessionRequestsOutput:
        segments = flows["VideoSegments.segments"]
        asked = _gaps(flows, "request", "requests")
        answered = _gaps(flows, "completion", "segments")
        requests = flows.sum(flows["VideoSegments.requests"])
        state.requests += requests
        done = np.where(segments > 0, segments, 0.0)
        total = flows.sum(done)
        response_s = flows.sum(done * flows["VideoSegments.response_s_mean"])
        return SessionRequestsOutput(
            requests, state.requests.copy(),
            flows.sum(flows["VideoSegments.pending_requests"]), flows.sum(flows["VideoSegments.pending_bytes"]),
            *asked[1:], *answered[1:], *merge(state.request_iat, asked)[1:], *merge(state.completion_iat, answered)[1:],
            *_times(flows, "ttfb_s", done, total), *_times(flows, "download_s", done, total),
            response_kbps=over(flows.sum(flows["VideoSegments.segment_bytes"]) * 8 / 1_000, response_s),
        )  # fmt: skip


def _gaps(flows: Flows, kind: str, events: str) -> Pooled:
    """Gaps that end in the interval: as many as events, but one less where the flow's first is among them."""
    n, since = flows[f"VideoSegments.{events}"], flows[f"VideoSegments.all_{events}"]
    figures = (flows[f"VideoSegments.{kind}_iat_s_{figure}"] for figure in ("mean", "std", "min", "max"))
    return flows.pooled(np.where((n > 0) & (n == since), n - 1, n), *figures)


def _times(flows: Flows, name: str, segments: Any, total: Any) -> tuple[Any, Any, Any]:
    mean, low, high = (flows[f"VideoSegments.{name}_{figure}"] for figure in ("mean", "min", "max"))
    return over(flows.sum(segments * mean), total), flows.low(low), flows.high(high)
