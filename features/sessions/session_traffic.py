"""Throughput, packets and flows of a session."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from trafficrefinery.api import Array, array, float64, uint32
from trafficrefinery.api.sessions import NETWORK, Flows, SessionFeature, over

LATEST = 6


class SessionTrafficOutput(NamedTuple):
    parallel_flows: int  # flows with packets in the interval
    media_flows: int  # of them, flows that have carried a media segment
    packets_up: int  # packets
    packets_down: int  # packets
    bytes_up: int  # IP total length, bytes
    bytes_down: int  # bytes
    kbps_up: float  # 1,000 bit/s, all flows of the service
    kbps_down: float  # 1,000 bit/s
    media_kbps_up: float  # 1,000 bit/s, of media flows
    media_kbps_down: float  # 1,000 bit/s
    other_kbps_up: float  # 1,000 bit/s, of the other flows
    other_kbps_down: float  # 1,000 bit/s
    kbps_down_change: float  # 1,000 bit/s more than in the session's interval before; null in the first
    last6_kbps_down: float  # 1,000 bit/s, mean of the session's last six intervals with packets
    all_kbps_down: float  # 1,000 bit/s since the session's start
    packet_bytes_mean_up: float  # bytes a packet, IP total length
    packet_bytes_mean_down: float  # bytes
    largest_flow_share: float  # of bytes_down, by the flow with most of them


class SessionTraffic(SessionFeature):
    """How much a session transfers, in how many flows (paper, Table 1).

    A flow counts as one for media from its first completed segment on, or from a pending one of `MEDIA_BYTES` bytes.
    """

    group = NETWORK
    needs = ("PacketCounters", "VideoSegments")
    MEDIA_BYTES = 30_000

    bytes_down: float64  # since the session's start
    intervals: uint32
    latest_kbps: Array[float] = array(float64, LATEST)  # the latest first

    @staticmethod
    def collect_sessions(state: Any, flows: Flows) -> SessionTrafficOutput:
        to_kbps = 8 / 1_000 / flows.interval_s
        up, down = flows["PacketCounters.bytes_up"], flows["PacketCounters.bytes_down"]
        pending = (flows["VideoSegments.pending_requests"] > 0) & (
            flows["VideoSegments.pending_bytes"] >= SessionTraffic.MEDIA_BYTES
        )
        media = (flows["VideoSegments.all_segments"] > 0) | pending
        packets_up = flows.sum(flows["PacketCounters.packets_up"])
        packets_down = flows.sum(flows["PacketCounters.packets_down"])
        bytes_up, bytes_down = flows.sum(up), flows.sum(down)
        media_up, media_down = flows.sum(up * media), flows.sum(down * media)
        kbps_down = bytes_down * to_kbps
        change: Any = np.where(state.intervals > 0, kbps_down - state.latest_kbps[:, 0], np.nan)
        state.latest_kbps[:, 1:] = state.latest_kbps[:, :-1].copy()
        state.latest_kbps[:, 0] = kbps_down
        state.intervals += 1
        state.bytes_down += bytes_down
        return SessionTrafficOutput(
            parallel_flows=flows.sum(np.ones(len(flows.session))),
            media_flows=flows.sum(media),
            packets_up=packets_up,
            packets_down=packets_down,
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            kbps_up=bytes_up * to_kbps,
            kbps_down=kbps_down,
            media_kbps_up=media_up * to_kbps,
            media_kbps_down=media_down * to_kbps,
            other_kbps_up=(bytes_up - media_up) * to_kbps,
            other_kbps_down=(bytes_down - media_down) * to_kbps,
            kbps_down_change=change,
            last6_kbps_down=state.latest_kbps.sum(axis=1) / np.minimum(state.intervals, LATEST),
            all_kbps_down=over(state.bytes_down * 8 / 1_000, flows.age_s),
            packet_bytes_mean_up=over(bytes_up, packets_up),
            packet_bytes_mean_down=over(bytes_down, packets_down),
            largest_flow_share=over(flows.high(down), bytes_down),
        )
