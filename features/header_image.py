"""The first bytes of the first packets, as a picture."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import RAW_LIMIT, Array, FeatureClass, Packet, array, parameter, png, uint8, uint32, up_to


class HeaderImageOutput(NamedTuple):
    image: Annotated[bytes, up_to("Packets*Bytes"), png("Bytes")]  # grey pixels, a row a packet, black behind its end
    packets_not_drawn: int  # packets of the interval, beyond the rows


class HeaderImage(FeatureClass):
    """The bytes of `HeaderBytes` as a grey image: a row of `Bytes` pixels for each packet, at most `Packets` rows.

    >>> feed(HeaderImage, [packet(raw=bytes([0x45, 255])), packet(raw=b"")]).image[:3]
    [69, 255, 0]
    """

    Packets = parameter(8, at_least=1, at_most=1_024, unit="packets")
    Bytes = parameter(64, at_least=1, at_most=RAW_LIMIT, unit="bytes")

    packets: uint32
    pixels: Array[int] = array(uint8, "Packets*Bytes")

    def add_packet(self, pkt: Packet) -> None:
        if self.packets < self.Packets:
            row = self.packets * self.Bytes
            for i in range(min(pkt.raw_bytes, self.Bytes)):
                self.pixels[row + i] = pkt.raw(i)
        self.packets += 1

    def collect_features(self, interval_s: float) -> HeaderImageOutput:
        rows = min(self.packets, self.Packets)
        return HeaderImageOutput(image=self.pixels[: rows * self.Bytes], packets_not_drawn=self.packets - rows)
