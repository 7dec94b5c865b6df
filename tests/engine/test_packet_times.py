"""PacketTimes: gaps within the interval, and equality with a twin that keeps all times."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.naive.packet_times import packet_times
from support.naive.packets import P, in_intervals
from support.naive.running import load, run
from trafficrefinery.api import DOWN, UP

PacketTimes: Any = load("packet_times").PacketTimes


class WithQuantiles(PacketTimes):
    Quantiles = True


@st.composite
def flows(draw: Any) -> list[list[P]]:
    """Packets of both directions over some intervals, at times that now and then go back."""
    gaps_ns = st.one_of(st.integers(0, 3_000), st.integers(-40_000_000, 2_000_000_000), st.sampled_from([0, 1, 10**10]))
    ts_ns = 1_500_000_000_000_000_000 + draw(st.integers(0, 10**10))
    packets = []
    for gap_ns, direction in draw(st.lists(st.tuples(gaps_ns, st.sampled_from([UP, DOWN])), min_size=1, max_size=60)):
        ts_ns += gap_ns
        packets.append(P(ts_ns=ts_ns, direction=direction))
    return in_intervals(packets)


@given(flows())
def test_equal_to_the_twin_that_keeps_all_times(intervals: list[list[P]]) -> None:
    for output, naive in zip(run(WithQuantiles, intervals), packet_times(intervals), strict=True):
        assert output.keys() == naive.keys()
        for name, value in naive.items():
            rel = 0.126 if "_p25" in name or "_p50" in name or "_p75" in name else 1e-9
            # A deviation of equal gaps is rounding.
            assert output[name] == pytest.approx(value, rel=rel, abs=1e-12, nan_ok=True), name


def test_a_gap_that_began_before_the_interval_is_told_apart() -> None:
    second = 1_000_000_000
    first, later = run(PacketTimes, [
        [P(ts_ns=1 * second), P(ts_ns=2 * second)],
        [P(ts_ns=47 * second, interval_start_ns=40 * second), P(ts_ns=48 * second, interval_start_ns=40 * second)],
    ])  # fmt: skip
    assert math.isnan(first["idle_before_s"])
    assert (later["idle_before_s"], later["iat_n"], later["iat_s_max"]) == (45.0, 1, 1.0)
    assert (later["first_s"], later["last_s"]) == (7.0, 8.0)


def test_a_direction_without_packets_has_no_figures() -> None:
    (output,) = run(PacketTimes, [[P(ts_ns=5), P(ts_ns=9)]])
    assert output["iat_n_down"] == 0
    assert all(math.isnan(output[f"{name}_down"]) for name in ("iat_s_mean", "iat_s_min", "first_s", "idle_before_s"))


def test_gaps_are_never_negative() -> None:
    (output,) = run(PacketTimes, [[P(ts_ns=5_000), P(ts_ns=1_000), P(ts_ns=6_000)]])
    assert (output["iat_s_min"], output["iat_s_max"]) == (0.0, 1e-6)
