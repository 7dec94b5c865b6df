"""Packets and bytes in equal parts of an interval."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import UP, Array, FeatureClass, Packet, array, named, parameter, uint32, uint64, up_to

BOTH_WAYS = named("*_up", "*_down")


class SampledCountsOutput(NamedTuple):
    packets: Annotated[tuple[list[int], list[int]], up_to("Samples"), BOTH_WAYS]  # packets in each part
    bytes: Annotated[tuple[list[int], list[int]], up_to("Samples"), BOTH_WAYS]  # IP total length, bytes
    packets_beyond: int  # packets counted in the last part, that came after it


class SampledCounts(FeatureClass):
    """The SAMP_NUM and SAMP_SIZE representations of netml: packets and bytes in `Samples` parts of `SampleMs` ms.

    The parts lie side by side from the interval's start on, so `Samples` times `SampleMs` should be its length. What
    comes later counts in the last part, and in `packets_beyond`; what comes late counts in the first.

    >>> packets = [packet(ts_s=t, ip_bytes=100) for t in (0.5, 0.9, 2.0, 30.0)]
    >>> output = feed(SampledCounts, packets)
    >>> output.packets_up, output.bytes_up[2], output.packets_beyond
    ([2, 0, 1, 0, 0, 0, 0, 0, 0, 1], 100, 1)
    """

    Samples = parameter(10, at_least=1, at_most=3_600, unit="parts")
    SampleMs = parameter(1_000, at_least=1, at_most=3_600_000, unit="ms")

    packets_up: Array[int] = array(uint32, "Samples")
    packets_down: Array[int] = array(uint32, "Samples")
    bytes_up: Array[int] = array(uint64, "Samples")
    bytes_down: Array[int] = array(uint64, "Samples")
    packets_beyond: uint64

    def add_packet(self, pkt: Packet) -> None:
        part = max(pkt.ts_ns - pkt.interval_start_ns, 0) // (self.SampleMs * 1_000_000)
        if part >= self.Samples:
            part = self.Samples - 1
            self.packets_beyond += 1
        if pkt.direction == UP:
            self.packets_up[part] += 1
            self.bytes_up[part] += pkt.ip_bytes
        else:
            self.packets_down[part] += 1
            self.bytes_down[part] += pkt.ip_bytes

    def collect_features(self, interval_s: float) -> SampledCountsOutput:
        return SampledCountsOutput(
            packets=(self.packets_up[: self.Samples], self.packets_down[: self.Samples]),
            bytes=(self.bytes_up[: self.Samples], self.bytes_down[: self.Samples]),
            packets_beyond=self.packets_beyond,
        )
