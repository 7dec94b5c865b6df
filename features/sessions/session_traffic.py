"""Throughput, packets and flows of a session."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import numpy as np

from trafficrefinery.api import Array, array, float64, named, parameter, uint32
from trafficrefinery.api.sessions import NETWORK, Flows, SessionFeature, over

LATEST = 6
BOTH_WAYS = named("*_up", "*_down")


class WayOutput(NamedTuple):
    packets: int  # packets
    bytes: int  # bytes, IP total length
    kbps: float  # 1,000 bit/s, all flows of the service
    media_kbps: float  # 1,000 bit/s, of media flows
    other_kbps: float  # 1,000 bit/s, of the other flows


class SessionTrafficOutput(NamedTuple):
    parallel_flows: int  # flows with packets in the interval
    media_flows: int  # of them, flows that have carried a media segment
    ways: Annotated[tuple[WayOutput, WayOutput], BOTH_WAYS]
    kbps_down_change: float  # 1,000 bit/s more than in the session's interval before; null in the first
    last6_kbps_down: float  # 1,000 bit/s, mean of the session's last six intervals with packets
    all_kbps_down: float  # 1,000 bit/s since the session's start
    packet_bytes_mean: Annotated[tuple[float, float], BOTH_WAYS]  # bytes, IP total length of a packet
    largest_flow_share: float  # of bytes_down, by the flow with most of them


class SessionTraffic(SessionFeature):
    """How much a session transfers, in how many flows (paper, Table 1).

    A flow counts as one for media from its first completed segment on, or from a pending one of `MediaBytes` bytes.
    """

    group = NETWORK
    needs = ("PacketCounters", "VideoSegments")
    MediaBytes = parameter(30_000, at_least=0, unit="bytes")

    bytes_down: float64  # since the session's start
    intervals: uint32
    latest_kbps: Array[float] = array(float64, LATEST)  # the latest first

    @staticmethod
    def collect_sessions(state: Any, flows: Flows) -> SessionTrafficOutput:
        pending = (flows["VideoSegments.pending_requests"] > 0) & (
            flows["VideoSegments.pending_bytes"] >= state.MediaBytes
        )
        media = (flows["VideoSegments.all_segments"] > 0) | pending
        up, down = (_way(flows, way, media) for way in ("up", "down"))
        change: Any = np.where(state.intervals > 0, down.kbps - state.latest_kbps[:, 0], np.nan)
        state.latest_kbps[:, 1:] = state.latest_kbps[:, :-1].copy()
        state.latest_kbps[:, 0] = down.kbps
        state.intervals += 1
        state.bytes_down += down.bytes
        return SessionTrafficOutput(
            parallel_flows=flows.sum(np.ones(len(flows.session))),
            media_flows=flows.sum(media),
            ways=(up, down),
            kbps_down_change=change,
            last6_kbps_down=state.latest_kbps.sum(axis=1) / np.minimum(state.intervals, LATEST),
            all_kbps_down=over(state.bytes_down * 8 / 1_000, flows.age_s),
            packet_bytes_mean=(over(up.bytes, up.packets), over(down.bytes, down.packets)),
            largest_flow_share=over(flows.high(flows["PacketCounters.bytes_down"]), down.bytes),
        )


def _way(flows: Flows, way: str, media: Any) -> WayOutput:
    to_kbps = 8 / 1_000 / flows.interval_s
    flow_bytes = flows[f"PacketCounters.bytes_{way}"]
    all_bytes, media_bytes = flows.sum(flow_bytes), flows.sum(flow_bytes * media)
    return WayOutput(
        packets=flows.sum(flows[f"PacketCounters.packets_{way}"]),
        bytes=all_bytes,
        kbps=all_bytes * to_kbps,
        media_kbps=media_bytes * to_kbps,
        other_kbps=(all_bytes - media_bytes) * to_kbps,
    )
