"""One walk through whole traces: what flows keep at the end of each interval, and what is written of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.frames import Block
from trafficrefinery.capture.sources import open_traces
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.config import Config
from trafficrefinery.costs.measure import check_loop
from trafficrefinery.engine.flow_cache import CLIENT_IS_A, USED
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker
from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.jit import records
from trafficrefinery.packets.parser import ATTRIBUTED, PACKET
from trafficrefinery.packets.tunnels import tunnel_table
from trafficrefinery.records.aggregate import Aggregator, Batch, ServiceTotals
from trafficrefinery.records.summary import Reading
from trafficrefinery.replaying.job import REPLAYING
from trafficrefinery.system.progress import Progress

_GLOBAL_HEADER_BYTES, _RECORD_HEADER_BYTES = 24, 16  # of pcap
_UNKNOWN_HEADER_BYTES = 64  # kept of a frame whose headers are not understood


@dataclass
class Traffic:
    """What a trace holds, and what it takes as a file.

    Args:
        pcap_bytes: as a pcap file of whole frames, also where the trace has them cut.
        captured_bytes: as a pcap file of what the trace has.
        headers_bytes: as a pcap file of headers, up to the end of TCP's or UDP's.
    """

    packets: int = 0
    wire_bytes: int = 0
    first_ns: int = 1 << 62
    last_ns: int = -(1 << 62)
    pcap_bytes: int = _GLOBAL_HEADER_BYTES
    captured_bytes: int = _GLOBAL_HEADER_BYTES
    headers_bytes: int = _GLOBAL_HEADER_BYTES

    @property
    def seconds(self) -> float:
        """From the first packet to the last."""
        return max(self.last_ns - self.first_ns, 0) / 1e9

    def add(self, block: Block) -> None:
        """Count the frames of a block."""
        frames = np.asarray(block.frames)
        packets, reasons = records(np.zeros(len(frames), PACKET)), np.zeros(len(frames), np.int64)
        check_loop.parse_all(block.buffer, block.frames, tunnel_table(()), packets, reasons)
        captured = frames["captured_bytes"].astype(np.int64)
        headers = np.where(reasons == ATTRIBUTED, packets["payload_offset"] - frames["offset"], _UNKNOWN_HEADER_BYTES)
        self.packets += len(frames)
        self.wire_bytes += int(frames["wire_bytes"].sum(dtype=np.int64))
        self.first_ns = min(self.first_ns, int(frames["ts_ns"].min()))
        self.last_ns = max(self.last_ns, int(frames["ts_ns"].max()))
        records_bytes = len(frames) * _RECORD_HEADER_BYTES
        self.pcap_bytes += records_bytes + int(frames["wire_bytes"].sum(dtype=np.int64))
        self.captured_bytes += records_bytes + int(captured.sum())
        self.headers_bytes += records_bytes + int(np.minimum(headers, captured).sum())


@dataclass
class Occupancy:
    """Flows in the flow cache at the ends of intervals.

    Args:
        starts_ns: of the intervals.
        flows: of each service, with a state, at the end of each interval.
        of_sessions: of each service, flows of a session (a client) → how many session-intervals have as many.
        all_flows: with and without a service, at the end of each interval.
        peak_flows, peak_bytes, peak_resident_bytes: flows with a state where their states take most, and then.
    """

    starts_ns: list[int] = field(default_factory=list)
    flows: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    of_sessions: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    all_flows: list[int] = field(default_factory=list)
    peak_flows: int = 0
    peak_bytes: int = 0
    peak_resident_bytes: int = 0


class _Watched(Worker):
    """A worker that looks at its flow cache at the end of each interval, before anything is collected."""

    def __init__(self, plan: Plan, receiver: Aggregator) -> None:
        self.seen = Occupancy()
        super().__init__(plan, receiver)

    def _turn_interval(self) -> None:
        self._look()
        super()._turn_interval()

    def finish(self) -> None:
        self._look()
        super().finish()

    def _look(self) -> None:
        if self._interval_start is None:
            return
        headers = np.asarray(self._headers.memory.array)[: int(self._p["slots"]["peak"])]
        headers = headers[(headers["marks"] & USED != 0) & (headers["service"] >= 0)]
        seen, size = self.seen, self.flow_bytes
        seen.starts_ns.append(self._interval_start)
        seen.all_flows.append(self.flows_active)
        for service in range(len(self._plan.config.services)):
            mine = headers[headers["service"] == service]
            seen.flows[service].append(len(mine))
            for count in _flows_of_clients(mine).tolist():
                seen.of_sessions[service][count] += 1
        if size > seen.peak_bytes:
            seen.peak_bytes, seen.peak_flows, seen.peak_resident_bytes = size, len(headers), self.resident_bytes


def _flows_of_clients(headers: NDArray[Any]) -> NDArray[np.int64]:
    client_is_a = headers["marks"] & CLIENT_IS_A != 0
    ends = np.zeros(len(headers), [("hi", "u8"), ("lo", "u8")])
    for part in ("hi", "lo"):
        ends[part] = np.where(client_is_a, headers[f"a_{part}"], headers[f"b_{part}"])
    return np.unique(ends, return_counts=True)[1]


@dataclass
class TraceWalk:
    """A walk through traces; `batches` makes it."""

    plan: Plan
    traces: Sequence[str | Path]
    progress: Progress
    traffic: Traffic = field(default_factory=Traffic)
    occupancy: Occupancy = field(default_factory=Occupancy)
    counters: dict[str, int] = field(default_factory=dict)
    damage: list[TrafficRefineryError] = field(default_factory=list)
    reading: Reading = field(default_factory=Reading)
    totals: dict[str, ServiceTotals] = field(default_factory=dict)

    def batches(self) -> Iterator[Batch]:
        """The records, as intervals end."""
        aggregator = Aggregator(self.plan, 1)
        worker = _Watched(self.plan, aggregator)
        worker.warm_up()
        with open_traces(self.plan.config, [str(path) for path in self.traces]) as reader:
            for block in reader:
                self.traffic.add(block)
                worker.process(block)
                self.progress(REPLAYING, reader.position_bytes, reader.total_bytes, self.traffic.packets)
                yield from aggregator.ready()
            worker.finish()
            self.damage, self.reading = [*reader.damage], Reading.of(reader, worker.times)
        self.counters, self.occupancy, self.totals = worker.counters, worker.seen, aggregator.totals
        self.damage += self.plan.raised(worker.class_errors)
        yield from aggregator.ready()


def blocks_of(
    traces: Sequence[str | Path], most_packets: int, most_bytes: int, config: Config | None = None
) -> list[Block]:
    """The first frames of traces, in memory of their own."""
    blocks: list[Block] = []
    packets = size = 0
    names = [str(path) for path in traces]
    with TraceReader(names) if config is None else open_traces(config, names) as reader:
        for block in reader:
            frames = records(np.asarray(block.frames)[: most_packets - packets].copy())
            low = int(frames["offset"].min())
            high = int((frames["offset"] + frames["captured_bytes"]).max())
            frames["offset"] -= low
            blocks.append(Block(block.buffer[low:high].copy(), frames))
            packets, size = packets + len(frames), size + high - low
            if packets >= most_packets or size >= most_bytes:
                break
    return blocks
