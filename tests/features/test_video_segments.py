"""VideoSegments: the laws of segments, and equality with a twin that keeps everything."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.naive.compiled import compiled
from support.naive.packets import Flow, P, conversations, in_intervals, read_flows
from support.naive.running import load, run
from support.naive.video_segments import Watched, video_segments
from trafficrefinery.api import ACK, DOWN, FIN, NOT_QUIC, RST, SYN, TCP, UDP, UP, state_dtype

VideoSegments: Any = load("video_segments").VideoSegments


SKETCHED = ("request_iat_s", "completion_iat_s", "all_bytes", "all_request_iat_s", "all_completion_iat_s")


class Tiny(VideoSegments):  # segments that a test can afford
    MinBytes = 40
    TCPRequestBytes = 2
    UDPRequestBytes = 20
    OtherUDPRequestBytes = 40
    Quantiles = True


class TinySegments(VideoSegments):
    MinBytes = 40


def up(ts_s: float, seq: int, payload_bytes: int, **fields: Any) -> P:
    return P(direction=UP, ts_ns=round(ts_s * 1e9), seq=seq % 2**32, payload_bytes=payload_bytes, **fields)


def down(ts_s: float, seq: int, payload_bytes: int, **fields: Any) -> P:
    return replace(up(ts_s, seq, payload_bytes, **fields), direction=DOWN)


def one_sided(packets: list[P], side: int) -> list[P]:
    return [p for p in packets if p.direction == side]


@st.composite
def arbitrary_flows(draw: Any) -> list[list[P]]:
    """Packets in any order around one sequence number, which wraps in about half of the flows; several intervals."""
    protocol = draw(st.sampled_from([TCP, TCP, TCP, UDP]))
    base = draw(st.sampled_from([1, 2**31 - 40, 2**32 - 40]))
    flags = [ACK] * 9 + ([SYN, FIN | ACK, RST] if protocol == TCP else [])
    # Multiples of ten meet each other's edges often; the others do not.
    offset = st.one_of(
        *[st.integers(0, 50).map(lambda n: 10 * n)] * 4, st.sampled_from([7, 2**31, 2**31 - 1, 2**30, 2**29])
    )
    payload = st.one_of(st.integers(0, 12).map(lambda n: 10 * n), st.sampled_from([0, 1, 19, 95, 150]))
    one = st.tuples(
        st.booleans(), offset, offset, payload, st.sampled_from(flags), st.sampled_from([0] * 12 + [1, 2]),
        st.integers(-2_000, 40_000), st.booleans(),
    )  # fmt: skip
    ts_ns = 1_500_000_000_000_000_000
    intervals = []
    for packets in draw(st.lists(st.lists(one, min_size=12, max_size=40), min_size=1, max_size=3)):
        intervals.append([])
        for to_client, seq, acked, payload_bytes, tcp_flags, fragment, later_us, is_quic in packets:
            ts_ns += later_us * 1_000
            is_tcp = protocol == TCP and fragment != 2
            intervals[-1].append(P(
                direction=DOWN if to_client else UP, ts_ns=ts_ns, protocol=protocol, payload_bytes=payload_bytes,
                seq=(base + seq) % 2**32 if is_tcp else 0, tcp_flags=tcp_flags if is_tcp else 0, fragment=fragment,
                ack=(base + acked) % 2**32 if is_tcp else 0,
                record_bytes=1 if not is_quic and protocol == UDP and fragment != 2 else 0,
            ))  # fmt: skip
    side = draw(st.sampled_from([None, None, UP, DOWN]))
    return [packets if side is None else one_sided(packets, side) for packets in intervals]


@st.composite
def downloads(draw: Any) -> tuple[list[P], int]:
    """A well-behaved TCP download with losses and reordering, and how many bytes the server had to say."""
    server, client, ts_s = draw(st.sampled_from([7, 2**32 - 3_000])), draw(st.sampled_from([9, 2**32 - 100])), 0.0
    start = server + 1
    sent = [up(0, client, 0, tcp_flags=SYN), down(0.01, server, 0, tcp_flags=SYN | ACK, ack=(client + 1) % 2**32)]
    server, client = server + 1, client + 1
    sent.append(up(0.02, client, 0, ack=server % 2**32))
    for pieces in draw(st.lists(st.lists(st.integers(1, 1_460), max_size=12), min_size=1, max_size=8)):
        sent.append(up(ts_s, client, 300, ack=server % 2**32))
        client += 300
        response = []
        for payload_bytes in pieces:
            response.append(down(ts_s, server, payload_bytes, ack=client % 2**32))
            server += payload_bytes
        for again in draw(st.lists(st.integers(0, max(len(response) - 1, 0)), max_size=3)) if response else []:
            response.append(response[again])
        for moved in draw(st.lists(st.integers(0, max(len(response) - 2, 0)), max_size=3)) if response else []:
            if moved + 1 < len(response):
                response[moved : moved + 2] = response[moved + 1], response[moved]
        sent += response
        ts_s += 1.0
    sent.append(up(ts_s, client, 0, ack=server % 2**32, tcp_flags=FIN | ACK))
    sent.append(down(ts_s, server, 0, ack=(client + 1) % 2**32, tcp_flags=FIN | ACK))
    return sent, server - start


def assert_same(outputs: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for output, naive in zip(outputs, expected, strict=True):
        assert output.keys() == naive.keys()
        for name, value in naive.items():
            # Quantiles are bins of a sketch; deviations are kept in single precision; gaps in whole microseconds.
            sketched = name.startswith(SKETCHED) and name[-3] == "p"
            rel = 0.126 if sketched else 1e-5
            close = pytest.approx(value, rel=rel, abs=1.1e-6, nan_ok=True)
            assert output[name] == close, name


@given(arbitrary_flows())
def test_equal_to_the_twin_that_keeps_everything(intervals: list[list[P]]) -> None:
    assert_same(run(Tiny, intervals), video_segments(intervals, Tiny))


@given(conversations())
def test_equal_to_the_twin_on_conversations(packets: list[P]) -> None:
    whole_us = [replace(p, ts_ns=p.ts_ns // 1_000 * 1_000) for p in packets]
    intervals = in_intervals(whole_us)
    assert_same(run(Tiny, intervals), video_segments(intervals, Tiny))


@given(downloads(), st.lists(st.integers(0, 100), max_size=5))
def test_segments_and_pending_bytes_are_the_unique_payload_over_any_intervals(
    download: tuple[list[P], int], cuts: list[int]
) -> None:
    packets, payload_bytes = download
    edges = [0, *sorted(min(cut, len(packets)) for cut in cuts), len(packets)]
    intervals = [packets[a:b] for a, b in pairwise(edges)]
    outputs = run(Tiny, intervals)
    done = sum(output["segment_bytes"] + output["small_bytes"] for output in outputs)
    assert done + outputs[-1]["pending_bytes"] == payload_bytes
    whole = run(Tiny, [packets])[0]
    for name in ("segments", "small_segments", "requests", "segment_bytes"):
        assert sum(output[name] for output in outputs) == whole[name]
    assert outputs[-1]["all_bytes"] == whole["segment_bytes"]
    assert outputs[-1]["last10_bytes_p50"] == pytest.approx(whole["last10_bytes_p50"], nan_ok=True)


def total_bytes(outputs: list[dict[str, Any]]) -> int:
    done = sum(output["segment_bytes"] + output["small_bytes"] for output in outputs)
    return int(done + outputs[-1]["pending_bytes"])


@given(downloads(), st.sampled_from([UP, DOWN]))
def test_one_direction_has_the_bytes_and_segments_of_both(download: tuple[list[P], int], side: int) -> None:
    """A request that the server acknowledges together with the one before it is not seen; here each has an answer."""
    packets, payload_bytes = download
    half = run(Tiny, [one_sided(packets, side)])
    assert total_bytes(half) == payload_bytes
    whole = run(Tiny, [packets])[0]
    assert sum(whole[name] for name in ("segments", "small_segments")) == sum(
        half[0][name] for name in ("segments", "small_segments")
    )
    assert list(half[0]["segment_sizes"]) == list(whole["segment_sizes"])


@given(downloads(), st.randoms(use_true_random=False), st.sampled_from([UP, DOWN]), st.floats(0, 0.5))
def test_what_the_tap_loses_of_one_direction_counts_once(
    download: tuple[list[P], int], random: Any, side: int, loss: float
) -> None:
    packets, payload_bytes = download
    kept = [p for p in packets if p.direction != side or p in packets[-2:] or random.random() >= loss]
    assert total_bytes(run(Tiny, [kept])) == payload_bytes
    assert run(Tiny, [kept])[0]["all_requests"] <= run(Tiny, [packets])[0]["all_requests"]


@given(downloads(), st.integers(0, 60), st.sampled_from([UP, DOWN]))
def test_a_direction_that_appears_late_counts_nothing_twice(
    download: tuple[list[P], int], first: int, side: int
) -> None:
    packets, payload_bytes = download
    kept = [p for i, p in enumerate(packets) if i >= first or p.direction != side]
    assert payload_bytes - 1_460 * 16 <= total_bytes(run(Tiny, [kept])) <= payload_bytes


def test_a_segment_is_reported_once_in_the_interval_in_which_it_completes() -> None:
    first, second, third = run(VideoSegments, [
        [up(1, 1, 300), down(2, 1, 40_000)],
        [down(11, 40_001, 10_000)],
        [up(21, 301, 300)],
    ])  # fmt: skip
    assert [first["segments"], second["segments"], third["segments"]] == [0, 0, 1]
    assert [first["pending_bytes"], second["pending_bytes"], third["pending_bytes"]] == [40_000, 50_000, 0]
    assert third["segment_sizes"] == [50_000]
    assert third["segment_download_rate"] == 0.1
    assert (third["ttfb_s_mean"], third["download_s_mean"], third["response_s_mean"]) == (1.0, 9.0, 10.0)
    assert third["segment_kbps"] == 40.0


def test_the_same_request_and_response_three_times_is_one_segment() -> None:
    exchange = [up(1, 1, 300), down(2, 1, 40_000)]
    (output,) = run(VideoSegments, [exchange * 3 + [up(3, 301, 300)]])
    assert (output["requests"], output["segments"], output["segment_bytes"]) == (2, 1, 40_000)


def test_lost_bytes_count_when_they_come_and_once() -> None:
    late = down(1.5, 2**32 - 10_000, 20_000)
    (output,) = run(VideoSegments, [[
        up(1, 1, 300), down(1.1, 2**32 - 30_000, 20_000), down(1.2, 10_000, 5_000), late, late, up(2, 301, 300),
    ]])  # fmt: skip
    assert output["segment_sizes"] == [45_000]


def test_one_packet_may_close_several_holes() -> None:
    blocks = [down(1, 1_000 * i, 500) for i in range(4)]
    syn = down(0, 2**32 - 1, 0, tcp_flags=SYN | ACK)
    (output,) = run(VideoSegments, [[syn, *blocks, down(2, 100, 3_300)]])
    assert output["pending_bytes"] == 3_500


def test_the_lowest_of_more_than_five_holes_is_given_up() -> None:
    """What fills it later is not counted: the documented limit."""
    syn = down(0, 2**32 - 1, 0, tcp_flags=SYN | ACK)
    five_holes = [down(1, 1_000 * i, 500) for i in (6, 0, 5, 4, 3, 2)]
    assert run(VideoSegments, [[syn, *five_holes, down(2, 500, 5_500)]])[0]["pending_bytes"] == 6_500
    ascending = [down(1, 1_000 * i, 500) for i in range(7)]
    fillers = [down(2, 1_000 * i + 500, 500) for i in range(6)]
    pending = [run(VideoSegments, [[syn, *ascending, filler]])[0]["pending_bytes"] for filler in fillers]
    assert pending == [3_500] + [4_000] * 5


def test_bytes_before_the_first_one_seen_count_unless_the_handshake_was_seen() -> None:
    data, earlier = down(1, 5_001, 1_000), down(2, 1, 5_000)
    assert run(VideoSegments, [[data, earlier, earlier]])[0]["pending_bytes"] == 6_000
    syn = down(0, 5_000, 0, tcp_flags=SYN | ACK)
    assert run(VideoSegments, [[syn, data, earlier]])[0]["pending_bytes"] == 1_000


def test_requests_without_an_answer_are_pending_and_no_empty_segments() -> None:
    (output,) = run(VideoSegments, [[up(1, 1, 100), up(2, 101, 100), up(4, 201, 100)]])
    assert (output["pending_requests"], output["segments"], output["small_segments"]) == (3, 0, 0)
    assert (output["request_iat_s_min"], output["request_iat_s_max"]) == (1.0, 2.0)
    assert math.isnan(output["segment_bytes_mean"])


def test_small_exchanges_are_no_media() -> None:
    (output,) = run(VideoSegments, [[up(1, 1, 100), down(2, 1, 29_999), up(3, 101, 100)]])
    assert (output["segments"], output["small_segments"], output["small_bytes"]) == (0, 1, 29_999)


def test_payload_that_nobody_asked_for_is_no_segment() -> None:
    (output,) = run(VideoSegments, [[down(2, 1, 50_000), up(3, 101, 100)]])
    assert (output["segments"], output["small_bytes"]) == (0, 50_000)


def test_a_request_in_the_syn_that_is_sent_again_without_it_is_one_request() -> None:
    """TCP Fast Open (RFC 7413): the SYN takes a sequence number, the payload begins behind it."""
    (output,) = run(VideoSegments, [[up(1, 2**32 - 1, 300, tcp_flags=SYN), up(2, 0, 300), up(3, 300, 49)]])
    assert output["requests"] == 2


@pytest.mark.parametrize("end", [down(3, 50_001, 0, tcp_flags=FIN | ACK), up(3, 301, 0, tcp_flags=RST)])
def test_the_end_of_the_connection_completes_the_last_segment(end: Any) -> None:
    (output,) = run(VideoSegments, [[up(1, 1, 300), down(2, 1, 50_000), end]])
    assert (output["segments"], output["pending_bytes"], output["pending_requests"]) == (1, 0, 0)


def datagram(direction: int, ts_s: float, payload_bytes: int, *, is_quic: bool = True) -> P:
    record_bytes = 0 if payload_bytes > 1_024 else payload_bytes if is_quic else NOT_QUIC
    return P(
        direction=direction, ts_ns=round(ts_s * 1e9), payload_bytes=payload_bytes, protocol=UDP,
        record_bytes=record_bytes,
    )  # fmt: skip


def test_quic_acknowledgements_are_no_requests() -> None:
    packets = [datagram(UP, 1, 65), *(datagram(DOWN, 2 + i / 100, 1_250) for i in range(40)), datagram(UP, 3, 64)]
    (output,) = run(VideoSegments, [packets])
    assert (output["requests"], output["pending_bytes"]) == (1, 50_000)
    assert run(VideoSegments, [[*packets, datagram(UP, 4, 80)]])[0]["segment_sizes"] == [50_000]


def test_acknowledgements_of_googles_quic_are_no_requests() -> None:
    """Up to 80 bytes in recorded sessions of 2018, of any size after any other; a request has 584 at least."""
    sizes = [33, 80, 30, 79, 24, 72, 66, 31, 80]
    acks = [datagram(UP, 2 + i, size, is_quic=False) for i, size in enumerate(sizes)]
    packets = [datagram(UP, 1, 592, is_quic=False), *acks, datagram(UP, 60, 584, is_quic=False)]
    assert run(VideoSegments, [packets])[0]["requests"] == 2


def test_quic_acknowledgements_that_grow_with_loss_are_no_requests() -> None:
    """Measured with Firefox: up to 96 bytes at a loss of 10 %, where a request has 190."""
    sizes = [35, 40, 47, 55, 62, 70, 77, 85, 90, 96, 88, 93]
    acks = [datagram(UP, i, size) for i, size in enumerate(sizes)]
    assert run(VideoSegments, [[*acks, datagram(UP, 100, 190), datagram(UP, 100, 188)]])[0]["requests"] == 2


def test_a_padded_probe_of_quic_is_a_request() -> None:
    """The limit that is left: padded to 1,200 bytes and more (RFC 9000, 8.2.1 and 14.4), it looks like a large one."""
    packets = [(UP, 300), *[(DOWN, 1_250)] * 40, (UP, 1_200), *[(DOWN, 1_250)] * 40]
    made = [datagram(direction, i / 100, size) for i, (direction, size) in enumerate(packets)]
    assert run(VideoSegments, [made])[0]["requests"] == 2


def test_later_fragments_follow_the_fragment_before() -> None:
    first, rest = down(2, 1, 1_000, fragment=1), down(2, 0, 500, fragment=2)
    (output,) = run(VideoSegments, [[up(1, 1, 10), first, rest, down(3, 1_501, 700)]])
    assert output["pending_bytes"] == 2_200


@given(st.lists(st.integers(1, 2**33), min_size=1, max_size=25))
@example([5] * 25)
def test_the_last_ten_sizes_keep_their_order_by_time_and_by_size(sizes: list[int]) -> None:
    latest_class = load("video_segments").Latest
    latest = latest_class.bind(np.zeros((), state_dtype(latest_class))[()])
    for size in sizes:
        latest.add(size)
    kept = [min(size, 2**32 - 1) for size in sizes[-10:]]
    assert list(latest.sizes[: latest.n]) == kept[::-1]
    for q in (0.0, 0.5, 0.75, 0.85, 0.9, 1.0):
        assert latest.quantile(q) == pytest.approx(np.quantile(kept, q))


def test_state_is_bounded() -> None:
    assert state_dtype(VideoSegments).itemsize <= 344


@pytest.fixture(scope="module")
def netflix_flows(shared_data: Path) -> list[Flow]:
    flows = read_flows(shared_data / "netflix_2018.pcap.zst", clients=frozenset(["192.168.43.72"]))
    return [flow for flow in flows if flow.protocol == TCP and len(flow.packets) < 26_000]


def test_segments_of_recorded_sessions_are_their_unique_payload(netflix_flows: list[Flow], shared_data: Path) -> None:
    """Against a twin without limits for every connection, and against tshark where nothing came twice or late."""
    truth = (
        pl.read_parquet(shared_data / "netflix_2018_truth.parquet")
        .group_by("client_port", "server_ip", "server_port")
        .agg(pl.col("retrans_down", "ooo_down", "payload_bytes_down").sum())
    )
    clean = {tuple(row[:3]): row[5] for row in truth.iter_rows() if row[3] == row[4] == 0}
    run_compiled = compiled(VideoSegments)
    checked = 0
    for flow in netflix_flows:
        outputs = run_compiled(in_intervals(flow.packets))
        counted = sum(output["segment_bytes"] + output["small_bytes"] for output in outputs)
        counted += outputs[-1]["pending_bytes"]
        watched = Watched(VideoSegments, most_holes=10**9)
        assert counted == sum(new_bytes for p in flow.packets for _, new_bytes in watched.events(p))
        of_tshark = clean.get((flow.client[1], *flow.server))
        if of_tshark:
            checked += 1
            assert counted == of_tshark
    assert checked > 10


@pytest.mark.parametrize("side", [UP, DOWN])
def test_half_of_a_recorded_session_has_its_segments(netflix_flows: list[Flow], side: int) -> None:
    run_compiled = compiled(VideoSegments)
    figures = []
    for kept in ((UP, DOWN), (side,)):
        flows = [[p for p in flow.packets if p.direction in kept] for flow in netflix_flows]
        outputs = [output for packets in flows if packets for output in run_compiled(in_intervals(packets))]
        figures.append([sum(output[name] for output in outputs) for name in ("segments", "segment_bytes")])
    (segments, segment_bytes), half = figures
    assert segments > 50
    assert half == [pytest.approx(segments, rel=0.05), pytest.approx(segment_bytes, rel=0.05)]


@pytest.mark.parametrize("kept", [(UP, DOWN), (UP,), (DOWN,)])
def test_window_updates_of_http2_end_no_segment(shared_data: Path, kept: tuple[int, ...]) -> None:
    trace = shared_data.parent / "cases" / "h2_window_update.pcap.zst"
    if not trace.is_file():
        pytest.skip("no small inputs with right values: ../shared/cases is absent")
    (flow,) = read_flows(trace)
    outputs = compiled(VideoSegments)(in_intervals([p for p in flow.packets if p.direction in kept]))
    assert [sum(output[name] for output in outputs) for name in ("segments", "segment_bytes")] == [4, 4_200_000]
    assert {output["segment_bytes_max"] for output in outputs if output["segments"]} == {1_050_000.0}


@pytest.mark.parametrize(("record", "segments"), [(24, 1), (35, 1), (46, 1), (48, 1), (49, 2), (61, 2)])
@pytest.mark.parametrize("side", [None, UP, DOWN])
def test_control_records_during_a_download_end_no_segment(record: int, segments: int, side: int | None) -> None:
    packets, client = [up(0, 1, 300, ack=1)], 301
    for i in range(40):
        packets.append(down(1 + i / 10, 1 + 1_000 * i, 1_000, ack=client))
        packets.append(up(1.01 + i / 10, client, record if i == 20 else 0, ack=1 + 1_000 * (i + 1)))
        client += packets[-1].payload_bytes
    packets += [up(6, client, 300, ack=40_001), down(6.1, 40_001, 10, ack=client + 300)]
    first = [up(-1, 1, 0, ack=1), down(-0.5, 1, 0, ack=1)]  # what each side knows before
    packets = [p for p in [*first, *packets] if side is None or p.direction == side]
    (output,) = run(TinySegments, [packets])
    assert output["segments"] == segments
    assert output["segment_bytes"] == 40_000


@pytest.mark.parametrize(
    ("payload_bytes", "record_bytes", "segments"),
    [(70, 35, 1), (84, 45, 1), (84, 35, 1), (160, 48, 1), (84, 49, 2), (40, 500, 2), (84, 0, 2), (48, 0, 1)],
)
@pytest.mark.parametrize("side", [None, UP])
def test_control_records_that_are_sent_together_end_no_segment(
    payload_bytes: int, record_bytes: int, segments: int, side: int | None
) -> None:
    """The longest record of a packet asks, even when its end is in the next; without one, all of the payload does."""
    packets, client = [up(-1, 1, 0, ack=1), up(0, 1, 300, ack=1)], 301
    for i in range(40):
        packets.append(down(1 + i / 10, 1 + 1_000 * i, 1_000, ack=client))
        sent = payload_bytes if i == 20 else 0
        packets.append(
            up(1.01 + i / 10, client, sent, ack=1 + 1_000 * (i + 1), record_bytes=record_bytes if sent else 0)
        )
        client += sent
    packets += [up(6, client, 300, ack=40_001), down(6.1, 40_001, 10, ack=client + 300)]
    (output,) = run(TinySegments, [[p for p in packets if side is None or p.direction == side]])
    assert (output["segments"], output["segment_bytes"]) == (segments, 40_000)


def test_control_records_acknowledged_together_are_a_request_where_only_the_server_is_seen() -> None:
    """The limit that is left: acknowledgement numbers show no records."""
    both = [down(0, 1, 0, ack=1), down(1, 1, 500, ack=301), down(2, 501, 500, ack=371), down(3, 1_001, 500, ack=406)]
    assert run(VideoSegments, [both])[0]["requests"] == 2


def test_an_upload_is_pending_requests_and_no_segment() -> None:
    upload = [up(i / 100, 1 + 1_460 * i, 1_460, ack=1, record_bytes=16_406 if i % 11 == 0 else 0) for i in range(700)]
    answer = [*(down(8 + i / 100, 1 + 1_000 * i, 1_000, ack=1_022_001) for i in range(40)), up(9, 1_022_001, 300)]
    (output,) = run(VideoSegments, [[*upload, *answer]])
    assert (output["segments"], output["segment_bytes"], output["small_segments"]) == (1, 40_000, 0)


@pytest.mark.parametrize("payload_bytes", [120, 1_460])
def test_pipelined_requests_and_one_larger_than_a_segment_have_one_answer(payload_bytes: int) -> None:
    asked = [up(1 + i / 100, 1 + payload_bytes * i, payload_bytes) for i in range(3)]
    (output,) = run(VideoSegments, [[*asked, down(2, 1, 50_000), up(3, 1 + 3 * payload_bytes, 120)]])
    assert (output["segment_sizes"], output["ttfb_s_mean"]) == ([50_000], 0.98)


def test_early_data_behind_the_hello_is_a_request() -> None:
    """TLS 1.3, 0-RTT: the answer comes before any other packet of the client."""
    hello, request = up(1, 1, 517, record_bytes=517), up(1.01, 518, 58, record_bytes=58)
    (output,) = run(VideoSegments, [[hello, request, down(2, 1, 50_000), up(3, 576, 80, record_bytes=80)]])
    assert (output["segment_sizes"], output["requests"]) == ([50_000], 3)


def test_keep_alives_are_no_requests() -> None:
    """A byte that was acknowledged before (RFC 9293, section 3.8.4), or a new one."""
    alive = [up(3, 300, 1, ack=40_001), up(4, 301, 1, ack=40_001)]
    (output,) = run(VideoSegments, [[up(1, 1, 300, ack=1), down(2, 1, 40_000), *alive, down(5, 40_001, 10_000)]])
    assert (output["requests"], output["pending_bytes"]) == (1, 50_000)


def test_a_request_that_is_acknowledged_in_pieces_or_spread_over_packets_is_one_where_only_the_server_is_seen() -> None:
    pieces = [down(i / 100, 1, 0, ack=1 + 40 * i) for i in range(8)]
    assert run(VideoSegments, [[*pieces, pieces[-1], down(1, 1, 500, ack=281)]])[0]["requests"] == 1
    spread = [down(0, 1, 0, ack=1), down(0.1, 1, 0, ack=1_449), down(0.2, 1, 0, ack=2_000), down(1, 1, 500, ack=2_000)]
    assert run(VideoSegments, [spread])[0]["requests"] == 1
    assert run(VideoSegments, [[*spread, down(2, 501, 500, ack=2_300)]])[0]["requests"] == 2


def test_a_segment_of_more_than_four_gibibytes_is_whole() -> None:
    packets = [up(0, 1, 300, ack=1)]
    packets += [down(1 + i, 1 + 2**30 * i // 2, 2**29) for i in range(10)]
    (output,) = run(VideoSegments, [packets])
    assert output["pending_bytes"] == 10 * 2**29


def test_equal_to_the_twin_on_a_recorded_connection(netflix_flows: list[Flow]) -> None:
    (flow,) = (flow for flow in netflix_flows if flow.client[1] == 58_497)  # 18 spurious retransmissions, 25 late
    intervals = in_intervals(flow.packets)
    outputs = run(VideoSegments, intervals)
    assert_same(without_quantiles(outputs), without_quantiles(video_segments(intervals, VideoSegments)))
    assert sum(output["segments"] for output in outputs) > 5


def without_quantiles(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sketched = [f"{name}_p{q}" for name in SKETCHED for q in (50, 75, 85, 90)]
    return [{name: value for name, value in output.items() if name not in sketched} for output in outputs]
