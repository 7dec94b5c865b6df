"""What the TCP headers of a session tell."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from trafficrefinery.api.sessions import TRANSPORT, Flows, SessionFeature, over


class SessionTCPOutput(NamedTuple):
    tcp_flows: int  # TCP flows with packets in the interval
    ack_up: int  # packets with this flag, as those that follow
    ack_down: int  # packets
    syn_up: int  # packets
    syn_down: int  # packets
    fin_up: int  # packets
    fin_down: int  # packets
    rst_up: int  # packets
    rst_down: int  # packets
    psh_up: int  # packets
    psh_down: int  # packets
    window_bytes_mean_up: float  # bytes, receive window that this side offers; packets without SYN and RST
    window_bytes_mean_down: float  # bytes
    window_bytes_std_up: float  # bytes
    window_bytes_std_down: float  # bytes
    window_bytes_min_up: float  # bytes
    window_bytes_min_down: float  # bytes
    window_bytes_max_up: float  # bytes
    window_bytes_max_down: float  # bytes
    payload_bytes_up: float  # bytes of TCP payload
    payload_bytes_down: float  # bytes
    payload_bytes_mean_up: float  # bytes a packet
    payload_bytes_mean_down: float  # bytes
    payload_bytes_std_up: float  # bytes
    payload_bytes_std_down: float  # bytes
    payload_bytes_min_up: float  # bytes
    payload_bytes_min_down: float  # bytes
    payload_bytes_max_up: float  # bytes
    payload_bytes_max_down: float  # bytes
    in_flight_bytes_mean_up: float  # bytes; flows weighted by packets
    in_flight_bytes_mean_down: float  # bytes
    in_flight_bytes_std_up: float  # bytes
    in_flight_bytes_std_down: float  # bytes
    in_flight_bytes_min_up: float  # bytes
    in_flight_bytes_min_down: float  # bytes
    in_flight_bytes_max_up: float  # bytes
    in_flight_bytes_max_down: float  # bytes
    retransmissions_up: int  # packets, fast and spurious ones as well
    retransmissions_down: int  # packets
    retransmitted_bytes_up: int  # bytes
    retransmitted_bytes_down: int  # bytes
    retransmission_share_up: float  # of the packets
    retransmission_share_down: float  # of the packets
    out_of_order_up: int  # packets
    out_of_order_down: int  # packets
    lost_segments_up: int  # gaps
    lost_segments_down: int  # gaps
    duplicate_acks_up: int  # packets
    duplicate_acks_down: int  # packets
    zero_windows_up: int  # packets
    zero_windows_down: int  # packets
    unique_bytes_up: int  # payload bytes not seen before
    unique_bytes_down: int  # bytes
    goodput_kbps_up: float  # 1,000 bit/s of unique payload
    goodput_kbps_down: float  # 1,000 bit/s
    idle_s_up: float  # s, the least over its flows, see TCPCounters
    idle_s_down: float  # s


WAYS = ("up", "down")
COUNTS = (
    "ack", "syn", "fin", "rst", "psh", "retransmissions", "retransmitted_bytes", "out_of_order", "lost_segments",
    "duplicate_acks", "zero_windows", "unique_bytes",
)  # fmt: skip


class SessionTCP(SessionFeature):
    """The TCP flows of a session as one (paper, Table 1; the transport group of Bronzino et al., 2019).

    Null without TCP flows: QUIC has no such headers. The published windows are raw header fields, ours are bytes.
    """

    group = TRANSPORT
    needs = ("PacketCounters", "TCPCounters")

    @staticmethod
    def collect_sessions(state: Any, flows: Flows) -> SessionTCPOutput:  # noqa: ARG004 (keeps nothing)
        tcp = flows.sum(flows.tcp)
        gone = np.where(tcp > 0, 0.0, np.nan)
        figures: dict[str, Any] = {"tcp_flows": tcp + gone}
        for way in WAYS:
            packets = np.where(flows.tcp, flows[f"PacketCounters.packets_{way}"], 0.0)
            for name in COUNTS:
                column = f"{name}_{way}"
                figures[column] = flows.sum(np.where(flows.tcp, flows[f"TCPCounters.{column}"], 0.0)) + gone
            with_window = packets - flows[f"TCPCounters.syn_{way}"] - flows[f"TCPCounters.rst_{way}"]
            for series, n in (("window", with_window), ("payload", packets), ("in_flight", packets)):
                names = [f"{series}_bytes_{figure}_{way}" for figure in ("mean", "std", "min", "max")]
                given = [flows[f"TCPCounters.{name}"] for name in names]
                seen = np.where(np.isnan(given[0]), 0.0, n)
                pooled = flows.pooled(seen, *given)
                figures.update(zip(names, pooled[1:], strict=True))
                if series == "payload":
                    figures[f"payload_bytes_{way}"] = np.nan_to_num(pooled.n * pooled.mean) + gone
            figures[f"retransmission_share_{way}"] = over(figures[f"retransmissions_{way}"], flows.sum(packets))
            figures[f"goodput_kbps_{way}"] = figures[f"unique_bytes_{way}"] * 8 / 1_000 / flows.interval_s
            figures[f"idle_s_{way}"] = flows.low(np.where(flows.tcp, flows[f"TCPCounters.idle_s_{way}"], np.nan))
        return SessionTCPOutput(**figures)
