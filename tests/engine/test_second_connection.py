"""A second connection on the same addresses and ports, inside one flow: nothing of the first one is taken for it."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.naive.latency_counters import latency_counters
from support.naive.packets import P, as_packet, in_intervals
from support.naive.running import load, run
from support.naive.tcp_counters import tcp_counters
from support.naive.video_segments import video_segments
from trafficrefinery.api import ACK, DOWN, FIN, RST, SYN, UP

TCPCounters: Any = load("tcp_counters").TCPCounters
LatencyCounters: Any = load("latency_counters").LatencyCounters
VideoSegments: Any = load("video_segments").VideoSegments
FirstSeconds: Any = load("first_seconds").FirstSeconds
ROOT = Path(__file__).parents[2]
MS, START_NS = 1_000_000, 1_500_000_000_000_000_000


class Tiny(VideoSegments):
    MinBytes = 400


def at(ms: float, direction: int, seq: int, payload_bytes: int = 0, **fields: Any) -> P:
    return P(START_NS + round(ms * MS), 0, direction, seq=seq % 2**32, payload_bytes=payload_bytes, **fields)


def handshake(ms: float, up: int, down: int, scale: int = -1) -> list[P]:
    """Initial sequence numbers of both sides; 30 ms to the server and back, 10 ms to the client and back."""
    return [
        at(ms, UP, up, tcp_flags=SYN, window_scale=scale),
        at(ms + 30, DOWN, down, tcp_flags=SYN | ACK, ack=(up + 1) % 2**32, window_scale=scale),
        at(ms + 40, UP, up + 1, ack=(down + 1) % 2**32),
    ]


def exchange(ms: float, up: int, down: int, request: int = 300, response: int = 1_000) -> list[P]:
    """A request and its response, from these sequence numbers on."""
    return [
        at(ms, UP, up, request, ack=down % 2**32),
        at(ms + 30, DOWN, down, response, ack=(up + request) % 2**32),
        at(ms + 40, UP, up + request, ack=(down + response) % 2**32),
    ]


def of(cls: Any, *packets: P) -> dict[str, Any]:
    return run(cls, [[as_packet(p) for p in packets]])[0]


def test_bytes_of_the_first_connection_that_come_late_let_no_byte_count_twice() -> None:
    """Found by random search: a hole's edges were compared across half of the sequence numbers."""
    syn, answer = at(0, UP, 2147482648, tcp_flags=SYN), at(1, DOWN, 0, tcp_flags=SYN | ACK, ack=2147482649)
    data, second = at(2, UP, 2147482649, 1_460, ack=1), at(3, UP, 5, tcp_flags=SYN)
    two = at(6, UP, 6, 2, ack=1)
    packets = [syn, answer, data, second, replace(data, ts_ns=data.ts_ns + 2 * MS), replace(answer, ack=6), two, two]
    assert of(TCPCounters, *packets)["unique_bytes_up"] == 2_922
    assert of(TCPCounters, *packets)["retransmissions_up"] == 1


# The number of the second SYN: near the first, on both sides of the wrap, half a circle away, as a clock would have it.
SECOND = [5, 2**32 - 1, 2**32 - 1_500, 2**31 - 300, 2**31 + 1_000, 470_000_000, 3 * 2**30]


@pytest.mark.parametrize("up", SECOND)
@pytest.mark.parametrize("down", [7, 2**32 - 700, 2**31 + 5])
@pytest.mark.parametrize("end", [None, RST, FIN | ACK])
def test_the_second_connection_counts_as_if_it_were_alone(up: int, down: int, end: int | None) -> None:
    first = [*handshake(0, 1_000, 5_000, scale=7), *exchange(50, 1_001, 5_001)]
    if end is not None:
        first.append(at(200, UP, 1_301, tcp_flags=end, ack=6_001))
    second = [*handshake(20_000, up, down, scale=2), *exchange(20_050, up + 1, down + 1),
              *exchange(20_100, up + 301, down + 1_001)]  # fmt: skip
    for cls in (TCPCounters, LatencyCounters):
        intervals = in_intervals([*first, *second])
        both = run(cls, [[as_packet(p) for p in packets] for packets in intervals])[-1]
        alone = of(cls, *in_intervals(second)[0])
        for name, value in alone.items():
            if not name.startswith("idle_s"):
                assert both[name] == value or (np.isnan(both[name]) and np.isnan(value)), (cls, name)
    both = run(Tiny, in_intervals([*first, *second]))[-1]
    assert (both["requests"], both["pending_bytes"]) == (2, 1_000)
    assert both["segment_bytes"] == (1_000 if end == RST else 2_000)


