"""Runs of the packet path in tests: frames in memory through workers, to records as lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from support.naive.frames import Frame
from support.traces import DECAPSULATE
from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.config import parse_config
from trafficrefinery.engine import worker as worker_module
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.jit import records
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.records.sinks.files import encode_json_lines

worker_module.fuse = cache(worker_module.fuse)  # the tests make thousands of workers of the same few classes
PACKET_LOG = Path(__file__).parent / "naive" / "packet_log.py"
DETAILED, COUNTED = ["PacketCounters", "PacketLog"], ["PacketCounters"]

# Two profiles in every configuration: each further one is compiled for seconds.
SERVICES: tuple[dict[str, Any], ...] = (
    {"Name": "Video", "Filter": {"DomainsString": ["video.example"]}, "Collect": DETAILED},
    {
        "Name": "Stream",
        "Filter": {"DomainsString": ["streamy"], "DomainsRegex": ["^R[0-9]+---"]},
        "Collect": COUNTED,
        "Interval": "5s",
    },
    {
        "Name": "Net",
        "Filter": {"Prefixes": ["192.0.2.4/30", "192.0.2.5/32", "2001:db8:2::2/127", "10.0.0.4/30"]},
        "Collect": DETAILED,
    },
    {"Name": "Rest", "Filter": {"Prefixes": ["198.51.100.0/24"]}, "Collect": COUNTED, "Interval": "5s"},
)
DEFAULTS = Settings()
ALL_TRAFFIC = ("0.0.0.0/0", "::/0")
BASE: dict[str, Any] = {
    "Interval": "10s",
    "Sensor": "test",
    "FlowCache": {"MaxFlows": 4_096, "IdleTimeout": "30s"},
    "ServiceMap": {"MinTTL": "20s"},
    "Decapsulate": list(DECAPSULATE),
    "FeaturePaths": [str(PACKET_LOG)],
}


def config_of(*, rest: Sequence[str] = (), **changes: Any) -> Any:
    """The configuration of the tests; `rest` are prefixes of the last service in place of its own."""
    services = [dict(service) for service in SERVICES]
    if rest:
        services[3]["Filter"] = {"Prefixes": list(rest)}
    return parse_config({**BASE, "Services": services, **changes})


@cache
def usual_plan() -> Plan:
    return Plan.of(config_of(rest=ALL_TRAFFIC))


class Run(NamedTuple):
    lines: list[str]
    counters: dict[str, int]  # summed over workers
    intervals: list[dict[str, Any]]
    workers: list[Worker]
    aggregator: Aggregator

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


def blocks_of(frames: Sequence[Frame], sizes: Sequence[int] = (1024,)) -> Iterator[Block]:
    """Frames in blocks of the given sizes, in turns. The buffer ends where the last frame does."""
    at = turn = 0
    while at < len(frames):
        part = frames[at : at + sizes[turn % len(sizes)]]
        at, turn = at + len(part), turn + 1
        table = records(np.zeros(len(part), FRAME))
        offset = 0
        for row, frame in zip(table, part, strict=True):
            row["ts_ns"], row["offset"], row["captured_bytes"] = frame.ts_ns, offset, len(frame.data)
            row["wire_bytes"], row["link_type"] = frame.wire_bytes, frame.link_type
            offset += len(frame.data)
        yield Block(np.frombuffer(bytearray(b"".join(frame.data for frame in part)), np.uint8), table)


def replay_frames(
    plan: Plan,
    frames: Sequence[Frame],
    *,
    sizes: Sequence[int] = (1024,),
    partitions: int = 1,
    settings: Settings = DEFAULTS,
    prepare: Callable[[Worker], None] | None = None,
    between: Callable[[Worker], None] | None = None,
) -> Run:
    """Run the worker of each partition over all frames; `prepare` and `between` blocks may disturb it."""
    aggregator = Aggregator(plan, partitions)
    workers = []
    for number in range(partitions):
        worker = Worker(plan, aggregator, settings._replace(number=number, partitions=partitions))
        if prepare is not None:
            prepare(worker)
        for block in blocks_of(frames, sizes):
            worker.process(block)
            if between is not None:
                between(worker)
        worker.finish()
        workers.append(worker)
    return _run(aggregator, workers)


def replay_files(plan: Plan, paths: Sequence[Path], settings: Settings = DEFAULTS, frames_per_block: int = 1024) -> Run:
    """Run a worker over trace files."""
    aggregator = Aggregator(plan, 1)
    worker = Worker(plan, aggregator, settings)
    with TraceReader(paths, frames_per_block=frames_per_block) as reader:
        for block in reader:
            worker.process(block)
        worker.finish()
    return _run(aggregator, [worker])


def _run(aggregator: Aggregator, workers: list[Worker]) -> Run:
    lines = b"".join(encode_json_lines(batch) for batch in aggregator.ready()).decode().splitlines()
    counters: dict[str, int] = {}
    for worker in workers:
        for name, value in worker.counters.items():
            counters[name] = counters.get(name, 0) + value
    return Run(lines, counters, list(aggregator.ready_summaries()), workers, aggregator)


def in_order(value: Any) -> Any:
    """JSON with its objects as lists of pairs, so that the order of keys counts."""
    if isinstance(value, Mapping):
        return [(key, in_order(item)) for key, item in value.items()]
    return [in_order(item) for item in value] if isinstance(value, list) else value
