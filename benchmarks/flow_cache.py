"""The flow cache under pressure: only new flows, a million at once, and the memory that they take and give back."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import floor
import workloads
from measure import Figure, Report, Sample, interleaved, other_processes, rates, timed
from packet_path import BY_BOTH, COUNTERS, SETS, THREE, Receiver, config_of

from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.engine.flow_cache import HEADER, new_index
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker


def populate(worker: Worker, flows: int) -> None:
    """Make the memory for some flows exist beforehand; by itself, a worker does so as far ahead as it was used."""
    for table in (worker._headers, *worker._states):
        table.memory.populate(flows)
    worker._index.populate(len(worker._index.array))


def inserts(report: Report, directory: Path, repetitions: int, divide: int) -> None:
    """Each packet makes a flow, whose service a prefix tells. Collecting them is not part of it."""
    trace = workloads.trace_of("new_flows", directory, divide)
    flows = floor.walk(trace)

    def insert(plan: Plan, populated: bool) -> Sample:
        worker = Worker(plan, Receiver())
        if populated:
            populate(worker, flows)

        def path() -> None:
            with TraceReader([trace]) as reader:
                for block in reader:
                    worker.process(block)

        sample = timed(path)
        counters = worker.counters
        worker.finish()
        assert counters["flows_new"] == counters["attributed"] == flows, counters
        return sample

    plans = {name: Plan.of(config_of(collect, max_flows=flows)) for name, collect in SETS.items()}
    plans["counters, names too"] = Plan.of(config_of(COUNTERS, BY_BOTH, flows))
    runs: dict[str, Callable[[], Sample]] = {
        f"new flows, {name}, {kind} memory": partial(insert, plan, kind == "populated")
        for name, plan in plans.items()
        for kind in ("populated", "cold")
    }
    for name, samples in interleaved(runs, repetitions).items():
        target = {"at_least": 3} if name == "new flows, counters, populated memory" else {}
        report.add(rates(name, "M/s", flows / 1e6, samples, **target))


class _Stopwatch:
    """Wraps functions: how long each call took, in wall and CPU time."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.samples.append(Sample(time.perf_counter() - wall, time.thread_time() - cpu))

        return call

    def total(self) -> Sample:
        return Sample(sum(s.wall_s for s in self.samples), sum(s.cpu_s for s in self.samples))

    def longest(self) -> Sample:
        return Sample(max(s.wall_s for s in self.samples), max(s.cpu_s for s in self.samples))


def closing(report: Report, directory: Path, repetitions: int, divide: int) -> None:
    """Close an interval in which a million flows were active: all of it, one slice of it, one stretch without a block."""
    trace = workloads.trace_of("active_1m", directory, divide)
    flows = workloads.WORKLOADS["active_1m"].flows // divide

    def close(plan: Plan) -> dict[str, Sample]:
        receiver = Receiver()
        worker = Worker(plan, receiver)
        worker.warm_up()
        whole, slices, stretches = _Stopwatch(), _Stopwatch(), _Stopwatch()
        worker.close_a_slice = whole.of(worker.close_a_slice)  # type: ignore[method-assign]
        process = stretches.of(worker.process)
        worker._sweep_slice = slices.of(worker._sweep_slice)
        with TraceReader([trace], frames_per_block=256) as reader:
            for block in reader:
                process(block)
                if receiver.rows_seen == 0:
                    stretches.samples.clear()  # what came before the interval closed
                if receiver.rows_seen >= flows:
                    break
        worker.finish()
        assert receiver.rows_seen >= flows, f"{receiver.rows_seen} rows of {flows} flows"
        return {
            "closing 1M active flows, in all": whole.total(),
            "closing 1M active flows, the sweep's part": slices.total(),
            "closing 1M active flows, longest slice of the sweep": slices.longest(),
            "closing 1M active flows, longest stretch without a new block": stretches.longest(),
        }

    targets = {"closing 1M active flows, in all": 500.0, "closing 1M active flows, the sweep's part": None}
    for kind, collect in SETS.items():
        plan = Plan.of(config_of(collect, max_flows=2 * flows))
        turns = [close(plan) for _ in range(repetitions + 1)][1:]
        for name in turns[0]:
            walls, cpus = ([getattr(turn[name], field) * 1e3 for turn in turns] for field in Sample._fields)
            report.add(Figure(f"{name}, {kind}", "ms", walls, cpus, at_most=targets.get(name, 1.0)))


def memory(report: Report, directory: Path, repetitions: int, divide: int) -> None:  # noqa: ARG001 - bytes do not vary
    """What a flow takes, as declared and as the system sees it; and what is left when a million flows are gone."""
    trace = workloads.trace_of("active_1m", directory, divide)
    flows = workloads.WORKLOADS["active_1m"].flows // divide
    capacity = 1 << (flows - 1).bit_length()
    for kind, collect in SETS.items():
        profile = Plan.of(config_of(collect)).profiles[0]
        tables = [HEADER.itemsize, profile.state_dtype().itemsize]
        declared = sum(tables) + 4 * len(tables) + new_index(capacity).array.nbytes / capacity
        with other_processes(1) as pool:
            few, many, after = pool.submit(resident_bytes, collect, trace, capacity).result()
        target = {"at_most": 1024} if collect == THREE else {}
        each = (many.bytes - few.bytes) / (many.flows - few.flows)
        back = 100 * (many.bytes - after.bytes) / (many.bytes - few.bytes)
        report.add(
            Figure(f"memory of a flow, declared, {kind}", "bytes", [float(declared)], **target),
            Figure(f"memory of a flow, resident, {kind}", "bytes", [each], **target),
            Figure(f"resident memory that comes back when the flows are gone, {kind}", "%", [back], at_least=90),
        )


class Resident(NamedTuple):
    """Anonymous memory of this process when a worker has so many flows."""

    flows: int
    bytes: int


def resident_bytes(collect: list[str], trace: Path, capacity: int) -> tuple[Resident, Resident, Resident]:
    """With a twentieth of the flows, when all tables of fixed size are in use; with all; and with all gone idle."""
    receiver = Receiver()
    worker = Worker(Plan.of(config_of(collect, max_flows=capacity)), receiver)
    worker.warm_up()
    few = many = Resident(0, 0)
    with TraceReader([trace]) as reader:
        for block in reader:
            worker.process(block)
            counters = worker.counters
            if receiver.rows_seen == 0:  # what rows take is of fixed size too
                many = Resident(counters["flows_new"], _anonymous_bytes())
                few = many if counters["packets"] < capacity // 20 else few
    assert worker.counters["flows_evicted_idle"] > 0, "the trace must outlast the idle time"
    after = Resident(0, _anonymous_bytes())
    worker.finish()
    return few, many, after


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon")
