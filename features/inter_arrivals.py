"""The first gaps between packets."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import Array, FeatureClass, Packet, array, float64, int64, parameter, uint32, up_to


class InterArrivalsOutput(NamedTuple):
    iat_s: Annotated[list[float], up_to("Gaps")]  # s between a packet and the next
    gaps_not_listed: int  # gaps of the interval, beyond the list


class InterArrivals(FeatureClass):
    """The IAT representation of netml: the first `Gaps` times between packets of a flow in the interval, in order.

    Packets of both directions, in the order of capture; the gap before the first packet is not one of the interval.
    A time that lies before the latest counts as the latest.

    >>> feed(InterArrivals, [packet(ts_s=1), packet(ts_s=1.25, direction=DOWN), packet(ts_s=3.25)])
    InterArrivalsOutput(iat_s=[0.25, 2.0], gaps_not_listed=0)
    """

    Gaps = parameter(32, at_least=1, at_most=10_000, unit="gaps")

    latest_ns: int64
    packets: uint32
    iat_s: Array[float] = array(float64, "Gaps")

    def add_packet(self, pkt: Packet) -> None:
        if self.packets == 0:
            self.latest_ns = pkt.ts_ns
        elif self.packets <= self.Gaps:
            self.iat_s[self.packets - 1] = max(pkt.ts_ns - self.latest_ns, 0) / 1e9
        self.latest_ns = max(self.latest_ns, pkt.ts_ns)
        self.packets += 1

    def collect_features(self, interval_s: float) -> InterArrivalsOutput:
        gaps = max(self.packets - 1, 0)
        listed = min(gaps, self.Gaps)
        return InterArrivalsOutput(iat_s=self.iat_s[:listed], gaps_not_listed=gaps - listed)
