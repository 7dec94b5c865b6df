"""Round-trip times of a session."""

from __future__ import annotations

from typing import Any, NamedTuple

from trafficrefinery.api.sessions import TRANSPORT, Flows, Pooled, SessionFeature


class SessionRoundTripsOutput(NamedTuple):
    rtt_server_samples: int  # samples; client's packet to server's ACK
    rtt_server_s_mean: float  # s
    rtt_server_s_std: float  # s
    rtt_server_s_min: float  # s
    rtt_server_s_max: float  # s
    rtt_client_samples: int  # samples; server's packet to client's ACK
    rtt_client_s_mean: float  # s
    rtt_client_s_std: float  # s
    rtt_client_s_min: float  # s
    rtt_client_s_max: float  # s


class SessionRoundTrips(SessionFeature):
    """Round trips on both sides of the sensor, pooled over the flows of a session; null without samples."""

    group = TRANSPORT
    needs = ("LatencyCounters",)

    @staticmethod
    def collect_sessions(state: Any, flows: Flows) -> SessionRoundTripsOutput:  # noqa: ARG004 (keeps nothing)
        return SessionRoundTripsOutput(*_side(flows, "server"), *_side(flows, "client"))


def _side(flows: Flows, side: str) -> Pooled:
    figures = (flows[f"LatencyCounters.rtt_{side}_s_{figure}"] for figure in ("mean", "std", "min", "max"))
    return flows.pooled(flows[f"LatencyCounters.rtt_{side}_samples"], *figures)
