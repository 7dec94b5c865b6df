"""Damaged, jumping and backward times in a trace: what moves the clock, and what is a stray."""

from __future__ import annotations

import pytest

from support.accounting import accounted
from support.naive.frames import Frame
from support.replays import ALL_TRAFFIC, Run, config_of, replay_files, replay_frames
from support.trace_clock_cases import (
    HOUR,
    START_NS,
    Y2097,
    Y2262,
    disorderly,
    packet,
    plan,
    sessions,
    starts,
    usual_starts,
)
from support.traces import SECOND, write_trace
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.trace_clock import LATEST_NS
from trafficrefinery.engine.worker import Settings

pytestmark = pytest.mark.modes


def replay(frames: list[Frame], **options) -> Run:
    run = replay_frames(plan(), frames, **options)
    assert run.counters["packets"] == len(frames) == accounted(run.counters)
    return run


@pytest.mark.parametrize("stray_ns", [Y2097, Y2262, START_NS + 2 * HOUR, START_NS - 2 * HOUR, 0, -SECOND, -(1 << 63)])
@pytest.mark.parametrize("at", [0, 1, 60, 168])
def test_a_stray_time_moves_nobodys_clock(stray_ns, at):
    frames = sessions()
    frames.insert(at, packet(stray_ns, 99))
    if (at, stray_ns) in ((168, START_NS + 2 * HOUR), (0, START_NS - 2 * HOUR)):
        return  # the last packet of the trace, or the first, and a pause of two hours: nothing says that it is none
    run = replay(frames)
    assert starts(run) == usual_starts()
    assert run.counters["bad_time"] == 1
    assert run.lines == replay(sessions()).lines


EDGES = [edge + off for edge in (-(1 << 63), -(1 << 62), 1 << 62) for off in (-SECOND, -1, 0, 1, SECOND)]


@pytest.mark.parametrize("edge_ns", [edge for edge in EDGES if edge >= -(1 << 63)] + [(1 << 63) - 1])
def test_a_time_near_the_ends_of_64_bits_is_bad_also_in_front_and_alone(edge_ns):
    edge = packet(edge_ns, 99)
    run = replay([edge])
    assert (run.counters["bad_time"], run.lines) == (1, [])
    run = replay([edge, *sessions()])
    assert (starts(run), run.counters["bad_time"]) == (usual_starts(), 1)


def test_the_earliest_time_of_64_bits_is_not_near_to_zero():
    run = replay([packet(-(1 << 63), 99), packet(0, 1), packet(0, 1, 1)])
    assert (starts(run), run.counters["bad_time"]) == ([0], 1)


def test_the_latest_time_that_a_packet_can_have_has_its_record():
    run = replay([packet(LATEST_NS - 1, 99)])
    assert (run.counters["attributed"], len(run.lines)) == (1, 1)


def test_several_strays_of_one_flow_are_none_the_less():
    frames = sessions()
    frames[60:60] = [packet(Y2097 + number, 99, number) for number in range(40)]
    run = replay(frames)
    assert (starts(run), run.counters["bad_time"]) == (usual_starts(), 40)


DAY = 24 * HOUR
Y2093 = START_NS + 73 * 365 * DAY


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("flow", [5, 99])  # one that was seen before, and another
@pytest.mark.parametrize("count", [1, 4, 40])
def test_stray_times_of_one_flow_at_the_end_are_strays(flow, count, workers):
    frames = [*sessions(), *[packet(Y2093 + number * 1_000_000, flow, 100 + number) for number in range(count)]]
    run = replay(frames, partitions=workers)
    assert (starts(run), run.counters["bad_time"]) == (usual_starts(), count)


@pytest.mark.parametrize("off_ns", [2 * HOUR, 30 * DAY, -2 * HOUR, -30 * DAY])
@pytest.mark.parametrize("sizes", [(1,), (50,)])
def test_one_flow_of_several_that_jumps_at_the_end_moves_no_clock(off_ns, sizes):
    frames = sessions()
    jumps = [frame._replace(ts_ns=frame.ts_ns + off_ns) for frame in frames[-20:]]
    run = replay([*frames[:-20], *jumps], sizes=sizes)
    assert (starts(run), run.counters["bad_time"], run.counters["clock_set_back"]) == (usual_starts(), 20, 0)


