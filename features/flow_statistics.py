"""Twelve figures that sum up a flow."""

from __future__ import annotations

from typing import NamedTuple

from trafficrefinery.api import (
    Array,
    FeatureClass,
    Histogram,
    Moments,
    Packet,
    array,
    int64,
    nan,
    parameter,
    uint32,
    uint64,
)


class FlowStatisticsOutput(NamedTuple):
    duration_s: float  # s, first to last packet of the interval
    pps: float  # packets/s over the duration; not observed when that is 0
    bytes_per_s: float  # bytes/s over the duration; not observed when that is 0
    ip_bytes_mean: float  # bytes a packet
    ip_bytes_std: float  # bytes
    ip_bytes_p25: float  # bytes; exact for up to Exact packets, else within 12.5 %
    ip_bytes_p50: float  # bytes
    ip_bytes_p75: float  # bytes
    ip_bytes_min: float  # bytes
    ip_bytes_max: float  # bytes
    packets: int  # packets
    ip_bytes: int  # bytes


class FlowStatistics(FeatureClass):
    """The STATS representation of netml: a flow in twelve figures, here of an interval and of both directions.

    netml counts frames, as captured; this counts IP total lengths. Quartiles are NumPy's (linear) while an interval
    has at most `Exact` packets, and those of a sketch beyond. A time that lies before the latest counts as the latest.

    >>> output = feed(FlowStatistics, [packet(ts_s=i, ip_bytes=size) for i, size in enumerate([40, 60, 1500])])
    >>> output.duration_s, output.pps, output.ip_bytes_p50, output.ip_bytes_p75
    (2.0, 1.5, 60.0, 780.0)
    """

    Exact = parameter(32, at_least=1, at_most=1_024, unit="packets")

    first_ns: int64
    last_ns: int64
    ip_bytes: uint64
    sizes: Moments
    bins: Histogram
    ranked: Array[int] = array(uint32, "Exact")  # sizes of the first packets, the smallest first

    def add_packet(self, pkt: Packet) -> None:
        if self.sizes.n == 0:
            self.first_ns = pkt.ts_ns
            self.last_ns = pkt.ts_ns
        self.last_ns = max(self.last_ns, pkt.ts_ns)
        if self.sizes.n < self.Exact:
            self.insert(pkt.ip_bytes)
        self.ip_bytes += pkt.ip_bytes
        self.sizes.add(pkt.ip_bytes)
        self.bins.add(pkt.ip_bytes)

    def insert(self, ip_bytes: int) -> None:
        at = self.sizes.n
        while at > 0 and self.ranked[at - 1] > ip_bytes:
            self.ranked[at] = self.ranked[at - 1]
            at = at - 1
        self.ranked[at] = ip_bytes

    def quantile(self, q: float) -> float:
        n = self.sizes.n
        value = nan
        if n > self.Exact:
            value = min(max(self.bins.quantile(q), self.sizes.low), self.sizes.high)
        elif n > 0:
            rank = q * (n - 1)
            below = int(rank)
            lower = self.ranked[below]
            upper = self.ranked[min(below + 1, n - 1)]
            value = lower + (rank - below) * (upper - lower)
        return value

    def collect_features(self, interval_s: float) -> FlowStatisticsOutput:
        duration_s = (self.last_ns - self.first_ns) / 1e9
        return FlowStatisticsOutput(
            duration_s=duration_s,
            pps=self.sizes.n / duration_s if duration_s > 0.0 else nan,
            bytes_per_s=self.ip_bytes / duration_s if duration_s > 0.0 else nan,
            ip_bytes_mean=self.sizes.average(),
            ip_bytes_std=self.sizes.std(),
            ip_bytes_p25=self.quantile(0.25),
            ip_bytes_p50=self.quantile(0.5),
            ip_bytes_p75=self.quantile(0.75),
            ip_bytes_min=self.sizes.minimum(),
            ip_bytes_max=self.sizes.maximum(),
            packets=self.sizes.n,
            ip_bytes=self.ip_bytes,
        )
