"""Packets that are stored behind later ones: what the reader counts of a file, and that files are read in time order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.naive.frames import Frame
from support.pcapng_blocks import pcapng_file
from support.replays import replay_files
from support.trace_clock_cases import START_NS, plan, sessions, starts, usual_starts
from support.traces import SECOND, write_trace
from trafficrefinery.capture.traces.reader import TraceReader

pytestmark = pytest.mark.modes
HOUR = 3600 * SECOND

steps_ns = st.lists(
    st.integers(-3, 3) | st.sampled_from([0, HOUR, -HOUR, HOUR + 1, -HOUR - 1, 5 * HOUR, -5 * HOUR]),
    min_size=1, max_size=60,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps_ns, st.integers(1, 7), st.booleans())
def test_what_is_stored_behind_a_later_packet_is_counted_wherever_blocks_end(tmp_path, steps, frames_per_block, is_ng):
    times = (START_NS + np.cumsum(steps)).tolist()
    frames, trace = [Frame(ts_ns, b"frame", 5) for ts_ns in times], tmp_path / "t"
    trace.write_bytes(pcapng_file(frames)) if is_ng else write_trace(trace, frames)
    with TraceReader([trace], frames_per_block=frames_per_block) as reader:
        read = [int(ts) for block in reader for ts in block.frames["ts_ns"]]
        (found,) = reader.traces.values()
    backward = sum(after < before for before, after in itertools.pairwise(read))
    assert found == (len(times), read[0], backward)


def test_of_each_file_its_own_packets_are_counted(tmp_path):
    frames = sessions(2)
    ordered = write_trace(tmp_path / "a.pcap", frames)
    swapped = write_trace(tmp_path / "b.pcap", [*frames[28:], *frames[:28]])
    with TraceReader([ordered, swapped]) as reader:
        assert sum(len(block.frames) for block in reader) == 2 * len(frames)
        assert [trace.backward for trace in reader.traces.values()] == [0, 1]
        assert [trace.packets for trace in reader.traces.values()] == [len(frames)] * 2


def test_files_that_are_named_in_the_wrong_order_are_read_in_time_order(tmp_path):
    first = write_trace(tmp_path / "a.pcap", sessions(3))
    second = write_trace(tmp_path / "b.pcap", sessions(3, START_NS + 30 * SECOND, 3))
    run = replay_files(plan(), [second, first])
    assert starts(run) == usual_starts()
    assert (run.counters["clock_set_back"], run.counters["out_of_order"], run.counters["late_packets"]) == (0, 0, 0)
    assert run.lines == replay_files(plan(), [first, second]).lines