@pytest.mark.parametrize("off_ns", [2 * HOUR, 30 * DAY, -30 * DAY, Y2093 - START_NS])  # not -2 h: a pause
def test_one_flow_that_jumps_at_the_beginning_moves_no_clock(off_ns):
    frames = sessions()
    jumps = [frame._replace(ts_ns=frame.ts_ns + off_ns) for frame in frames[:4]]
    run = replay([*jumps, *frames[4:]])
    assert (starts(run), run.counters["bad_time"], run.counters["clock_set_back"]) == (usual_starts(), 4, 0)


@pytest.mark.parametrize("at", [0, 60, 168])
def test_two_packets_that_agree_by_accident_move_no_clock(at):
    frames = sessions()
    frames[at:at] = [packet(Y2093, 98), packet(Y2093 + 3 * SECOND, 99)]
    run = replay(frames)
    assert (starts(run), run.counters["bad_time"]) == (usual_starts(), 2)


def alone(*parts: tuple[int, int]) -> list[Frame]:
    """One flow: of each part, the time it begins at and its packets, a second apart."""
    return [packet(START_NS + at_ns + SECOND * i, 1, i) for at_ns, count in parts for i in range(count)]


@pytest.mark.parametrize("count", [1, 5, 1_100])
@pytest.mark.parametrize("sizes", [(1024,), (100,)])
def test_a_flow_that_is_alone_in_a_trace_may_pause_for_hours(count, sizes):
    run = replay(alone((0, 200), (2 * HOUR, count), (12 * HOUR, count)), sizes=sizes)
    assert (run.counters["bad_time"], run.counters["clock_set_back"]) == (0, 0)
    assert max(starts(run)) >= (START_NS + 12 * HOUR) / SECOND


@pytest.mark.parametrize("off_ns", [30 * DAY, Y2093 - START_NS, -2 * HOUR])
def test_a_flow_that_is_alone_goes_to_another_time_only_when_it_goes_on(off_ns):
    assert replay(alone((0, 200), (off_ns, 15))).counters["bad_time"] == 15
    assert replay(alone((0, 200), (off_ns, 16))).counters["bad_time"] == 0


def test_a_flow_is_alone_only_if_no_other_was_ever_seen():
    frames = [packet(START_NS, 7), *alone((0, 300), (2 * HOUR, 20))]
    assert replay(frames, sizes=(100,)).counters["bad_time"] == 20
    assert replay(frames, sizes=(10_000,)).counters["bad_time"] == 20


def test_a_flow_among_others_that_goes_on_alone_for_long_is_believed():
    """Others may sleep while one downloads."""
    later = [packet(START_NS + 8 * HOUR + number * 1_000_000, 5, 100 + number) for number in range(1_100)]
    assert replay([*sessions(), *later]).counters["bad_time"] < 1_024
    assert replay([*sessions(), *later[:1_023]]).counters["bad_time"] == 1_023


