"""When the packets of a session come."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from trafficrefinery.api import MomentsOutput, named
from trafficrefinery.api.sessions import NETWORK, Flows, SessionFeature


class GapsOutput(NamedTuple):
    iat_n: int
    iat_s: MomentsOutput  # s


class SessionPacketTimesOutput(NamedTuple):
    up: Annotated[GapsOutput, named("*_up")]  # gaps between upstream packets
    down: Annotated[GapsOutput, named("*_down")]  # gaps between downstream packets
    idle_before_s: float  # s, the least over its flows: from a packet before the interval to the first one in it


class SessionPacketTimes(SessionFeature):
    """Inter-arrival times of packets of the same flow, pooled over the flows of a session (paper, Table 1).

    Only gaps between two packets of the interval count. The published columns also have the gap that began before it.
    """

    group = NETWORK
    needs = ("PacketTimes",)

    @staticmethod
    def collect_sessions(state: Any, flows: Flows) -> SessionPacketTimesOutput:  # noqa: ARG004 (keeps nothing)
        return SessionPacketTimesOutput(
            up=_gaps(flows, "up"),
            down=_gaps(flows, "down"),
            idle_before_s=flows.low(flows["PacketTimes.idle_before_s"]),
        )


def _gaps(flows: Flows, way: str) -> GapsOutput:
    gaps = flows.pooled(flows[f"PacketTimes.iat_n_{way}"], f"PacketTimes.iat_s_*_{way}")
    return GapsOutput(iat_n=gaps.n, iat_s=gaps.output())