@pytest.mark.parametrize("side", [UP, DOWN])
@pytest.mark.parametrize("up", SECOND)
def test_one_direction_of_two_connections_has_the_bytes_of_both(up: int, side: int) -> None:
    packets = [*handshake(0, 1_000, 5_000), *exchange(50, 1_001, 5_001), *handshake(200, up, up + 2**30),
               *exchange(250, up + 1, up + 2**30 + 1)]  # fmt: skip
    output = of(Tiny, *[p for p in packets if p.direction == side])
    assert output["segment_bytes"] + output["small_bytes"] + output["pending_bytes"] == 2_000
    assert output["requests"] == 2


def test_a_syn_that_is_sent_again_begins_nothing() -> None:
    syn, answer, last = handshake(0, 2**32 - 2, 2**32 - 1, scale=7)
    packets = [syn, replace(syn, ts_ns=START_NS + 5 * MS), answer, replace(answer, ts_ns=answer.ts_ns + MS), last]
    counters = of(TCPCounters, *packets, *exchange(50, 2**32 - 1, 2**32))
    assert (counters["retransmissions_up"], counters["retransmissions_down"]) == (1, 1)
    assert (counters["unique_bytes_up"], counters["unique_bytes_down"], counters["window_bytes_max_up"]) == (
        300, 1_000, 128_000.0,
    )  # fmt: skip
    latency = of(LatencyCounters, *packets)
    assert np.isnan(latency["handshake_server_s"]), "either SYN may have been answered"


def test_a_simultaneous_open_is_one_connection() -> None:
    """RFC 9293, figure 7: both send a SYN, and both answer it with the same number."""
    open_ = [at(0, UP, 99, tcp_flags=SYN, window_scale=3), at(1, DOWN, 499, tcp_flags=SYN, window_scale=3),
             at(2, UP, 99, tcp_flags=SYN | ACK, ack=500, window_scale=3),
             at(3, DOWN, 499, tcp_flags=SYN | ACK, ack=100, window_scale=3)]  # fmt: skip
    old = [*handshake(-1_000, 5_000_000, 6_000_000, scale=7), *exchange(-500, 5_000_001, 6_000_001)]
    for before in ([], old):
        output = of(TCPCounters, *before, *open_, *exchange(50, 100, 500))
        assert output["window_bytes_last_up"] == 8_000.0
        assert output["unique_bytes_down"] == 1_000 + (1_000 if before else 0)
        assert of(Tiny, *before, *open_, *exchange(50, 100, 500))["pending_bytes"] == 1_000


def test_windows_keep_the_scale_of_their_connection() -> None:
    first = [*handshake(0, 1_000, 5_000, scale=7), at(50, UP, 1_001, ack=5_001, window=100)]
    second = [*handshake(100, 900_000, 800_000, scale=-1), at(150, UP, 900_001, ack=800_001, window=3_000)]
    output = of(TCPCounters, *first, *second)
    assert (output["window_bytes_first_up"], output["window_bytes_max_up"]) == (128_000.0, 128_000.0)
    assert (output["window_bytes_min_up"], output["window_bytes_last_up"]) == (1_000.0, 3_000.0)
    assert of(TCPCounters, *first, second[0])["window_bytes_last_up"] == 12_800.0


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("up", [400_000, 470_000_000])
def test_late_packets_of_the_first_connection_spoil_nothing(up: int, place: int) -> None:
    """Before and after the SYN-ACK, and after the handshake; the clock of sequence numbers has gone on (RFC 6528)."""
    first = [*handshake(0, 1_000, 5_000), *exchange(50, 1_001, 5_001)]
    opening = handshake(20_000, up, up + 77)
    late = [replace(first[3], ts_ns=opening[place - 1].ts_ns + 1_000)]
    late += [replace(p, ts_ns=late[0].ts_ns + 1_000 * i) for i, p in enumerate(first[4:6], 1)]
    rest = exchange(20_050, up + 1, up + 78)
    packets = [*first, *opening[:place], *late, *opening[place:], *rest]
    output = run(TCPCounters, [[as_packet(p) for p in interval] for interval in in_intervals(packets)])[-1]
    late_bytes = 1_000 if place == 1 else 0  # before the SYN-ACK nobody knows which numbers are the server's
    assert (output["unique_bytes_up"], output["unique_bytes_down"]) == (300, 1_000 + late_bytes)
    assert (output["lost_segments_up"], output["lost_segments_down"]) == (0, 0)
    latency = run(LatencyCounters, [[as_packet(p) for p in interval] for interval in in_intervals(packets)])[-1]
    assert (latency["handshake_server_s"], latency["rtt_server_s_max"]) == (0.03, 0.03)
    segments = run(Tiny, in_intervals(packets))[-1]
    assert segments["segment_bytes"] + segments["small_bytes"] + segments["pending_bytes"] == 2_000