def test_several_flows_that_agree_move_the_clock():
    later_ns = START_NS + 30 * 24 * HOUR
    frames = [*sessions(3), *[packet(later_ns + number * SECOND // 10, 50 + number % 2, number) for number in range(8)]]
    run = replay(frames)
    assert (starts(run), run.counters["bad_time"]) == ([*usual_starts(3), later_ns / SECOND], 0)


def test_a_pause_of_hours_is_no_stray_also_where_there_is_one_flow():
    frames = [packet(START_NS + number * 2 * HOUR, 1, number) for number in range(50)]
    run = replay(frames)
    assert run.counters["bad_time"] == 0
    assert len(run.lines) == 50
    frames = [*sessions(2), *sessions(1, START_NS + 5 * HOUR, 70)]
    run = replay(frames)
    assert (starts(run), run.counters["bad_time"]) == ([*usual_starts(2), (START_NS + 5 * HOUR) / SECOND], 0)


@pytest.mark.parametrize("back_ns", [40 * SECOND, HOUR, 100 * 24 * HOUR])
def test_a_clock_that_is_set_back_restarts_the_intervals(back_ns):
    second_ns = START_NS + 60 * SECOND - back_ns
    frames = [*sessions(6), *sessions(4, second_ns, 10)]
    run = replay(frames)
    assert run.counters["clock_set_back"] == 1
    assert (run.counters["late_packets"], run.counters["bad_time"]) == (0, 0)
    expected = [*usual_starts(), *(second_ns / SECOND + 10 * session for session in range(4))]
    assert sorted(record["ts_start"] for record in run.records) == sorted(expected)
    assert run.lines == replay(sessions(6)).lines + replay(sessions(4, second_ns, 10)).lines


@pytest.mark.parametrize("count", [8, 20, 40])
@pytest.mark.parametrize("more", [0, 100])
def test_a_late_packet_next_to_a_step_back_is_counted_once_and_known_by_its_number(count, more):
    second_ns = START_NS - 24 * HOUR
    two_flows = [packet(second_ns + number * 1_000_000, 50 + number % 2, number) for number in range(count + more)]
    two_flows.insert(count // 2, packet(second_ns - 40 * SECOND, 52))
    run = replay([*sessions(), *two_flows], settings=Settings(keeps_trail=True))
    assert (run.counters["clock_set_back"], run.counters["late_packets"], run.counters["bad_time"]) == (1, 1, 0)
    assert (run.workers[0].trail >= 0).all()


def test_captures_that_were_put_together_are_all_read():
    """One connection of each of some years, in any order."""
    years = (0, 300, -400, 20, 1_000)
    frames = [
        packet(START_NS + year * 24 * HOUR + number * 1_000_000, flow, number)
        for flow, year in enumerate(years)
        for number in range(5)
    ]
    run = replay(frames)
    assert run.counters["bad_time"] == 0
    assert sorted(starts(run)) == sorted(START_NS / SECOND + year * 86_400 for year in years)


def test_packets_that_come_late_are_late_and_move_nothing():
    frames = sessions(6)
    late = [packet(START_NS + 5 * SECOND + number, 10 + number, number) for number in range(5)]
    frames[140:140] = late
    run = replay(frames)
    assert (run.counters["late_packets"], run.counters["out_of_order"], run.counters["clock_set_back"]) == (5, 5, 0)
    assert set(starts(run)) - set(usual_starts()) == {START_NS / SECOND + 35}  # the oldest that was still open


def test_two_clocks_in_one_trace_cost_nobody_the_intervals():
    ours, theirs = sessions(6, packets=40), sessions(6, START_NS - 50 * SECOND, 20, packets=40)
    run = replay([frame for pair in zip(ours, theirs, strict=True) for frame in pair])
    assert (run.counters["clock_set_back"], run.counters["bad_time"]) == (0, 0)
    assert run.counters["out_of_order"] > 200


@pytest.mark.parametrize("sizes", [(1,), (7, 64, 3), (10**6,)])
def test_what_is_believed_does_not_depend_on_blocks(sizes):
    run = replay(disorderly(), sizes=sizes)
    assert run.lines == replay(disorderly()).lines
    assert (run.counters["bad_time"], run.counters["clock_set_back"]) == (5, 1)


@pytest.mark.parametrize("workers", [2, 3])
def test_nor_on_the_number_of_workers(workers):
    run = replay_frames(plan(), disorderly(), partitions=workers)
    assert run.lines == replay(disorderly()).lines
    assert run.counters == replay(disorderly()).counters


def test_the_origin_of_the_intervals_is_a_time_that_is_believed():
    frames = [packet(Y2097, 9), *sessions(2, START_NS + 3 * SECOND)]
    run = replay_frames(plan(), frames, settings=Settings(first_packet_origin=True))
    assert starts(run) == [START_NS / SECOND + 3, START_NS / SECOND + 13]


def test_a_stray_moves_no_interval_that_is_longer_than_an_hour(tmp_path):
    long = Plan.of(config_of(rest=ALL_TRAFFIC, Interval="24h"))
    frames = sessions()
    frames.insert(60, packet(START_NS + 3 * HOUR, 99))
    assert replay_frames(long, frames).counters["bad_time"] == 1


def test_times_at_the_end_of_their_range_in_a_file(tmp_path):
    trace = tmp_path / "trace.pcap"
    frames = [*sessions(2), packet(4_294_967_295 * SECOND, 99)]  # 2106, the last of a pcap file
    write_trace(trace, frames)
    run = replay_files(plan(), [trace])
    assert (starts(run), run.counters["bad_time"]) == (usual_starts(2), 1)
