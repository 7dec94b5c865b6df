"""TCPCounters: the laws of sequence numbers, and equality with a twin that keeps everything."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.naive.packets import P, arbitrary_packets, as_packet, conversations, in_intervals
from support.naive.running import load, run
from support.naive.tcp_counters import tcp_counters
from trafficrefinery.api import ACK, DOWN, FIN, RST, SYN, UDP, UP, state_dtype

TCPCounters: Any = load("tcp_counters").TCPCounters
SECOND = 1_000_000_000


class Everything(TCPCounters):
    HigherMoments = True
    Quantiles = True


def up(ts_s: float, seq: int, payload_bytes: int = 0, **fields: Any) -> P:
    return P(ts_ns=round(ts_s * SECOND), direction=UP, seq=seq % 2**32, payload_bytes=payload_bytes, **fields)


def down(ts_s: float, seq: int, payload_bytes: int = 0, **fields: Any) -> P:
    return P(ts_ns=round(ts_s * SECOND), direction=DOWN, seq=seq % 2**32, payload_bytes=payload_bytes, **fields)


def outputs_of(intervals: list[list[P]], cls: Any = TCPCounters) -> list[dict[str, Any]]:
    return run(cls, [[as_packet(p) for p in packets] for packets in intervals])


def of(*packets: P, cls: Any = TCPCounters) -> dict[str, Any]:
    """The output when all packets are in one interval."""
    return outputs_of([list(packets)], cls)[0]


def counts(output: dict[str, Any]) -> dict[str, int]:
    return {name: value for name, value in output.items() if isinstance(value, int) and name != "window_scaled"}


def assert_same(output: dict[str, Any], naive: dict[str, Any], crowded: bool) -> None:
    assert all(output[name] != output[name] for name in output.keys() - naive.keys()), "options are off"
    for name, value in naive.items():
        if crowded and name.startswith(("unique_bytes", "goodput")):
            assert output[name] >= value or np.isnan(value), name
        else:
            # Sums of squares: a deviation is exact to 1e-7 of the mean.
            tolerance = 1e-7 * naive[name.replace("_std_", "_mean_")] if "_std_" in name else 1e-9
            assert output[name] == pytest.approx(value, rel=1e-9, abs=tolerance, nan_ok=True), name


@given(st.one_of(conversations(), conversations(), arbitrary_packets()))
def test_equal_to_the_twin_that_keeps_everything(packets: list[P]) -> None:
    intervals = in_intervals(packets)
    expected, crowded = tcp_counters(intervals)
    for output, naive in zip(outputs_of(intervals), expected, strict=True):
        assert_same(output, naive, crowded)


@given(conversations(), st.lists(st.integers(0, 60), max_size=4))
def test_counts_do_not_depend_on_where_intervals_end(packets: list[P], cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(packets)) for cut in cuts), len(packets)]
    parts = outputs_of([packets[a:b] for a, b in itertools.pairwise(edges)])
    for name, value in counts(of(*packets)).items():
        assert sum(part[name] for part in parts) == value, name


@given(conversations())
def test_higher_moments_and_quantiles_are_those_of_all_values(packets: list[P]) -> None:
    output = of(*packets, cls=Everything)
    for direction, suffix in ((UP, "_up"), (DOWN, "_down")):
        values = np.array([p.payload_bytes for p in packets if p.direction == direction and p.fragment != 2], float)
        if len(values) == 0 or values.std() == 0:
            assert np.isnan(output["payload_bytes_skewness" + suffix])
        else:
            z = (values - values.mean()) / values.std()
            assert output["payload_bytes_skewness" + suffix] == pytest.approx((z**3).mean(), rel=1e-6, abs=1e-6)
            assert output["payload_bytes_kurtosis" + suffix] == pytest.approx((z**4).mean() - 3, rel=1e-6, abs=1e-6)
        for q in (0.5, 0.9):
            exact = np.quantile(values, q, method="lower") if len(values) else np.nan
            assert output[f"payload_bytes_p{round(q * 100)}{suffix}"] == pytest.approx(exact, rel=0.126, nan_ok=True)


def test_a_retransmission_just_after_an_intervals_end_counts() -> None:
    first, again = down(9.9, 1_000, 500), down(10.1, 1_000, 500)
    assert [output["retransmissions_down"] for output in outputs_of([[first], [again]])] == [0, 1]


def test_bytes_in_flight_never_start_at_an_absolute_sequence_number() -> None:
    data = [down(1, 4_000_000_000, 500), down(2, 4_000_000_500, 500)]
    acks = [up(1.5, 1, ack=4_000_000_500), up(11, 1, ack=4_000_001_000)]
    assert np.isnan(of(data[0])["in_flight_bytes_max_down"])
    first, second = outputs_of([[data[0], acks[0], data[1]], [acks[1], down(12, 4_000_001_000, 700)]])
    assert (first["in_flight_bytes_max_down"], second["in_flight_bytes_max_down"]) == (500.0, 700.0)
    assert second["in_flight_bytes_last_down"] == 700.0


def test_a_sequence_wrap_is_no_reordering() -> None:
    segments = [down(i / 1_000, 2**32 - 700_000 + 1_400 * i, 1_400) for i in range(1_000)]
    output = of(*segments)
    assert (output["out_of_order_down"], output["retransmissions_down"], output["lost_segments_down"]) == (0, 0, 0)
    assert output["unique_bytes_down"] == 1_400_000


def test_what_fills_a_gap_is_late_within_the_initial_rtt_and_sent_again_after_it() -> None:
    handshake = [
        up(0, 0, tcp_flags=SYN), down(0.03, 0, tcp_flags=SYN | ACK, ack=1), up(0.04, 1, ack=1), down(1, 1, 100),
        down(1.01, 201, 100),
    ]  # fmt: skip
    late, again = of(*handshake, down(1.049, 101, 100)), of(*handshake, down(1.051, 101, 100))
    assert (late["out_of_order_down"], late["retransmissions_down"], late["lost_segments_down"]) == (1, 0, 1)
    assert (again["out_of_order_down"], again["retransmissions_down"], again["unique_bytes_down"]) == (0, 1, 300)


def test_three_equal_acks_make_the_answer_a_fast_retransmission() -> None:
    data = [down(1, 1 + i * 100, 100) for i in range(4)]
    acks = [up(1 + i / 1_000, 1, ack=101) for i in range(1, 4)]
    output = of(*data, *acks, down(1.02, 101, 100))
    assert (output["duplicate_acks_up"], output["fast_retransmissions_down"], output["retransmissions_down"]) == (
        2,
        1,
        1,
    )
    assert of(*data, *acks, down(1.024, 101, 100))["fast_retransmissions_down"] == 0


def test_what_was_acknowledged_is_spurious_when_it_comes_again() -> None:
    output = of(down(1, 1, 100), up(2, 1, ack=101), down(3, 1, 100))
    assert (output["spurious_retransmissions_down"], output["retransmissions_down"]) == (1, 1)
    assert (output["retransmitted_bytes_down"], output["unique_bytes_down"]) == (100, 100)


@pytest.mark.parametrize("payload_bytes", [0, 1])
def test_keep_alives_are_nothing_but_packets(payload_bytes: int) -> None:
    output = of(up(1, 1, 100), down(1.1, 1, ack=101), up(5, 100, payload_bytes), down(5.1, 1, ack=101))
    assert (output["retransmissions_up"], output["duplicate_acks_down"], output["unique_bytes_up"]) == (0, 0, 100)
    assert output["in_flight_bytes_max_up"] != output["in_flight_bytes_max_up"]


def test_a_syn_with_another_number_begins_anew() -> None:
    old = [up(0, 9, tcp_flags=SYN), down(0.1, 5_000, tcp_flags=SYN | ACK, ack=10), down(0.2, 5_001, 1_000, ack=10)]
    new = [up(1, 900, tcp_flags=SYN), down(1.1, 77, tcp_flags=SYN | ACK, ack=901), up(1.2, 901, 50, ack=78)]
    output = of(*old, *new, down(1.3, 78, 1_000, ack=951))
    assert not any(value for name, value in counts(output).items() if name.startswith(("retr", "out_of", "lost")))
    assert output["in_flight_bytes_max_up"] == 50.0
    repeated = of(old[0], *old)
    assert (repeated["retransmissions_up"], repeated["out_of_order_up"]) == (1, 0)


def test_windows_are_scaled_when_both_syns_were_seen_and_offer_it() -> None:
    syn = up(0, 0, tcp_flags=SYN, window=65_535, window_scale=3)
    answer = down(0.1, 0, tcp_flags=SYN | ACK, ack=1, window=65_535, window_scale=7)
    rest = [up(0.2, 1, ack=1, window=100), up(0.3, 1, ack=1, window=300), up(0.4, 1, tcp_flags=RST, window=0)]
    output = of(syn, answer, *rest)
    assert (output["window_scaled"], output["window_bytes_min_up"], output["window_bytes_mean_up"]) == (
        1,
        800.0,
        1_600.0,
    )
    assert (output["window_bytes_first_up"], output["window_bytes_last_up"]) == (800.0, 2_400.0)
    assert of(syn, *rest)["window_bytes_max_up"] == 300.0
    unscaled = of(syn, down(0.1, 0, tcp_flags=SYN | ACK, ack=1), *rest)
    assert (unscaled["window_scaled"], unscaled["window_bytes_max_up"]) == (1, 300.0)


def test_idle_time_is_that_part_of_the_interval_in_which_nothing_came_for_long() -> None:
    intervals = in_intervals([up(1_000.5, 1), up(1_001, 1), up(1_003, 1), up(1_009.5, 1), down(1_012, 1), up(1_017, 1)])
    first, second = outputs_of(intervals)
    assert (first["idle_s_up"], second["idle_s_up"]) == (2.0 + 6.5, 7.0 + 3.0)
    assert np.isnan(first["idle_s_down"])
    assert second["idle_s_down"] == 8.0


def test_a_fourth_hole_becomes_one_with_the_third() -> None:
    """The documented limit: what lies between the two counts again when it comes again."""
    syn = down(0, 2**32 - 1, tcp_flags=SYN | ACK)
    blocks, gaps = [down(1, 1_000 * i, 500) for i in range(5)], [down(2, 1_000 * i + 500, 500) for i in range(4)]
    assert of(syn, *blocks, *gaps)["unique_bytes_down"] == 9 * 500
    assert of(syn, *blocks, *blocks[:3], *gaps)["unique_bytes_down"] == 9 * 500
    assert of(syn, *blocks, blocks[3], *gaps)["unique_bytes_down"] == 10 * 500


def test_udp_and_later_fragments_count_in_nothing() -> None:
    for p in (up(1, 0, 500, protocol=UDP, tcp_flags=0), up(1, 0, 500, fragment=2)):
        output = of(p)
        assert not any(counts(output).values())
        assert all(np.isnan(value) for value in output.values() if isinstance(value, float))


def test_what_follows_a_first_fragment_is_no_gap() -> None:
    output = of(down(1, 1, 1_000, fragment=1), down(1, 0, 460, fragment=2), down(2, 1_461, 100), down(3, 1_661, 100))
    assert (output["lost_segments_down"], output["unique_bytes_down"]) == (1, 1_200)


def test_a_fin_that_comes_again_is_a_retransmission_without_bytes() -> None:
    output = of(*(down(i, 1, tcp_flags=FIN | ACK) for i in range(3)))
    assert (output["fin_down"], output["retransmissions_down"], output["retransmitted_bytes_down"]) == (3, 2, 0)


def test_state_is_bounded() -> None:
    assert state_dtype(TCPCounters).itemsize <= 456
