"""Requests of a session, and how they are answered."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from trafficrefinery.api import MomentsOutput, float64
from trafficrefinery.api.sessions import APPLICATION, Flows, Pooled, Series, SessionFeature, merge, over


class TimesOutput(NamedTuple):
    mean: float
    min: float
    max: float


class SessionRequestsOutput(NamedTuple):
    requests: int  # in this interval
    all_requests: int  # since the session's start
    pending_requests: int  # whose segment is not complete, at the interval's end
    pending_bytes: int  # bytes of segments that are not complete
    request_iat_s: MomentsOutput  # s; gaps that end now
    completion_iat_s: MomentsOutput  # s, of segments; gaps that end now
    all_request_iat_s: MomentsOutput  # s, of the session
    all_completion_iat_s: MomentsOutput  # s, of segments of the session
    ttfb_s: TimesOutput  # s, request to first byte
    download_s: TimesOutput  # s, first to last byte
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
            requests=requests,
            all_requests=state.requests.copy(),
            pending_requests=flows.sum(flows["VideoSegments.pending_requests"]),
            pending_bytes=flows.sum(flows["VideoSegments.pending_bytes"]),
            request_iat_s=asked.output(),
            completion_iat_s=answered.output(),
            all_request_iat_s=merge(state.request_iat, asked).output(),
            all_completion_iat_s=merge(state.completion_iat, answered).output(),
            ttfb_s=_times(flows, "ttfb_s", done, total),
            download_s=_times(flows, "download_s", done, total),
            response_kbps=over(flows.sum(flows["VideoSegments.segment_bytes"]) * 8 / 1_000, response_s),
        )


def _gaps(flows: Flows, kind: str, events: str) -> Pooled:
    """Gaps that end in the interval: as many as events, but one less where the flow's first is among them."""
    n, since = flows[f"VideoSegments.{events}"], flows[f"VideoSegments.all_{events}"]
    return flows.pooled(np.where((n > 0) & (n == since), n - 1, n), f"VideoSegments.{kind}_iat_s_*")


def _times(flows: Flows, name: str, segments: Any, total: Any) -> TimesOutput:
    return TimesOutput(
        mean=over(flows.sum(segments * flows[f"VideoSegments.{name}_mean"]), total),
        min=flows.low(flows[f"VideoSegments.{name}_min"]),
        max=flows.high(flows[f"VideoSegments.{name}_max"]),
    )
