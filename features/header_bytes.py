"""The first bytes of the first packets."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import RAW_LIMIT, Array, FeatureClass, Packet, array, parameter, uint8, uint16, uint32, up_to


class HeaderBytesOutput(NamedTuple):
    header_bytes: Annotated[bytes, up_to("Packets*Bytes")]  # rows of Bytes bytes, a packet each; zeros behind its end
    copied_bytes: Annotated[list[int], up_to("Packets")]  # bytes of each row that are from the packet
    packets_not_copied: int  # packets of the interval, beyond the rows


class HeaderBytes(FeatureClass):
    """Copies of the first `Bytes` bytes, from the IP header on, of the first `Packets` packets of each interval.

    They hold addresses and the start of the payload as they are: nothing for records that leave the network. Where
    addresses are anonymised (`Privacy.KeyFile`), they are zeros, as are checksums, IP options and DNS contents. `Bytes`
    is at most 256, and a packet ends where its capture does.

    >>> feed(HeaderBytes, [packet(raw=bytes([0x45, 0, 0, 40]))]).header_bytes[:5]
    [69, 0, 0, 40, 0]
    """

    Packets = parameter(8, at_least=1, at_most=1_024, unit="packets")
    Bytes = parameter(64, at_least=1, at_most=RAW_LIMIT, unit="bytes")

    packets: uint32
    copied_bytes: Array[int] = array(uint16, "Packets")
    header_bytes: Array[int] = array(uint8, "Packets*Bytes")

    def add_packet(self, pkt: Packet) -> None:
        if self.packets < self.Packets:
            row = self.packets * self.Bytes
            copied = min(pkt.raw_bytes, self.Bytes)
            for i in range(copied):
                self.header_bytes[row + i] = pkt.raw(i)
            self.copied_bytes[self.packets] = copied
        self.packets += 1

    def collect_features(self, interval_s: float) -> HeaderBytesOutput:
        rows = min(self.packets, self.Packets)
        return HeaderBytesOutput(
            header_bytes=self.header_bytes[: rows * self.Bytes],
            copied_bytes=self.copied_bytes[:rows],
            packets_not_copied=self.packets - rows,
        )
