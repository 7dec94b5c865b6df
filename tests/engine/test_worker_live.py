"""A worker in the daemon: time goes on without packets, names come from another process, the clock may step."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings

from support.accounting import accounted
from support.replays import blocks_of, replay_frames, usual_plan
from support.trace_clock_cases import START_NS, Y2097, packet, sessions
from support.traces import SECOND, seeded_trace, traces
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.jit import COMPILED
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.records.sinks.files import encode_json_lines

HOUR_NS = 3600 * 10**9


def lines(aggregator: Aggregator) -> list[str]:
    return b"".join(encode_json_lines(batch) for batch in aggregator.ready()).decode().splitlines()


def walk(frames, size=64, before=lambda worker, ahead: None, **kwargs):
    """A worker over frames, and its aggregator; `before` each block it is given the times that are still to come."""
    aggregator = Aggregator(usual_plan(), 1)
    worker = Worker(usual_plan(), aggregator, Settings(**kwargs))
    times = np.array([frame.ts_ns for frame in frames])
    for number, block in enumerate(blocks_of(frames, (size,))):
        before(worker, times[number * size :])
        worker.process(block)
    worker.finish()
    return worker, aggregator


@settings(max_examples=30, deadline=None)
@given(traces())
def test_the_clock_closes_intervals_as_packets_do(frames):
    def advance(worker, ahead):
        if len(ahead) < len(frames):  # the first packet begins the first interval, not an older one behind it
            worker.advance(int(ahead.min()))

    _, by_clock = walk(frames, 8, advance, judges_time=False)
    whole = replay_frames(usual_plan(), frames)
    assert lines(by_clock) == whole.lines
    assert list(by_clock.ready_summaries()) == whole.intervals


def test_an_idle_worker_is_done_with_each_interval_after_the_grace():
    frames = seeded_trace(1)
    aggregator = Aggregator(usual_plan(), 1)
    worker = Worker(usual_plan(), aggregator)
    worker.process(next(iter(blocks_of(frames, (len(frames),)))))
    last_ns = max(frame.ts_ns for frame in frames)
    end_ns = last_ns - last_ns % 10**10 + 10**10
    worker.advance(end_ns + 10**9 - 1)
    while worker.is_closing:
        worker.advance(end_ns + 10**9 - 1)
    assert aggregator.until(0) < end_ns
    worker.advance(end_ns + 10**9)
    while worker.is_closing:
        worker.advance(end_ns + 10**9)
    assert aggregator.until(0) == end_ns
    assert lines(aggregator) == replay_frames(usual_plan(), frames).lines
    worker.finish()


def test_names_that_another_process_learnt_give_the_same_records():
    frames = seeded_trace(2)
    learnt = []
    teacher, aggregator = None, Aggregator(usual_plan(), 1)
    teacher = Worker(usual_plan(), aggregator)
    teacher.services.tell(learnt.append)
    for block in blocks_of(frames, (1,)):
        teacher.process(block)
    teacher.finish()
    assert learnt

    def teach(worker, ahead):
        while learnt and learnt[0][3] <= ahead[0]:
            worker.learn([learnt.pop(0)])

    _, pupil = walk(frames, 1, teach, reads_dns=False)
    assert lines(pupil) == lines(aggregator)


def test_after_the_clock_was_set_back_intervals_begin_anew_and_no_packet_is_lost():
    frames = seeded_trace(3)
    earlier = [frame._replace(ts_ns=frame.ts_ns - HOUR_NS) for frame in frames]
    aggregator = Aggregator(usual_plan(), 1)
    worker = Worker(usual_plan(), aggregator)
    for block in blocks_of(frames):
        worker.process(block)
    worker.set_back(earlier[0].ts_ns)
    assert worker.flows_active > 0
    assert worker.times.steps_back == ((max(frame.ts_ns for frame in frames), earlier[0].ts_ns),)
    expected = replay_frames(usual_plan(), frames)
    assert lines(aggregator) == expected.lines
    for block in blocks_of(earlier):
        worker.process(block)
    worker.finish()
    # Names are known from the first time, and flows go on; the intervals are the same.
    assert len(lines(aggregator)) > len(expected.lines) // 2
    assert worker.counters["packets"] == 2 * len(frames)
    assert worker.counters["clock_set_back"] == 1
    assert [s["packets"] for s in aggregator.ready_summaries()] == 2 * [s["packets"] for s in expected.intervals]


def test_a_captured_packet_an_hour_from_the_time_of_day_is_a_stray_and_moves_no_clock():
    """A card may stamp a frame with a damaged time. The clock of this machine itself may be set back."""
    wall = [START_NS + SECOND]

    def captured(frames):
        aggregator = Aggregator(usual_plan(), 1)
        worker = Worker(usual_plan(), aggregator, Settings(judges_time=False))
        worker.wall_ns = lambda: wall[0]
        for frame in frames:
            wall[0] = frame.ts_ns if abs(frame.ts_ns - wall[0]) < HOUR_NS else wall[0]
            for block in blocks_of([frame]):
                worker.process(block)
        worker.finish()
        return worker.counters, lines(aggregator)

    frames = sessions()
    strays = [packet(ts_ns, 3, 7) for ts_ns in (Y2097, 0, START_NS + 2 * HOUR_NS, -(1 << 63), (1 << 63) - 1)]
    counters, records = captured([*frames[:60], *strays, *frames[60:]])
    assert counters["bad_time"] == len(strays)
    assert counters["packets"] == len(frames) + len(strays) == accounted(counters)
    assert records == captured(frames)[1]


@pytest.mark.parametrize("is_told", [True, False])
def test_where_the_clock_of_the_machine_is_set_back_no_packet_is_a_stray(is_told):
    worker = Worker(usual_plan(), Aggregator(usual_plan(), 1), Settings(judges_time=False))
    before, after = sessions(), sessions(3, START_NS - 2 * HOUR_NS, 20)
    wall, asked = [START_NS], []
    worker.wall_ns = lambda: wall[0]
    worker.is_set_back = lambda: bool(asked.append(1) or is_told)
    for block in blocks_of(before):
        worker.process(block)
    wall[0] -= 2 * HOUR_NS
    for block in blocks_of(after):
        worker.process(block)
    worker.finish()
    late = 0 if is_told else len(after)
    assert (worker.counters["bad_time"], worker.counters["late_packets"], len(asked)) == (0, late, 1)
    assert worker.counters["clock_set_back"] == is_told
    assert worker.counters["packets"] == len(before) + len(after) == accounted(worker.counters)


def test_of_several_workers_one_counts_that_the_clock_was_set_back():
    workers = [Worker(usual_plan(), Aggregator(usual_plan(), 3), Settings(number=number)) for number in range(3)]
    for worker in workers:
        worker.set_back(0)
    assert [worker.counters["clock_set_back"] for worker in workers] == [1, 0, 0]
    assert [worker.times.steps_back for worker in workers] == [()] * 3, "no packet came before"


NOTHING_COMPILES = """
import sys
from support.replays import blocks_of, config_of
from support.traces import seeded_trace
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.jit import compiled_decorators
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker

def refuse(function, *_, **__):
    sys.exit(f"{function.__module__}.{function.__qualname__} was not ready")

plan = Plan.of(config_of(rest=["198.51.100.0/24"]))
worker = Worker(plan, Aggregator(plan, 1))
worker.warm_up()
compiled_decorators._code = refuse
for block in blocks_of(seeded_trace(3, 150)):
    worker.process(block)
worker.finish()
"""


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_no_packet_waits_for_the_compiler(root):
    """In a process of its own, where nothing was called before."""
    environment = {**os.environ, "PYTHONPATH": str(root / "tests")}
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_COMPILES], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
