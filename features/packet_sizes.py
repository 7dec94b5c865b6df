"""The sizes of the first packets."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import DOWN, Array, FeatureClass, Packet, array, int32, parameter, uint32, up_to


class PacketSizesOutput(NamedTuple):
    sizes: Annotated[list[int], up_to("Packets")]  # IP total length, bytes; with Signed downstream ones below 0
    packets_not_listed: int  # packets of the interval, beyond the list


class PacketSizes(FeatureClass):
    """The SIZE representation of netml: sizes of the first `Packets` packets of a flow in the interval, in order.

    netml counts frames of one direction; this counts IP total lengths of both, in the order of capture. With `Signed`
    the sizes of packets to the client are negative, so that the directions can be told apart.

    >>> feed(PacketSizes, [packet(ip_bytes=60), packet(ip_bytes=1500, direction=DOWN)])
    PacketSizesOutput(sizes=[60, 1500], packets_not_listed=0)
    """

    Packets = parameter(32, at_least=1, at_most=10_000, unit="packets")
    Signed = parameter(False)

    packets: uint32
    sizes: Array[int] = array(int32, "Packets")

    def add_packet(self, pkt: Packet) -> None:
        if self.packets < self.Packets:
            size = pkt.ip_bytes
            if self.Signed and pkt.direction == DOWN:
                size = -size
            self.sizes[self.packets] = size
        self.packets += 1

    def collect_features(self, interval_s: float) -> PacketSizesOutput:
        listed = min(self.packets, self.Packets)
        return PacketSizesOutput(sizes=self.sizes[:listed], packets_not_listed=self.packets - listed)
