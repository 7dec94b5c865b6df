"""A feature class for tests: everything that a packet tells, so that no field can be wrong unseen."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import Array, FeatureClass, Packet, array, int64, up_to


class PacketLogOutput(NamedTuple):
    packets: int
    digest: int  # of all fields of all packets, in order
    first: Annotated[list[int], up_to("Packets * Fields")]  # the fields of the first packets


class PacketLog(FeatureClass):
    """All fields of each packet, and its first bytes: of the first packets in full, of all as a digest."""

    Packets = 3
    Fields = 32
    RawBytes = 24

    packets: int64
    digest: int64
    fields: int64
    values: Array[int] = array(int64, "Packets * Fields")

    def take(self, value: int) -> None:
        self.digest = (self.digest * 31 + value) & 0xFFFFFFFFFFF
        if self.fields < self.Packets * self.Fields:
            self.values[self.fields] = value
            self.fields += 1

    def add_packet(self, pkt: Packet) -> None:
        self.packets += 1
        self.take(pkt.ts_ns & 0xFFFFFFFFFFFF)
        self.take(pkt.interval_start_ns & 0xFFFFFFFFFFFF)
        self.take(pkt.ip_bytes)
        self.take(pkt.payload_bytes)
        self.take(pkt.wire_bytes)
        self.take(pkt.captured_bytes)
        self.take(pkt.seq)
        self.take(pkt.ack)
        self.take(pkt.tsval)
        self.take(pkt.tsecr)
        self.take(pkt.sack_left)
        self.take(pkt.sack_right)
        self.take(pkt.src_port)
        self.take(pkt.dst_port)
        self.take(pkt.window)
        self.take(pkt.mss)
        self.take(pkt.raw_bytes)
        self.take(pkt.record_bytes)
        self.take(pkt.direction)
        self.take(pkt.protocol)
        self.take(pkt.ip_version)
        self.take(pkt.ttl)
        self.take(pkt.dscp)
        self.take(pkt.ecn)
        self.take(pkt.tcp_flags)
        self.take(pkt.tcp_header_bytes)
        self.take(pkt.window_scale)
        self.take(pkt.has_timestamps)
        self.take(pkt.sack_blocks)
        self.take(pkt.fragment)
        raw = 0
        for index in range(self.RawBytes):
            raw = (raw * 31 + pkt.raw(index)) & 0xFFFFFFFFFFF
        self.take(raw)
        self.take(pkt.raw(-1) + pkt.raw(256))  # outside: zero

    def collect_features(self, interval_s: float) -> PacketLogOutput:
        return PacketLogOutput(packets=self.packets, digest=self.digest, first=self.values[: self.fields])
