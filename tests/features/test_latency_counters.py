"""LatencyCounters: when a round trip is one, and equality with a twin that remembers every segment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.naive.latency_counters import latency_counters
from support.naive.packets import P, arbitrary_packets, as_packet, conversations, in_intervals
from support.naive.running import load, run
from trafficrefinery.api import ACK, DOWN, SYN, UDP, UP, state_dtype

LatencyCounters: Any = load("latency_counters").LatencyCounters


def up(ts_s: float, seq: int, payload_bytes: int = 0, **fields: Any) -> P:
    return P(ts_ns=round(ts_s * 1e9), direction=UP, seq=seq % 2**32, payload_bytes=payload_bytes, **fields)


def down(ts_s: float, seq: int, payload_bytes: int = 0, **fields: Any) -> P:
    return P(ts_ns=round(ts_s * 1e9), direction=DOWN, seq=seq % 2**32, payload_bytes=payload_bytes, **fields)


def outputs_of(intervals: list[list[P]]) -> list[dict[str, Any]]:
    return run(LatencyCounters, [[as_packet(p) for p in packets] for packets in intervals])


def of(*packets: P) -> dict[str, Any]:
    return outputs_of([list(packets)])[0]


def stamped(p: P, tsval: int, tsecr: int) -> P:
    p.has_timestamps, p.tsval, p.tsecr = 1, tsval % 2**32, tsecr % 2**32
    return p


def assert_same(output: dict[str, Any], naive: dict[str, Any]) -> None:
    assert output.keys() == naive.keys()
    for name, value in naive.items():
        tolerance = 1e-6 if "_std" in name else 1e-9
        assert output[name] == pytest.approx(value, rel=1e-9, abs=tolerance, nan_ok=True), name


def assert_fewer(output: dict[str, Any], naive: dict[str, Any]) -> None:
    """Some of the samples of the other, and no others."""
    for name in [name for name in naive if name.endswith("_samples")]:
        series = name.removesuffix("_samples")
        assert output[name] <= naive[name]
        if output[name]:
            assert output[f"{series}_s_min"] >= naive[f"{series}_s_min"] - 1e-9
            assert output[f"{series}_s_max"] <= naive[f"{series}_s_max"] + 1e-9


@given(st.one_of(conversations(), conversations(), arbitrary_packets()))
def test_equal_to_the_twin_that_remembers_everything_or_a_sample_of_it(packets: list[P]) -> None:
    intervals = in_intervals(packets)
    expected, crowded = latency_counters(intervals)
    for output, naive in zip(outputs_of(intervals), expected, strict=True):
        (assert_fewer if crowded else assert_same)(output, naive)


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_long_burst_is_sampled(segments: int, every: int) -> None:
    burst = [down(1 + i / 1_000, 1 + 10 * i, 10) for i in range(segments)]
    acks = [up(2 + i / 1_000, 1, ack=1 + 10 * i) for i in range(every, segments + 1, every)]
    output, (naive, _) = of(*burst, *acks), latency_counters([[*burst, *acks]])
    assert_fewer(output, naive[0])
    if segments % every == 0:
        assert output["rtt_client_samples"] >= 1, "the last segment is always remembered"


def test_one_request_and_a_hundred_responses_are_one_sample() -> None:
    response = [down(1.010 + i / 100, 1 + 1_400 * i, 1_400, ack=101) for i in range(100)]
    output = of(up(1, 1, 100), *response)
    assert (output["rtt_server_samples"], output["rtt_server_s_mean"]) == (1, 0.01)
    assert np.isnan(output["rtt_server_jitter_s"])


def test_a_delayed_ack_times_the_segment_that_it_ends_with() -> None:
    output = of(down(1.0, 1, 100), down(1.1, 101, 100), up(1.15, 1, ack=201))
    assert (output["rtt_client_samples"], output["rtt_client_s_mean"]) == (1, 0.05)


def test_an_ack_inside_a_segment_tells_nothing() -> None:
    assert of(down(1.0, 1, 100), up(1.15, 1, ack=51))["rtt_client_samples"] == 0


def test_a_segment_that_was_sent_again_has_an_ack_delay_but_no_rtt() -> None:
    output = of(up(1, 1, 100), up(2, 1, 100), down(2.01, 1, ack=101))
    assert (output["rtt_server_samples"], output["ack_rtt_server_samples"]) == (0, 1)
    assert output["ack_rtt_server_s_max"] == 1.01


def test_a_retransmission_after_its_ack_changes_nothing() -> None:
    output = of(up(1, 1, 100), down(1.01, 1, ack=101), up(2, 1, 100), down(2.01, 1, ack=101))
    assert (output["rtt_server_samples"], output["rtt_server_s_max"]) == (1, 0.01)


def test_a_round_trip_counts_in_the_interval_in_which_it_ends() -> None:
    first, second = outputs_of([[up(9.99, 1, 100)], [down(10.01, 1, ack=101)]])
    assert (first["rtt_server_samples"], second["rtt_server_samples"]) == (0, 1)
    assert second["rtt_server_s_mean"] == 0.02


def test_the_handshake_has_times_of_its_own() -> None:
    syn, answer = up(1, 7, tcp_flags=SYN), down(1.03, 9, tcp_flags=SYN | ACK, ack=8)
    first, second = outputs_of([[syn, answer, up(1.04, 8, ack=10)], [up(11, 8, 50, ack=10), down(11.5, 10, ack=58)]])
    assert (first["handshake_server_s"], first["handshake_client_s"]) == (0.03, 0.01)
    assert first["rtt_server_samples"] == 1
    assert np.isnan(second["handshake_server_s"])
    assert np.isnan(of(syn, up(1.01, 7, tcp_flags=SYN), answer)["handshake_server_s"])
    assert np.isnan(of(syn, up(1.2, 8, 50), down(1.3, 10, ack=58))["handshake_server_s"])


def test_jitter_is_the_mean_change_from_the_second_sample_on_over_intervals_too() -> None:
    def exchange(ts_s: float, number: int, rtt_s: float) -> list[P]:
        return [up(ts_s, 1 + 10 * number, 10), down(ts_s + rtt_s, 1, ack=11 + 10 * number)]

    first, second = outputs_of([
        [*exchange(1, 0, 0.010), *exchange(2, 1, 0.014), *exchange(3, 2, 0.012)], exchange(11, 3, 0.020),
    ])  # fmt: skip
    assert first["rtt_server_jitter_s"] == pytest.approx(0.003)
    assert second["rtt_server_jitter_s"] == pytest.approx(0.008)


def test_timestamps_tell_which_copy_was_acknowledged() -> None:
    first, again = stamped(up(1, 1, 100), 2**32 - 1, 0), stamped(up(2, 1, 100), 0, 0)
    late = of(first, again, stamped(down(2.01, 1, ack=101), 5, 2**32 - 1))
    assert (late["ts_rtt_server_samples"], late["ts_rtt_server_s_mean"]) == (1, 1.01)
    quick = of(first, again, stamped(down(2.01, 1, ack=101), 5, 0))
    assert (quick["ts_rtt_server_samples"], quick["ts_rtt_server_s_mean"]) == (1, 0.01)


def test_only_the_first_echo_of_the_first_packet_of_a_timestamp_counts() -> None:
    sent = [stamped(up(1 + i / 1_000, 1 + 10 * i, 10), 50, 0) for i in range(3)]
    echoes = [stamped(down(1.02 + i / 1_000, 1, ack=11 + 10 * i), 60, 50) for i in range(3)]
    output = of(*sent, *echoes)
    assert (output["ts_rtt_server_samples"], output["ts_rtt_server_s_mean"]) == (1, 0.02)
    assert output["rtt_server_samples"] == 3


def test_an_echo_without_new_data_is_no_round_trip() -> None:
    idle = [stamped(up(1, 1), 50, 0), stamped(down(9, 1, 700, ack=1), 60, 50)]
    assert of(*idle)["ts_rtt_server_samples"] == 0


def test_keep_alives_are_not_timed() -> None:
    output = of(up(1, 1, 100), down(1.01, 1, ack=101), up(5, 100, 1), down(5.5, 1, ack=101))
    assert (output["ack_rtt_server_samples"], output["ack_rtt_server_s_max"]) == (1, 0.01)


def test_a_syn_with_another_number_begins_anew() -> None:
    old = [up(0, 100, 50), up(1, 9, tcp_flags=SYN), down(1.1, 5, tcp_flags=SYN | ACK, ack=10)]
    output = of(*old, up(1.2, 10, 140, ack=6), down(1.25, 6, ack=150))
    assert output["rtt_server_samples"] == 2
    assert output["rtt_server_s_min"] == 0.05


def test_udp_and_later_fragments_count_in_nothing() -> None:
    for fields in ({"protocol": UDP, "tcp_flags": 0}, {"fragment": 2}):
        output = of(up(1, 0, 500, **fields), down(2, 0, 500, **fields))
        assert not any(value for value in output.values() if isinstance(value, int))
        assert all(np.isnan(value) for value in output.values() if isinstance(value, float))


def test_state_is_bounded() -> None:
    assert state_dtype(LatencyCounters).itemsize <= 620
