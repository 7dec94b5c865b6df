"""Packets and bytes in each direction."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import DOWN, UP, Array, FeatureClass, Packet, Struct, array, named, uint64


class WayOutput(NamedTuple):
    packets: int  # packets
    bytes: int  # IP total length, bytes
    kbps: float  # 1,000 bit/s of IP packets (the paper divides by 1,024)
    pps: float  # packets/s


class PacketCountersOutput(NamedTuple):
    ways: Annotated[tuple[WayOutput, WayOutput], named("*_up", "*_down")]


class Way(Struct):
    """What one end sends."""

    packets: uint64
    bytes: uint64

    def output(self, interval_s: float) -> WayOutput:
        return WayOutput(
            packets=self.packets,
            bytes=self.bytes,
            kbps=self.bytes * 8 / 1000 / interval_s,
            pps=self.packets / interval_s,
        )


class PacketCounters(FeatureClass):
    """Throughput and packet counts (paper, Table 1 and Listing 2).

    >>> feed(PacketCounters, [packet(direction=UP, ip_bytes=100), packet(direction=UP, ip_bytes=150)]).bytes_up
    250
    """

    ways: Array[Way] = array(Way, 2)  # UP first

    def add_packet(self, pkt: Packet) -> None:
        way = self.ways[pkt.direction]
        way.packets += 1
        way.bytes += pkt.ip_bytes

    def collect_features(self, interval_s: float) -> PacketCountersOutput:
        return PacketCountersOutput(ways=(self.ways[UP].output(interval_s), self.ways[DOWN].output(interval_s)))
