"""The packet path: read, parse, look up, update, collect; without start-up, and with a receiver that drops the rows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import floor
import workloads
from measure import Figure, Report, Sample, interleaved, other_processes, rates, ratios, timed
from numpy.typing import NDArray

from trafficrefinery.api import FeatureClass, Packet, uint64
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.config import Config, parse_config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import IntervalCounts, Settings, Worker
from trafficrefinery.replaying.single import ReplayOptions, replay_to_directory

COUNTERS = ["PacketCounters"]
THREE = ["PacketCounters", "TCPCounters", "VideoSegments"]
SETS = {"three classes": THREE, "counters": COUNTERS}


class NothingOutput(NamedTuple):
    nothing: int


class Nothing(FeatureClass):
    """Computes nothing: what is left is the flow cache."""

    nothing: uint64

    def add_packet(self, pkt: Packet) -> None:
        pass

    def collect_features(self, interval_s: float) -> NothingOutput:
        return NothingOutput(nothing=self.nothing)


BY_PREFIX = {"Prefixes": [workloads.SERVERS]}
BY_NAME = {"DomainsString": [workloads.DOMAIN]}
BY_BOTH = {**BY_PREFIX, **BY_NAME}
ALL_TRAFFIC = {"Prefixes": ["0.0.0.0/0", "::/0"]}


def config_of(collect: Sequence[str], rule: Mapping[str, list[str]] = BY_PREFIX, max_flows: int = 1_000_000) -> Config:
    """One service that collects some classes."""
    service = {"Name": "Video", "Filter": rule, "Collect": list(collect)}
    return parse_config({"Sensor": "benchmark", "FlowCache": {"MaxFlows": max_flows}, "Services": [service]})


class Receiver:
    """Counts the rows and drops them."""

    def __init__(self) -> None:
        self.rows_seen = 0

    def rows(self, worker: int, profile: int, rows: NDArray[Any], names: Sequence[str]) -> None:
        self.rows_seen += len(rows)

    def summary(self, worker: int, start_ns: int, summary: IntervalCounts) -> None:
        pass

    def done_until(self, worker: int, until_ns: int) -> None:
        pass

    def restart(self, worker: int) -> None:
        pass


def run(plan: Plan, trace: Path, settings: Settings = Settings()) -> tuple[Sample, dict[str, int], int]:  # noqa: B008
    """The packet path of one worker that starts empty; its time, counters and number of rows."""
    receiver = Receiver()
    worker = Worker(plan, receiver, settings)

    def path() -> None:
        with TraceReader([trace]) as reader:
            for block in reader:
                worker.process(block)
        worker.finish()

    return timed(path), worker.counters, receiver.rows_seen


def path_time(plan: Plan, trace: Path) -> Sample:
    return run(plan, trace)[0]


def packets_of(trace: Path, plan: Plan, packets_a_row: float = 0) -> int:
    """The packets of a trace, all of them attributed, and enough of them a row: else a figure would mean nothing."""
    _, counters, rows = run(plan, trace)
    assert counters["attributed"] == counters["packets"], f"{trace}: {counters}"
    assert counters["packets"] >= packets_a_row * rows, f"{trace}: {rows} rows of {counters['packets']} packets"
    return counters["packets"]


def one_worker(report: Report, directory: Path, repetitions: int, divide: int) -> None:
    """Packets a second with 100,000 concurrent flows, by the floor; and the flow cache alone."""
    trace = workloads.trace_of("flows_100k", directory, divide)
    plans = {name: Plan.of(config_of(collect)) for name, collect in SETS.items()}
    plans["no class"] = Plan.of(config_of(["Nothing"]), [Nothing])
    plans["three classes, names too"] = Plan.of(config_of(THREE, BY_BOTH))
    millions = packets_of(trace, plans["counters"], packets_a_row=100) / 1e6
    samples = interleaved(
        {
            "walk": partial(timed, floor.walk, trace),
            "floor": partial(timed, floor.walk_and_parse, trace),
            **{name: partial(path_time, plan, trace) for name, plan in plans.items()},
        },
        repetitions,
    )
    ground = samples["floor"]
    targets = {
        "three classes": (8, 6),
        "counters": (14.88, 3),
        "three classes, names too": (None, None),
        "no class": (None, None),
    }
    for name, (mpps, times) in targets.items():
        report.add(
            rates(f"100k flows, {name}", "Mpps", millions, samples[name], at_least=mpps),
            ratios(f"100k flows, {name}, over the floor", samples[name], ground, at_most=times),
        )
    report.add(
        rates("100k flows, floor: walk and parse", "Mpps", millions, ground),
        rates("100k flows, walk alone", "Mpps", millions, samples["walk"]),
    )
    pairs = list(zip(samples["no class"], ground, strict=True))
    report.add(
        Figure(
            "update of an existing flow, flow cache alone", "ns",
            [(a.wall_s - b.wall_s) / millions * 1e3 for a, b in pairs],
            [(a.cpu_s - b.cpu_s) / millions * 1e3 for a, b in pairs], at_most=50,
        )
    )  # fmt: skip


def other_traces(report: Report, directory: Path, repetitions: int, divide: int) -> None:
    """Few flows, the shortest frames, and real traffic."""
    rules = {"flows_1k": BY_PREFIX, "min_size": BY_PREFIX, "real_mix": ALL_TRAFFIC}
    for name, rule in rules.items():
        if name == "real_mix" and workloads.shared_data() is None:
            print("real_mix: left out, there are no real traces (see TRAFFICREFINERY_DATA)")
            continue
        trace = workloads.trace_of(name, directory, divide)
        plans = {kind: Plan.of(config_of(collect, rule)) for kind, collect in SETS.items()}
        packets = run(plans["counters"], trace)[1]["packets"]
        runs = {kind: partial(path_time, plan, trace) for kind, plan in plans.items()}
        samples = interleaved({"floor": partial(timed, floor.walk_and_parse, trace), **runs}, repetitions)
        for kind in SETS:
            report.add(
                rates(f"{name}, {kind}", "Mpps", packets / 1e6, samples[kind]),
                ratios(f"{name}, {kind}, over the floor", samples[kind], samples["floor"]),
            )


def names(report: Report, directory: Path, repetitions: int, divide: int) -> None:
    """DNS answers and TLS ClientHellos a second, each with nine packets of the flow that it names."""
    plan = Plan.of(config_of(COUNTERS, BY_NAME))
    traces = {name: workloads.trace_of(name, directory, divide) for name in ("dns_heavy", "tls_hellos")}
    rows = {name: run(plan, trace)[2] for name, trace in traces.items()}
    assert set(rows.values()) == {workloads.WORKLOADS["dns_heavy"].flows // divide}, f"not all were named: {rows}"
    samples = interleaved({name: partial(path_time, plan, trace) for name, trace in traces.items()}, repetitions)
    for name, title in (("dns_heavy", "DNS answers"), ("tls_hellos", "TLS ClientHellos")):
        report.add(rates(f"{title} and nine packets each", "k/s", rows[name] / 1e3, samples[name]))


def partition(collect: Sequence[str], trace: Path, number: int, workers: int) -> Sample:
    """One of several workers, in a process of its own."""
    return run(Plan.of(config_of(collect)), trace, Settings(number=number, partitions=workers))[0]


def together(pool: ProcessPoolExecutor, collect: Sequence[str], trace: Path, workers: int) -> Sample:
    """All workers at once; the slowest counts."""
    each = pool.map(partition, [collect] * workers, [trace] * workers, range(workers), [workers] * workers)
    walls, cpus = zip(*each, strict=True)
    return Sample(max(walls), max(cpus))


def two_workers(report: Report, directory: Path, repetitions: int, divide: int) -> None:
    """How much faster two workers are than one."""
    trace = workloads.trace_of("flows_100k", directory, divide)
    small = workloads.trace_of("flows_1k", directory, 50 * divide)
    with other_processes(2) as pool:
        for name, collect in SETS.items():
            for _ in range(2):  # both processes compile, or load what was compiled
                together(pool, collect, small, 2)
            runs = {workers: partial(together, pool, collect, trace, workers) for workers in (1, 2)}
            samples = interleaved(runs, repetitions)
            target = 1.6 if collect == THREE else 1.4
            report.add(ratios(f"two workers over one, {name}", samples[1], samples[2], at_least=target))


def replay_time(collect: Sequence[str], trace: Path, out: Path, workers: int) -> Sample:
    return timed(replay_to_directory, config_of(collect), [trace], out, ReplayOptions(workers=workers))


def whole_replay(report: Report, directory: Path, repetitions: int, divide: int) -> None:
    """Everything that `replay` does, records in a file included, but for the start of the interpreter."""
    trace = workloads.trace_of("flows_100k", directory, divide)
    millions = packets_of(trace, Plan.of(config_of(COUNTERS))) / 1e6
    with tempfile.TemporaryDirectory(dir=directory) as out:
        runs = {
            f"whole replay, {name}, workers: {workers}": partial(replay_time, collect, trace, Path(out), workers)
            for name, collect in SETS.items()
            for workers in (1, 2)
        }
        for name, samples in interleaved(runs, repetitions).items():
            by_wall = [millions / sample.wall_s for sample in samples]  # CPU time is of several threads and processes
            report.add(Figure(name, "Mpps", by_wall))
