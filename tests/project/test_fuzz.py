"""The fuzzer of the packet path, with two million frames of a seed: `make fuzz` goes on from there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.fuzz import containers, frames, laws, run
from support.traces import SECOND, START_NS
from trafficrefinery.capture.frames import Block
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.jit import COMPILED
from trafficrefinery.jit.cache import MODE

DRIVER = Path(run.__file__)
COUNT = {"on": 1_700_000, "boundscheck": 300_000, "off": 1_500}[MODE]


def fuzz(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DRIVER), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=1_700)


@pytest.mark.modes
@pytest.mark.timeout(1_800)
def test_no_frame_breaks_a_law_or_the_process(tmp_path):
    done = fuzz("--frames", COUNT, "--mode", MODE, "--seed", 1, "--keep", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"'\w+': (\d+)", done.stdout)
    assert int(counts[-1]) >= COUNT


@pytest.mark.modes
def test_the_same_seed_gives_the_same_frames():
    first, second = (frames.mixed(np.random.default_rng(5), 2_000) for _ in range(2))
    assert first.buffer.tobytes() == second.buffer.tobytes()
    assert first.table.tobytes() == second.table.tobytes()
    assert containers.some_file(np.random.default_rng(5)) == containers.some_file(np.random.default_rng(5))


@pytest.mark.modes
def test_mutated_frames_are_of_all_kinds():
    """Else it would be a fuzzer of the first check in the parser."""
    made = frames.mixed(np.random.default_rng(2), 20_000 if COMPILED else 1_000)
    counters = laws.run(laws.plan_of(laws.PLENTY, "refuse"), made, 1, lambda _: 4096).counters
    assert counters["attributed"] > len(made.table) / 3
    for reason in ("not_ip", "not_tcp_or_udp", "malformed", "truncated", "unsupported_link_type",
                   "fragment_without_first", "no_service"):  # fmt: skip
        assert counters[reason] > 0, reason


@pytest.mark.skipif(not COMPILED, reason="takes too long in plain Python")
def test_a_flood_that_goes_idle_leaves_no_header_and_loses_no_packet():
    """With the default capacity, which is not whole chunks: long flows stay while a million others come and go."""
    rng = np.random.default_rng(3)
    server = "100.64.0.9"  # of a service with a small state
    flood = frames.flood(rng, 1_000_000, START_NS, 10_000, server)
    long = frames.long_flows(100, 60, START_NS, 10 * SECOND, server)
    made = frames.by_time(frames.joined([flood, long]))
    plan = laws.plan_of(1_000_000, "evict-oldest")
    outcome = laws.run(plan, made, 1, lambda _: 8192)
    laws.account(made, outcome)
    assert outcome.counters["attributed"] == len(made.table)
    assert outcome.counters["flows_new"] >= 1_000_100


class Broken(laws._Rows):
    """Loses a row."""

    def rows(self, worker, profile, rows, names):
        super().rows(worker, profile, rows[1:], names)


def test_a_row_that_is_lost_breaks_a_law(monkeypatch):
    made = frames.mixed(np.random.default_rng(1), 500)
    monkeypatch.setattr(laws, "_Rows", Broken)
    with pytest.raises(laws.BrokenLawError, match="are attributed"):
        laws.obey("mixed", made, 1)


def test_a_flow_that_is_left_breaks_a_law():
    worker = Worker(laws.plan_of(977, "refuse"), laws._Rows(), Settings())
    worker.process(Block(*frames.mixed(np.random.default_rng(1), 50).block(0, 50)))
    with pytest.raises(laws.BrokenLawError, match="flows are left"):
        laws.check(worker)
    worker._populator.close()


def test_what_fails_is_made_small_and_can_be_repeated(tmp_path, monkeypatch):
    """A law that does not hold of UDP port 3478: one frame is enough to show it."""
    one = run.Round("mixed", 7, 400)
    made = frames.mixed(np.random.default_rng(one.seed), one.frames)
    path = tmp_path / "frames.npz"
    run.write(path, made)
    kept = run.read(path)
    assert kept.table.tobytes() == made.table.tobytes()
    assert kept.buffer.tobytes() == made.buffer.tobytes()
    monkeypatch.setattr(run, "fails", lambda mode, path, one: bool((run.read(path).table["captured_bytes"] == 0).any()))
    run.shrink("on", path, one)
    assert len(run.read(path).table) < 10


def test_a_crash_is_a_failure_with_the_round_that_made_it(monkeypatch):
    monkeypatch.setattr(run, "start", lambda *_: subprocess.Popen(
        [sys.executable, "-c", "import os; print('begin mixed 5 100', flush=True); os.kill(os.getpid(), 11)"],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    ))  # fmt: skip
    frames_done, failure, _ = run.run_child("on", (), 1e18, 1)
    assert frames_done == 0
    assert failure == run.Failure(run.Round("mixed", 5, 100), "killed by SIGSEGV")
