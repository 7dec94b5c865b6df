"""Round-trip times of a session."""

from __future__ import annotations

from typing import Any, NamedTuple

from trafficrefinery.api import MomentsOutput
from trafficrefinery.api.sessions import TRANSPORT, Flows, SessionFeature


class SideOutput(NamedTuple):
    samples: int  # samples
    s: MomentsOutput  # s


class SessionRoundTripsOutput(NamedTuple):
    rtt_server: SideOutput  # client's packet to server's ACK
    rtt_client: SideOutput  # server's packet to client's ACK


class SessionRoundTrips(SessionFeature):
    """Round trips on both sides of the sensor, pooled over the flows of a session; null without samples."""

    group = TRANSPORT
    needs = ("LatencyCounters",)

    @staticmethod
    def collect_sessions(state: Any, flows: Flows) -> SessionRoundTripsOutput:  # noqa: ARG004 (keeps nothing)
        return SessionRoundTripsOutput(rtt_server=_side(flows, "server"), rtt_client=_side(flows, "client"))


def _side(flows: Flows, side: str) -> SideOutput:
    rtt = flows.pooled(flows[f"LatencyCounters.rtt_{side}_samples"], f"LatencyCounters.rtt_{side}_s_*")
    return SideOutput(samples=rtt.n, s=rtt.output())