def test_the_list_of_the_study_looks_back_no_further_than_the_syn() -> None:
    """And a sequence number that wraps is in order."""
    spec = importlib.util.spec_from_file_location("packet_list", ROOT / "benchmarks" / "paper" / "packet_list.py")
    sys.modules["packet_list"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    first = [*handshake(0, 900_000, 5_000), *exchange(50, 900_001, 5_001)]
    second = [*handshake(200, 2**32 - 300, 9), *exchange(250, 2**32 - 299, 10), *exchange(300, 2**32 + 1, 1_010)]
    third = [*handshake(400, 77, 2**31), *exchange(450, 78, 2**31 + 1)]
    assert of(module.PacketList, *first, *second, *third)["out_of_order_packets"] == 0
    assert of(module.PacketList, *first, *second, second[3])["out_of_order_packets"] == 1


def test_first_seconds_go_on_from_the_first_packet() -> None:
    """It keeps no sequence numbers: a second connection inside the flow changes nothing."""
    packets = [*handshake(0, 1_000, 5_000), *exchange(50, 1_001, 5_001), *handshake(600, 9, 2**31),
               *exchange(650, 10, 2**31 + 1)]  # fmt: skip
    output = of(FirstSeconds, *packets)
    assert (list(output["payload_bytes_down"]), list(output["requests"])) == ([1_000, 1_000], [1, 1])


@st.composite
def connections(draw: Any) -> list[P]:
    """Several connections of one flow: any SYNs, late packets, jumps of up to half of all sequence numbers, both
    sides or one of them."""
    starts = [5, 2**32 - 2_000, 2**31 - 1_000, 2**31, 2**30, 2**29 + 3, 3 * 2**30, 2**32 - 1]
    numbers = st.sampled_from(starts)
    ends, acked, ts_ns, packets, sent = [draw(numbers), draw(numbers)], [0, 0], START_NS, [], [[], []]
    acked = ends[::-1]
    for _ in range(draw(st.integers(3, 30))):
        ts_ns += draw(st.sampled_from([0, 1_000, MS, 2_999_000, 10 * MS, 25 * MS, 1_500 * MS]))
        side = draw(st.integers(0, 1))
        p = P(ts_ns=ts_ns, direction=side, seq=ends[side], ack=acked[side], window=draw(st.sampled_from([0, 1, 500])))
        kind = draw(st.sampled_from(["syn"] * 2 + ["data"] * 4 + ["again"] * 2 + ["ack"] * 3 + ["fin", "rst", "jump"]))
        if kind == "syn":
            p.seq, p.tcp_flags = draw(numbers), draw(st.sampled_from([SYN, SYN | ACK]))
            p.window_scale, p.ack = draw(st.sampled_from([-1, 0, 7])), (ends[1 - side] + 1) % 2**32
            ends[side] = (p.seq + 1) % 2**32
        elif kind == "data":
            p.payload_bytes = draw(st.sampled_from([1, 2, 60, 300, 1_460, 65_000]))
            sent[side].append((p.seq, p.payload_bytes))
            ends[side] = (ends[side] + p.payload_bytes) % 2**32
        elif kind == "again" and sent[side]:
            p.seq, p.payload_bytes = draw(st.sampled_from(sent[side]))
        elif kind == "ack":
            acked[side] = p.ack = draw(st.sampled_from([ends[1 - side], *[seq for seq, _ in sent[1 - side][-3:]]]))
        elif kind == "fin":
            p.tcp_flags = FIN | ACK
            ends[side] = (ends[side] + 1) % 2**32
        elif kind == "rst":
            p.tcp_flags, p.window = draw(st.sampled_from([RST, RST | ACK])), 0
        elif kind == "jump":
            ends[side] = (ends[side] + draw(st.sampled_from([100, 2**29, 2**30, 2**31 - 5]))) % 2**32
        packets.append(p)
    kept = draw(st.sampled_from([None, None, UP, DOWN]))
    return [p for p in packets if kept is None or p.direction == kept]


def up(seq: int, payload_bytes: int = 0, ack: int = 0, tcp_flags: int = ACK) -> P:
    return at(0, UP, seq, payload_bytes, ack=ack, tcp_flags=tcp_flags)


def down(seq: int, payload_bytes: int = 0, ack: int = 0, tcp_flags: int = ACK) -> P:
    return at(0, DOWN, seq, payload_bytes, ack=ack, tcp_flags=tcp_flags)


@given(connections())
@example([down(2147482709, 65_000), down(4294965419, 1), down(4294965357, 2)])
@example([down(2**30, 0, 2**30, FIN | ACK), down(3 * 2**30, 2), down(2**30 + 1, 1_460), down(2**30 + 1, 1_460)])
@example([down(2**32 - 1, 65_000), up(2**32 - 1, ack=2**32 - 1), down(2**31 - 1, 1), down(64_999, 2)])
@example([up(65_006, 60), down(2147483655, 2, 2147483655), up(2**32 - 1, 100)])
@example([up(5, 1, 3907766900, SYN | ACK), up(2147483647, 60), up(7, 60), up(2147483677, 30), up(67, 1_460)])
@example([down(0, 1, 3, SYN | ACK), down(2**30, 1_460), down(5, 1_460), down(2**30, 1_460), down(2**31 + 9, 1_460)])
@example([up(3 * 2**30, 0, 7, SYN | ACK), up(3 * 2**30 + 1, 65_000, 7), down(7, 9, 2**30 + 64_999), down(16, 0, 1)])
def test_counters_are_those_of_the_twin(packets: list[P]) -> None:
    intervals = in_intervals(packets)
    expected, crowded = tcp_counters(intervals)
    for output, naive in zip(run(TCPCounters, [[*map(as_packet, i)] for i in intervals]), expected, strict=True):
        for name, value in naive.items():
            if not (crowded and name.startswith(("unique_bytes", "goodput"))):
                tolerance = 1e-6 * max(naive[name.replace("_std_", "_mean_")], 1) if "_std_" in name else 1e-9
                assert output[name] == pytest.approx(value, rel=1e-9, abs=tolerance, nan_ok=True), name


@given(connections())
@example([up(435396650, 0, 0, FIN | ACK), up(2582880294, 65_000), up(2582945294, 60), down(435396651, 0, 2582945354)])
@example([up(2**31, 1, 5, SYN), up(1, 65_000), down(6, 0, 65_001)])
@example([down(2**31, 0, 0, SYN), down(2**31, 60, 0, SYN), up(2**31 + 1, 0, 2**31 + 61)])
def test_round_trips_are_those_of_the_twin(packets: list[P]) -> None:
    intervals = in_intervals(packets)
    expected, crowded = latency_counters(intervals)
    for output, naive in zip(run(LatencyCounters, [[*map(as_packet, i)] for i in intervals]), expected, strict=True):
        for name, value in naive.items():
            if not crowded:
                assert output[name] == pytest.approx(value, rel=1e-9, abs=1e-6, nan_ok=True), name


@given(connections())
@example([up(1, 0, 100), up(1, 0, 200), up(9, 0, 0, SYN), down(150, 60, 2)])
def test_segments_are_those_of_the_twin(packets: list[P]) -> None:
    intervals = in_intervals(packets)
    for output, naive in zip(run(Tiny, intervals), video_segments(intervals, Tiny), strict=True):
        for name, value in naive.items():
            if output[name] == output[name] or "_p" not in name:  # without sketches their quantiles are null
                assert output[name] == pytest.approx(value, rel=1e-5, abs=1.1e-6, nan_ok=True), name
