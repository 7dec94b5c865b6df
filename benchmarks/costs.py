"""Measuring costs costs: what the daemon's samples take, and how long a profile of the sample takes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import workloads
from measure import Figure, Report, timed
from packet_path import SETS, Receiver, config_of

from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.daemon.workers.capturing import _SAMPLE_S
from trafficrefinery.daemon.workers.costs import CostSampler
from trafficrefinery.engine.feature_classes.registry import Registry
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker

_COMPILED_S = 120
_SAMPLE = Path(__file__).parent.parent / "samples" / "video.pcap.zst"


def sampling(report: Report, directory: Path, repetitions: int, divide: int) -> None:
    """What the samples of classes' costs take of a core, in the worker and in the aggregator."""
    trace = workloads.trace_of("flows_1k", directory, divide)
    for kind, collect in SETS.items():
        plan = Plan.of(config_of(collect))
        worker, sampler = Worker(plan, Receiver()), CostSampler(plan)
        with TraceReader([trace]) as reader:
            for block in reader:
                worker.process(block)
        packets = worker.last_packets
        until = time.monotonic() + _COMPILED_S
        while np.isnan(sampler.sample(packets)).any() and time.monotonic() < until:
            time.sleep(0.1)
        samples = [timed(_sample, sampler, worker) for _ in range(repetitions + 1)][1:]
        worker.finish()
        report.add(
            Figure(
                f"sampling the costs of classes in the daemon, of a core, {kind}", "%",
                [100 * sample.wall_s / _SAMPLE_S for sample in samples],
                [100 * sample.cpu_s / _SAMPLE_S for sample in samples], at_most=2,
            )
        )  # fmt: skip


def _sample(sampler: CostSampler, worker: Worker) -> None:
    sampler.sample(worker.last_packets)


def profile(report: Report, directory: Path, repetitions: int, divide: int) -> None:  # noqa: ARG001 - one trace
    """`profile` of the sample with all built-in classes, compiled before."""
    with tempfile.TemporaryDirectory(dir=directory) as made:
        config = Path(made) / "config.json"
        service = {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": Registry([]).names()}
        config.write_text(json.dumps({"Services": [service]}))
        command = [sys.executable, "-m", "trafficrefinery", "profile", str(_SAMPLE), "-c", str(config), "-o", made]
        times, off = [], []
        for turn in range(min(repetitions, 3) + 1):
            before = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if turn:
                times.append(time.perf_counter() - before)
                costs = json.loads((Path(made) / "costs.json").read_text())
                off.append(100 * abs(costs["end_to_end"]["predicted_to_measured"] - 1))
    report.add(
        Figure("profile of the sample, all classes", "s", times, at_most=60),
        Figure("what the parts add up to, off what they take together, all classes", "%", off, at_most=15),
    )
