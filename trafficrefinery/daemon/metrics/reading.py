"""Where the values of metrics are read: from the board, the plan and the system, at one scrape."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from trafficrefinery import __version__
from trafficrefinery.api import state_dtype
from trafficrefinery.daemon.status import LATENCY_BUCKETS_S, Board, class_names
from trafficrefinery.engine.partition import COUNTERS
from trafficrefinery.engine.plan import Plan
from trafficrefinery.jit import MODE

from .health import not_ready, processes, usage_of


class Running(NamedTuple):
    """What a reload of the configuration replaces, together."""

    board: Board
    plan: Plan


class Snapshot(NamedTuple):
    """What metrics are read from.

    Args:
        interface_drops: interface → what its driver counts, such as `rx_missed_errors`.
        now_ns: CLOCK_MONOTONIC.
    """

    board: Board
    plan: Plan
    interface_drops: Mapping[str, Mapping[str, int]]
    now_ns: int


Sample = tuple[tuple[str, ...], Any]
"""Values of the labels, and a number; for a histogram, upper ends of its buckets, counts of each and one more for the
rest, and the sum."""
Read = Callable[[Snapshot], Iterable[Sample]]


def of_workers(field: str) -> Read:
    return lambda s: [((str(number),), worker[field]) for number, worker in enumerate(s.board.workers)]


@dataclass(frozen=True)
class OfCounters:
    """Counters of the packet loop by worker and reason; under the reason "", by worker alone."""

    counter_of: Mapping[str, str]

    def __call__(self, s: Snapshot) -> Iterator[Sample]:
        indices = {reason: COUNTERS.index(counter) for reason, counter in self.counter_of.items()}
        for number, worker in enumerate(s.board.workers):
            for reason, index in indices.items():
                yield (str(number), *filter(None, (reason,))), worker["counters"][index]


def of_counter(name: str) -> OfCounters:
    return OfCounters({"": name})


def by_reason(counter_of: Mapping[str, str]) -> OfCounters:
    """`counter_of`: reason → counter."""
    return OfCounters(counter_of)


def counted_beside(index: int) -> Read:
    """One of `counters.COUNTED_BESIDE`, by process."""

    def read(s: Snapshot) -> Iterator[Sample]:
        for name, record in processes(s.board):
            if "counted_beside" in (record.dtype.names or ()):
                yield (name,), record["counted_beside"][index]

    return read


def waiting_snapshots(s: Snapshot) -> Iterator[Sample]:
    for number, worker in enumerate(s.board.workers):
        yield (str(number),), worker["sent_bytes"] - worker["taken_bytes"]


def worker_cpu_s(s: Snapshot) -> Iterator[Sample]:
    for number, worker in enumerate(s.board.workers):
        yield (str(number),), worker["cpu_ns"] / 1e9


def interface_drops(s: Snapshot) -> Iterator[Sample]:
    for interface, counts in s.interface_drops.items():
        for reason, count in counts.items():
            yield (interface, reason), count


def of_names(field: str) -> Read:
    return lambda s: [((), s.board.names[field])]


def of_aggregator(field: str) -> Read:
    return lambda s: [((), s.board.aggregator[field])]


def interval_latency(s: Snapshot) -> list[Sample]:
    return [((), (LATENCY_BUCKETS_S, s.board.aggregator["latency"], s.board.aggregator["latency_sum_s"]))]


def with_models(read: Read) -> Read:
    """Only where there is an inference worker."""
    return lambda s: read(s) if s.board.inference["pid"] else ()


def of_inference(field: str) -> Read:
    return with_models(lambda s: [((), s.board.inference[field])])


def of_sessions(field: str) -> Read:
    return with_models(of_aggregator(field))


def inference_histogram(field: str, total: str, ends: Sequence[float]) -> Read:
    return with_models(lambda s: [((), (ends, s.board.inference[field], s.board.inference[total]))])


def inference_drift(s: Snapshot) -> list[Sample]:
    drift = float(s.board.inference["drift"])
    return [] if math.isnan(drift) else [((), drift)]


def inferred_sessions(s: Snapshot) -> Iterator[Sample]:
    for service, told in zip(s.plan.config.services, s.board.inferred, strict=True):
        for (target, label), count in zip(s.board.answers.labels, told["sessions"], strict=True):
            yield (service.name, target, label), count


def of_targets(field: str) -> Read:
    """What was inferred in the last interval, by service and target, as far as it is known."""
    return lambda s: (
        ((service.name, target), value)
        for service, told in zip(s.plan.config.services, s.board.inferred, strict=True)
        for target, value in zip(s.board.answers.targets, told[field].tolist(), strict=True)
        if not math.isnan(value)
    )


def waiting_for_inference(s: Snapshot) -> list[Sample]:
    return [((), s.board.to_inference["sent_bytes"] - s.board.to_inference["taken_bytes"])]


def of_supervisor(field: str) -> Read:
    return lambda s: [((), s.board.supervisor[field])]


def of_services(values: Callable[[Board], Iterable[Any]]) -> Read:
    return lambda s: [
        ((service.name,), value)
        for service, value in zip(s.plan.config.services, values(s.board), strict=True)
    ]  # fmt: skip


def class_cost_s(s: Snapshot) -> Iterator[Sample]:
    for number, worker in enumerate(s.board.workers):
        for name, cost_ns in zip(class_names(s.plan), worker["class_ns"], strict=True):
            if not math.isnan(cost_ns):
                yield (str(number), name), cost_ns / 1e9


def class_errors(s: Snapshot) -> Iterator[Sample]:
    for number, worker in enumerate(s.board.workers):
        for name, count in zip(class_names(s.plan), worker["class_errors"], strict=True):
            yield (str(number), name), count


def class_state_bytes(s: Snapshot) -> Iterator[Sample]:
    largest: dict[str, int] = {}
    for profile in s.plan.profiles:
        for cls in profile.classes:
            largest[cls.__name__] = max(largest.get(cls.__name__, 0), state_dtype(cls).itemsize)
    yield from (((name,), size) for name, size in largest.items())


def of_sinks(field: str) -> Read:
    return lambda s: [
        ((sink,), record[field]) for sink, record in zip(s.board.sinks, s.board.aggregator["sinks"], strict=True)
    ]


def output_space_bytes(blocks: Callable[[os.statvfs_result], int]) -> Read:
    def read(s: Snapshot) -> Iterator[Sample]:
        if s.plan.config.out_folder is not None:
            try:
                space = os.statvfs(s.plan.config.out_folder)
            except OSError:  # not there for now: the sinks tell
                return
            yield (), blocks(space) * space.f_frsize

    return read


def of_processes(value: Callable[[Any, Snapshot], Any]) -> Read:
    """One value for each process; None: not known."""

    def read(s: Snapshot) -> Iterator[Sample]:
        for name, record in processes(s.board):
            found = value(record, s)
            if found is not None:
                yield (name,), found

    return read


def cpu_s(record: Any, _: Snapshot) -> float | None:
    usage = usage_of(int(record["pid"]))
    return None if usage is None else usage.cpu_ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(record: Any, _: Snapshot) -> int | None:
    usage = usage_of(int(record["pid"]))
    return None if usage is None else usage.resident_pages * os.sysconf("SC_PAGE_SIZE")


def ready(s: Snapshot) -> list[Sample]:
    return [((), not not_ready(s.board, s.plan.config.daemon.hang_timeout_ns, s.now_ns))]


def last_reload_ok(s: Snapshot) -> list[Sample]:
    supervisor = s.board.supervisor
    return [((), supervisor["last_reload_ok"] != 0 or supervisor["reload_failures_total"] == 0)]


def last_reload_s(s: Snapshot) -> list[Sample]:
    time_ns = int(s.board.supervisor["last_reload_ns"])
    return [((), time_ns / 1e9)] if time_ns else []


def build(_: Snapshot) -> list[Sample]:
    return [((__version__, platform.python_version(), importlib.metadata.version("numba"), MODE), 1)]
