"""Packets and bytes in each direction."""

from __future__ import annotations

from typing import NamedTuple

from trafficrefinery.api import UP, FeatureClass, Packet, uint64


class PacketCountersOutput(NamedTuple):
    packets_up: int  # packets
    packets_down: int  # packets
    bytes_up: int  # IP total length, bytes
    bytes_down: int  # IP total length, bytes
    kbps_up: float  # 1,000 bit/s of IP packets (the paper divides by 1,024)
    kbps_down: float  # 1,000 bit/s
    pps_up: float  # packets/s
    pps_down: float  # packets/s


class PacketCounters(FeatureClass):
    """Throughput and packet counts (paper, Table 1 and Listing 2).

    >>> feed(PacketCounters, [packet(direction=UP, ip_bytes=100), packet(direction=UP, ip_bytes=150)]).bytes_up
    250
    """

    packets_up: uint64
    packets_down: uint64
    bytes_up: uint64
    bytes_down: uint64

    def add_packet(self, pkt: Packet) -> None:
        if pkt.direction == UP:
            self.packets_up += 1
            self.bytes_up += pkt.ip_bytes
        else:
            self.packets_down += 1
            self.bytes_down += pkt.ip_bytes

    def collect_features(self, interval_s: float) -> PacketCountersOutput:
        return PacketCountersOutput(
            packets_up=self.packets_up,
            packets_down=self.packets_down,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            kbps_up=self.bytes_up * 8 / 1000 / interval_s,
            kbps_down=self.bytes_down * 8 / 1000 / interval_s,
            pps_up=self.packets_up / interval_s,
            pps_down=self.packets_down / interval_s,
        )
