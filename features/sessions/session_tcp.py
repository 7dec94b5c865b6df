"""What the TCP headers of a session tell."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np

from trafficrefinery.api import MomentsOutput, named
from trafficrefinery.api.sessions import TRANSPORT, Column, Flows, Pooled, SessionFeature, over


class FlagsOutput(NamedTuple):
    ack: int  # packets, with this flag
    syn: int  # packets, likewise
    fin: int  # packets, likewise
    rst: int  # packets, likewise
    psh: int  # packets, likewise


class RetransmittedOutput(NamedTuple):
    retransmissions: int  # packets, fast and spurious ones as well
    retransmitted_bytes: int  # bytes


class EventsOutput(NamedTuple):
    out_of_order: int  # packets
    lost_segments: int  # gaps
    duplicate_acks: int  # packets
    zero_windows: int  # packets
    unique_bytes: int  # bytes, of payload not seen before


class WayOutput(NamedTuple):
    flags: Annotated[FlagsOutput, named("*")]
    window_bytes: MomentsOutput  # bytes, receive window that this side offers; packets without SYN and RST
    payload_bytes: float  # bytes, of TCP payload
    payload: Annotated[MomentsOutput, named("payload_bytes_*")]  # bytes, of a packet
    in_flight_bytes: MomentsOutput  # bytes; flows weighted by packets
    retransmitted: Annotated[RetransmittedOutput, named("*")]
    retransmission_share: float  # of the packets
    events: Annotated[EventsOutput, named("*")]
    goodput_kbps: float  # 1,000 bit/s of unique payload
    idle_s: float  # s, the least over its flows, see TCPCounters


class SessionTCPOutput(NamedTuple):
    tcp_flows: int  # TCP flows with packets in the interval
    ways: Annotated[tuple[WayOutput, WayOutput], named("*_up", "*_down")]


Counted = TypeVar("Counted", FlagsOutput, RetransmittedOutput, EventsOutput)


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
        return SessionTCPOutput(tcp_flows=tcp + gone, ways=(_way(flows, "up", gone), _way(flows, "down", gone)))


def _way(flows: Flows, way: str, gone: Column) -> WayOutput:
    packets = np.where(flows.tcp, flows[f"PacketCounters.packets_{way}"], 0.0)
    with_window = packets - flows[f"TCPCounters.syn_{way}"] - flows[f"TCPCounters.rst_{way}"]
    payload = _pooled(flows, f"payload_bytes_*_{way}", packets)
    retransmitted = _counted(RetransmittedOutput, flows, way, gone)
    events = _counted(EventsOutput, flows, way, gone)
    return WayOutput(
        flags=_counted(FlagsOutput, flows, way, gone),
        window_bytes=_pooled(flows, f"window_bytes_*_{way}", with_window).output(),
        payload_bytes=np.nan_to_num(payload.n * payload.mean) + gone,
        payload=payload.output(),
        in_flight_bytes=_pooled(flows, f"in_flight_bytes_*_{way}", packets).output(),
        retransmitted=retransmitted,
        retransmission_share=over(retransmitted.retransmissions, flows.sum(packets)),
        events=events,
        goodput_kbps=events.unique_bytes * 8 / 1_000 / flows.interval_s,
        idle_s=flows.low(np.where(flows.tcp, flows[f"TCPCounters.idle_s_{way}"], np.nan)),
    )


def _counted(made: type[Counted], flows: Flows, way: str, gone: Column) -> Counted:
    """The sums of columns of TCPCounters that have the names of its fields."""
    columns = {name: flows[f"TCPCounters.{name}_{way}"] for name in made._fields}
    return made(**{name: flows.sum(np.where(flows.tcp, values, 0.0)) + gone for name, values in columns.items()})


def _pooled(flows: Flows, columns: str, n: Any) -> Pooled:
    seen = np.where(np.isnan(flows[f"TCPCounters.{columns.replace('*', 'mean')}"]), 0.0, n)
    return flows.pooled(seen, f"TCPCounters.{columns}")
