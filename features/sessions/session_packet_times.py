"""When the packets of a session come."""

from __future__ import annotations

from typing import Any, NamedTuple

from trafficrefinery.api.sessions import NETWORK, Flows, Pooled, SessionFeature


class SessionPacketTimesOutput(NamedTuple):
    iat_n_up: int  # gaps between upstream packets
    iat_s_mean_up: float  # s
    iat_s_std_up: float  # s
    iat_s_min_up: float  # s
    iat_s_max_up: float  # s
    iat_n_down: int  # gaps between downstream packets
    iat_s_mean_down: float  # s
    iat_s_std_down: float  # s
    iat_s_min_down: float  # s
    iat_s_max_down: float  # s
    idle_before_s: float  # s, the least over its flows: from a packet before the interval to the first one in it


class SessionPacketTimes(SessionFeature):
    """Inter-arrival times of packets of the same flow, pooled over the flows of a session (paper, Table 1).

    Only gaps between two packets of the interval count. The published columns also have the gap that began before it.
    """

    group = NETWORK
    needs = ("PacketTimes",)

    @staticmethod
    def collect_sessions(state: Any, flows: Flows) -> SessionPacketTimesOutput:  # noqa: ARG004 (keeps nothing)
        up, down = _gaps(flows, "up"), _gaps(flows, "down")
        return SessionPacketTimesOutput(*up, *down, idle_before_s=flows.low(flows["PacketTimes.idle_before_s"]))


def _gaps(flows: Flows, way: str) -> Pooled:
    figures = (flows[f"PacketTimes.iat_s_{figure}_{way}"] for figure in ("mean", "std", "min", "max"))
    return flows.pooled(flows[f"PacketTimes.iat_n_{way}"], *figures)
