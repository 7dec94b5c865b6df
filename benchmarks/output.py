"""What lies around the packet path: rows to JSON lines, and the time until the first packet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import workloads
from measure import Figure, Report, Sample, interleaved, other_processes, rates
from numpy.typing import NDArray
from packet_path import SETS, THREE, Receiver, config_of

from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.records.sinks.files import json_slices

ONE_CORE = {"POLARS_MAX_THREADS": "1"}


class _Kept(Receiver):
    """Keeps the rows as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[int, NDArray[Any], list[str]]] = []

    def rows(self, worker: int, profile: int, rows: NDArray[Any], names: Sequence[str]) -> None:
        super().rows(worker, profile, rows, names)
        self.kept.append((profile, rows, list(names)))


def json_lines(report: Report, directory: Path, repetitions: int, divide: int) -> None:
    """Rows to records, sorted, as JSON lines, some at a time as the sinks take them; on one core."""
    trace = workloads.trace_of("flows_100k", directory, divide)
    with other_processes(1, ONE_CORE) as pool:
        samples, records, written = pool.submit(encode, trace, repetitions).result()
    for kind, collect in SETS.items():
        target = 100 if collect == THREE else 400
        report.add(
            rates(f"records to JSON lines, {kind}", "k/s", records[kind] / 1e3, samples[kind], at_least=target),
            rates(f"the same, written ({written[kind] / records[kind]:,.0f} bytes a record)", "MB/s",
                  written[kind] / 1e6, samples[kind]),
        )  # fmt: skip


def encode(trace: Path, repetitions: int) -> tuple[dict[str, list[Sample]], dict[str, int], dict[str, int]]:
    """Samples, records and bytes; in a process of its own, bound to one core. CPU time is of all its threads."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    plans = {kind: Plan.of(config_of(collect)) for kind, collect in SETS.items()}
    receivers = {kind: _Kept() for kind in SETS}
    for kind, plan in plans.items():
        worker = Worker(plan, receivers[kind])
        with TraceReader([trace]) as reader:
            for block in reader:
                worker.process(block)
        worker.finish()

    written: dict[str, int] = {}

    def once(kind: str) -> Sample:
        kept = [(profile, rows.copy(), names) for profile, rows, names in receivers[kind].kept]
        wall, cpu = time.perf_counter(), time.process_time()
        aggregator = Aggregator(plans[kind], 1)
        for profile, rows, names in kept:
            aggregator.rows(0, profile, rows, names)
        aggregator.done_until(0, 1 << 62)
        records = octets = 0
        for batch in aggregator.ready():
            records += len(batch.flow["flow_id"])
            octets += sum(map(len, json_slices(batch)))
        sample = Sample(time.perf_counter() - wall, time.process_time() - cpu)
        assert records == receivers[kind].rows_seen, f"{records} records of {receivers[kind].rows_seen} rows"
        written[kind] = octets
        return sample

    samples = interleaved({kind: lambda kind=kind: once(kind) for kind in SETS}, repetitions)
    return samples, {kind: receiver.rows_seen for kind, receiver in receivers.items()}, written


def start(report: Report, directory: Path, repetitions: int, divide: int) -> None:  # noqa: ARG001 - the trace is tiny
    """The whole of `replay` on a tiny trace: its first packet comes a little earlier."""
    trace = workloads.trace_of("flows_1k", directory, 1000)
    with tempfile.TemporaryDirectory(dir=directory) as made:
        config = Path(made) / "config.json"
        config.write_text(json.dumps(_config(THREE)))
        command = [
            sys.executable,
            "-m",
            "trafficrefinery",
            "replay",
            str(trace),
            "-c",
            str(config),
            "-o",
            f"{made}/out",
        ]
        environment = {**os.environ, "TRAFFICREFINERY_CACHE_DIR": f"{made}/cache"}

        def once() -> float:
            before = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            return time.perf_counter() - before

        cold = once()
        warm = [once() for _ in range(repetitions + 1)][1:]
    report.add(
        Figure("start to first packet, nothing compiled", "s", [cold], at_most=40),
        Figure("start to first packet, compiled before", "s", warm, at_most=1.5),
    )


def _config(collect: Sequence[str]) -> dict[str, Any]:
    rule = {"Prefixes": [workloads.SERVERS]}
    return {"Services": [{"Name": "Video", "Filter": rule, "Collect": list(collect)}]}
