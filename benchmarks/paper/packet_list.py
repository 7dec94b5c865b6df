"""A feature class of the study: transport features as the original tracks them, from a list of all packets of a flow."""

from __future__ import annotations

from typing import NamedTuple

from trafficrefinery.api import (
    SYN,
    Array,
    FeatureClass,
    Packet,
    Struct,
    array,
    parameter,
    seq_lt,
    uint8,
    uint16,
    uint32,
    uint64,
)


class PacketListOutput(NamedTuple):
    packets: int  # packets that are kept
    kept_bytes: int  # bytes that the list takes, at 30 bytes a packet
    out_of_order_packets: int  # found by going back through the list, as the original finds them


class Entry(Struct):
    """What there is to know of a packet."""

    ts_ns: uint64
    seq: uint32
    ack: uint32
    window: uint32
    ip_bytes: uint16
    payload_bytes: uint16
    tcp_flags: uint8
    direction: uint8


class PacketList(FeatureClass):
    """Every packet of a flow since it began; the room is for what the traces of the study have."""

    Packets = parameter(65_536, at_least=1, at_most=131_072, unit="packets")
    LookBack = parameter(16, at_least=0, at_most=1_024, unit="packets")

    count: uint32
    out_of_order: uint32
    entries: Array[Entry] = array(Entry, "Packets")

    def add_packet(self, pkt: Packet) -> None:
        for back in range(min(self.count, self.LookBack)):
            before = self.entries[self.count - 1 - back]
            if before.direction == pkt.direction and pkt.payload_bytes > 0:
                if seq_lt(pkt.seq, before.seq):
                    self.out_of_order += 1
                if before.tcp_flags & SYN or seq_lt(pkt.seq, before.seq):  # what lies before a SYN is no part of it
                    break
        if self.count < self.Packets:
            entry = self.entries[self.count]
            entry.ts_ns = pkt.ts_ns
            entry.seq = pkt.seq
            entry.ack = pkt.ack
            entry.window = pkt.window
            entry.ip_bytes = pkt.ip_bytes
            entry.payload_bytes = pkt.payload_bytes
            entry.tcp_flags = pkt.tcp_flags
            entry.direction = pkt.direction
            self.count += 1

    def collect_features(self, interval_s: float) -> PacketListOutput:
        return PacketListOutput(packets=self.count, kept_bytes=self.count * 30, out_of_order_packets=self.out_of_order)
