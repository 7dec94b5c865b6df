"""When packets come: gaps between them, and the first and last in an interval."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import (
    UP,
    Array,
    FeatureClass,
    Histogram,
    Moments,
    MomentsOutput,
    Packet,
    Struct,
    array,
    int64,
    named,
    nan,
    parameter,
    uint32,
    uint64,
    when,
)

BOTH_WAYS, UPSTREAM, DOWNSTREAM = 0, 1, 2


class QuartilesOutput(NamedTuple):
    p25: float
    p50: float
    p75: float


class ArrivalsOutput(NamedTuple):
    iat_n: int  # gaps between packets of the interval
    iat_s: MomentsOutput  # s
    first_s: float  # s, first packet after the interval's start
    last_s: float  # s, last packet after the interval's start
    idle_before_s: float  # s, first packet of the interval after the one before it
    quartiles: Annotated[QuartilesOutput, named("iat_s_*"), when("Quantiles")]  # s, within 12.5 %


class PacketTimesOutput(NamedTuple):
    both: Annotated[ArrivalsOutput, named("*")]  # both directions together
    up: Annotated[ArrivalsOutput, named("*_up")]  # upstream packets
    down: Annotated[ArrivalsOutput, named("*_down")]  # downstream packets


class Arrivals(Struct):
    """One series of packets. `latest_ns` and `seen` live as long as the flow, the rest for an interval."""

    latest_ns: int64
    seen: uint64  # packets since the flow's start
    packets: uint32  # in the interval
    first_ns: int64  # after the interval's start
    last_ns: int64
    idle_ns: int64  # from the packet before the interval to the first in it; -1: there was none
    gaps: Moments  # ns

    def add(self, ts_ns: int, interval_start_ns: int) -> int:
        """Take a packet; the gap before it in ns, -1 when that began before the interval."""
        now_ns = max(ts_ns, self.latest_ns) if self.seen > 0 else ts_ns
        gap_ns = now_ns - self.latest_ns
        if self.packets > 0:
            self.gaps.add(gap_ns)
        else:
            self.first_ns = max(now_ns - interval_start_ns, 0)
            self.idle_ns = gap_ns if self.seen > 0 else -1
            gap_ns = -1
        self.last_ns = max(now_ns - interval_start_ns, 0)
        self.latest_ns = now_ns
        self.seen += 1
        self.packets += 1
        return gap_ns

    def start_interval(self) -> None:
        self.packets = 0
        self.gaps.clear()

    def first_s(self) -> float:
        """After the interval's start; NaN without packets, as the other figures."""
        return self.first_ns / 1e9 if self.packets > 0 else nan

    def last_s(self) -> float:
        return self.last_ns / 1e9 if self.packets > 0 else nan

    def idle_before_s(self) -> float:
        return self.idle_ns / 1e9 if self.packets > 0 and self.idle_ns >= 0 else nan


class PacketTimes(FeatureClass):
    """Inter-arrival times of packets, both directions together and each alone (paper, Table 1).

    Only gaps between two packets of the interval count; the one that began before the interval is told apart, as
    `idle_before_s`. A packet with a time before its predecessor's counts as if it came at the same time. Times after
    the interval's start are not below 0 for packets that came late. With `Quantiles` also quartiles, by a sketch of
    whole microseconds.

    >>> output = feed(PacketTimes, [packet(ts_s=1), packet(ts_s=1.5), packet(ts_s=2.5)])
    >>> output.iat_n_up, output.iat_s_mean_up, output.iat_s_max_up, output.first_s, output.last_s
    (2, 0.75, 1.0, 1.0, 2.5)
    """

    Quantiles = parameter(False)

    both: Arrivals
    up: Arrivals
    down: Arrivals
    bins: Array[Histogram] = array(Histogram, "3*Quantiles")

    def add_packet(self, pkt: Packet) -> None:
        gap_ns = self.both.add(pkt.ts_ns, pkt.interval_start_ns)
        if pkt.direction == UP:
            way_gap_ns = self.up.add(pkt.ts_ns, pkt.interval_start_ns)
        else:
            way_gap_ns = self.down.add(pkt.ts_ns, pkt.interval_start_ns)
        if self.Quantiles:
            if gap_ns >= 0:
                self.bins[BOTH_WAYS].add((gap_ns + 500) // 1_000)
            if way_gap_ns >= 0:
                self.bins[UPSTREAM if pkt.direction == UP else DOWNSTREAM].add((way_gap_ns + 500) // 1_000)

    def clear(self) -> None:
        self.both.start_interval()
        self.up.start_interval()
        self.down.start_interval()
        if self.Quantiles:
            for i in range(3):
                self.bins[i].clear()

    def quantile_s(self, series: int, q: float) -> float:
        value = nan
        if self.Quantiles:
            value = self.bins[series].quantile(q) / 1e6
        return value

    def arrivals(self, packets: Arrivals, series: int) -> ArrivalsOutput:
        return ArrivalsOutput(
            iat_n=packets.gaps.n,
            iat_s=packets.gaps.output(1e9),
            first_s=packets.first_s(),
            last_s=packets.last_s(),
            idle_before_s=packets.idle_before_s(),
            quartiles=QuartilesOutput(
                p25=self.quantile_s(series, 0.25), p50=self.quantile_s(series, 0.5), p75=self.quantile_s(series, 0.75)
            ),
        )

    def collect_features(self, interval_s: float) -> PacketTimesOutput:
        return PacketTimesOutput(
            both=self.arrivals(self.both, BOTH_WAYS),
            up=self.arrivals(self.up, UPSTREAM),
            down=self.arrivals(self.down, DOWNSTREAM),
        )
