"""The representations of netml: FlowStatistics, PacketSizes, InterArrivals and SampledCounts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.naive.flow_statistics import flow_statistics
from support.naive.inter_arrivals import inter_arrivals
from support.naive.packet_sizes import packet_sizes
from support.naive.packets import P, read_flows
from support.naive.running import load, run
from support.naive.sampled_counts import sampled_counts
from trafficrefinery.api import DOWN, UP

FlowStatistics: Any = load("flow_statistics").FlowStatistics
PacketSizes: Any = load("packet_sizes").PacketSizes
InterArrivals: Any = load("inter_arrivals").InterArrivals
SampledCounts: Any = load("sampled_counts").SampledCounts

START_NS = 1_500_000_000_000_000_000


class ShortStatistics(FlowStatistics):
    Exact = 5


class SignedSizes(PacketSizes):
    Packets = 4
    Signed = True


class FewGaps(InterArrivals):
    Gaps = 3


class FewSamples(SampledCounts):
    Samples = 4
    SampleMs = 50


@st.composite
def packets_of_an_interval(draw: Any) -> list[P]:
    packets = []
    for direction, ip_bytes, offset_us in draw(st.lists(
        st.tuples(
            st.sampled_from([UP, DOWN]), st.one_of(st.integers(20, 65_575), st.sampled_from([40, 52, 1_500])),
            st.one_of(st.integers(-50_000, 300_000), st.integers(0, 6).map(lambda n: 50_000 * n)),
        ),
        min_size=1, max_size=12,
    )):  # fmt: skip
        packets.append(P(
            ts_ns=START_NS + offset_us * 1_000, interval_start_ns=START_NS, direction=direction, ip_bytes=ip_bytes
        ))  # fmt: skip
    return packets


two_intervals = st.lists(packets_of_an_interval(), min_size=2, max_size=2)


@given(two_intervals)
def test_statistics_equal_the_twin_and_begin_anew_in_each_interval(intervals: list[list[P]]) -> None:
    for output, packets in zip(run(ShortStatistics, intervals), intervals, strict=True):
        for name, value in flow_statistics(packets).items():
            if name[-3:] in ("p25", "p50", "p75") and len(packets) > ShortStatistics.Exact:
                sizes = sorted(p.ip_bytes for p in packets)
                at_or_below = sizes[int((len(sizes) - 1) * int(name[-2:]) / 100)]
                assert output[name] == pytest.approx(at_or_below, rel=0.126), name
            else:
                assert output[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name


@given(two_intervals)
def test_sizes_equal_the_twin(intervals: list[list[P]]) -> None:
    assert run(SignedSizes, intervals) == [packet_sizes(packets, 4, True) for packets in intervals]
    assert run(PacketSizes, intervals) == [packet_sizes(packets, 32, False) for packets in intervals]


@given(two_intervals)
def test_gaps_equal_the_twin(intervals: list[list[P]]) -> None:
    assert run(FewGaps, intervals) == [inter_arrivals(packets, 3) for packets in intervals]


@given(two_intervals)
def test_samples_equal_the_twin_and_lose_no_packet(intervals: list[list[P]]) -> None:
    outputs = run(FewSamples, intervals)
    assert outputs == [sampled_counts(packets, 4, 50) for packets in intervals]
    for output, packets in zip(outputs, intervals, strict=True):
        assert sum(output["packets_up"]) + sum(output["packets_down"]) == len(packets)
        assert sum(output["bytes_up"]) + sum(output["bytes_down"]) == sum(p.ip_bytes for p in packets)


def test_no_packets_no_figures() -> None:
    (output,) = run(FlowStatistics, [[]])
    assert output["packets"] == 0
    assert all(math.isnan(output[name]) for name in ("pps", "ip_bytes_mean", "ip_bytes_p50", "ip_bytes_min"))
    assert run(InterArrivals, [[]]) == [{"iat_s": [], "gaps_not_listed": 0}]


# What netml printed of the first flows of the Netflix session (seconds; bytes of frames cut at 200), by client port:
# duration, packets/s, bytes/s, mean, std, 25 %, 50 %, 75 %, min, max, packets, bytes.
NETML_STATS = {
    58_451: (14.440177, 0.831015, 73.683308, 88.666667, 48.140997, 66, 66, 69, 66, 200, 12, 1_064),
    58_452: (14.442865, 0.761622, 69.099863, 90.727273, 49.772374, 66, 66, 72, 66, 200, 11, 998),
    58_453: (14.437420, 0.831173, 73.697377, 88.666667, 48.140997, 66, 66, 69, 66, 200, 12, 1_064),
    58_454: (138.854511, 1.497971, 184.560082, 123.206731, 66.443951, 66, 66, 200, 54, 200, 208, 25_627),
    58_455: (74.817607, 0.360878, 45.203263, 125.259259, 66.350692, 66, 66, 200, 54, 200, 27, 3_382),
}
NETML_IAT = {
    58_451: (0.714240, 0.000158, 1.207696, 0.017828, 0.001739, 2.609759, 0.001923, 1.369284, 7.958562, 0.557696),
    58_452: (0.715549, 0.000191, 1.286184, 0.017959, 0.002137, 2.543728, 0.002128, 9.313323, 0.5603709, 0.001295),
    58_454: (0.768140, 0.000545, 2.326351, 0.015718, 0.001761, 1.712796, 0.981150, 0.021840, 0.000000954, 0.541786),
}


@pytest.fixture(scope="module")
def upstream(shared_data: Path) -> dict[int, list[P]]:
    """Packets of the client, by its port, with sizes as netml saw them: it takes each direction for a flow."""
    flows = read_flows(shared_data / "netflix_2018.pcap.zst", clients=frozenset(["192.168.43.72"]))
    return {
        flow.client[1]: [replace(p, ip_bytes=min(p.ip_bytes + 14, 200)) for p in flow.packets if p.direction == UP]
        for flow in flows
        if flow.client[1] in NETML_STATS
    }


@pytest.mark.parametrize("port", NETML_STATS)
def test_statistics_equal_those_of_netml(upstream: dict[int, list[P]], port: int) -> None:
    (output,) = run(FlowStatistics, [upstream[port]])
    for (name, value), published in zip(output.items(), NETML_STATS[port], strict=True):
        sketched = output["packets"] > FlowStatistics.Exact and name[-3:] in ("p25", "p50", "p75")
        assert value == pytest.approx(published, rel=0.126 if sketched else 2e-6), name


@pytest.mark.parametrize("port", NETML_IAT)
def test_gaps_equal_those_of_netml(upstream: dict[int, list[P]], port: int) -> None:
    (output,) = run(InterArrivals, [upstream[port]])
    assert output["iat_s"][:10] == pytest.approx(NETML_IAT[port], abs=2e-6)
