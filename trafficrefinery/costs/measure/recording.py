"""Packets of traces as the packet loop hands them to the feature classes, parsed once and kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.api import RAW_LIMIT
from trafficrefinery.capture.frames import Block
from trafficrefinery.capture.sources import open_traces
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import IntervalCounts, Settings, Worker
from trafficrefinery.jit import address_of, records
from trafficrefinery.jit.memory import table
from trafficrefinery.packets.parser import PACKET, ROW_HEADER

from . import check_loop, log

MOST_PACKETS = 1_000_000
"""That are kept by default: some 300 MB."""
_KEY = ("a_hi", "a_lo", "b_hi", "b_lo", "a_port", "b_port", "protocol")


@dataclass(frozen=True)
class Packets:
    """What feature classes were given, in order.

    Args:
        packets: PACKET; their bytes are in `raw`.
        flows: int64, number of each packet's flow.
        headers: ROW_HEADER of each flow: who it is, its service, direction and name.
        names: that `name_id` in `headers` counts in.
        services: names of the services that `service` in `headers` counts in.
        grace_ns: how late a packet may be to count in its own interval.
        left_out: packets for which there was no room.
    """

    packets: NDArray[Any]
    raw: NDArray[np.uint8]
    flows: NDArray[np.int64]
    headers: NDArray[Any]
    names: tuple[str, ...]
    services: tuple[str, ...]
    grace_ns: int
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.flows)


class _Headers:
    """Receiver that keeps who the flows are."""

    def __init__(self) -> None:
        self.parts: dict[int, list[NDArray[Any]]] = {}
        self.names: Sequence[str] = ()

    def rows(self, worker: int, profile: int, rows: NDArray[Any], names: Sequence[str]) -> None:  # noqa: ARG002
        self.parts.setdefault(profile, []).append(rows["flow"].copy())
        self.names = names

    def summary(self, worker: int, start_ns: int, summary: IntervalCounts) -> None:
        pass

    def done_until(self, worker: int, until_ns: int) -> None:
        pass

    def restart(self, worker: int) -> None:
        pass


class _Recorder(Worker):
    """A worker that logs what it would give to the feature classes."""

    def __init__(self, plan: Plan, receiver: _Headers, most_packets: int) -> None:
        self.packets = table(most_packets, PACKET)
        self.marks = table(most_packets, np.uint16)
        self.raw = table(most_packets * RAW_LIMIT, np.uint8)
        self.log = table(1, log.LOG)
        for name, array in (("packets", self.packets), ("marks", self.marks), ("raw", self.raw)):
            self.log[name] = address_of(array)
        self.log["capacity"], self.log["raw_capacity"] = most_packets, len(self.raw)
        super().__init__(plan, receiver, Settings())

    def _new_partition(self) -> Any:  # a record
        partition = super()._new_partition()
        partition[0]["control"]["pool_raw_bytes"] = RAW_LIMIT  # for whatever class is measured later
        return partition

    def _fill_profiles(self) -> None:
        super()._fill_profiles()
        self._profiles["start"], self._profiles["add_packet"] = log.BEGIN, log.APPEND
        self._profiles["collect"], self._profiles["end_flow"] = check_loop.COLLECT_NOTHING, check_loop.END_NOTHING
        self._own = table(len(self._profiles), log.STATE)
        self._own["log"], self._own["profile"] = address_of(self.log), np.arange(len(self._own))
        self._profiles["state"] = address_of(self._own) + np.arange(len(self._own)) * log.STATE.itemsize
        self._profiles["state_bytes"] = 0
        self._profiles["ahead_count"] = 0

    @property
    def is_full(self) -> bool:
        return bool(self.log["left_out"][0])


def record(plan: Plan, traces: Sequence[str | Path] | Sequence[Block], most_packets: int = MOST_PACKETS) -> Packets:
    """Walk through traces (several are merged by time) and keep the packets of the plan's services.

    Which feature classes the plan has does not matter; its services do. When there is no room for more packets, the
    rest of the traces is not read.

    Raises:
        TraceError: a trace cannot be read, or is damaged.
    """
    receiver = _Headers()
    worker = _Recorder(plan, receiver, most_packets)
    if traces and isinstance(traces[0], Block):
        _walk(worker, traces)
    else:
        with open_traces(plan.config, [str(path) for path in traces]) as reader:
            _walk(worker, reader)
            for damage in reader.damage:
                raise damage
    worker.finish()
    return _packets(worker, receiver, plan)


def _walk(worker: _Recorder, blocks: Any) -> None:  # a reader, or blocks
    for block in blocks:
        worker.process(block)
        if worker.is_full:
            break


def _packets(worker: _Recorder, receiver: _Headers, plan: Plan) -> Packets:
    used = int(worker.log["used"][0])
    packets, marks = worker.packets[:used], worker.marks[:used]
    flows = np.empty(used, np.int64)
    firsts = np.empty(max(used, 1), np.int64)
    slots = np.full(int(packets["slot"].max()) + 1 if used else 1, -1, np.int64)
    count = log.number_flows(packets, marks, slots, firsts, flows)
    headers = _headers_of(packets[firsts[:count]], np.asarray(marks)[firsts[:count]].astype(np.int64) - 1, receiver)
    kept = flows >= 0
    if not kept.all():
        packets, flows = records(np.asarray(packets)[kept]), flows[kept]
    return Packets(
        packets, worker.raw[: max(int(worker.log["raw_used"][0]), 1)], flows, headers, tuple(receiver.names),
        tuple(service.name for service in plan.config.services), plan.config.grace_ns, int(worker.log["left_out"][0]),
    )  # fmt: skip


def _headers_of(firsts: NDArray[Any], profiles: NDArray[np.int64], receiver: _Headers) -> NDArray[Any]:
    """The row of each flow's first interval, by its profile, the flow's key and the start of the interval.

    Of the rows that have all of it in common, as when the ports are used again, the last one is the last flow's.
    """
    headers = np.zeros(len(firsts), ROW_HEADER)
    for profile in np.unique(profiles):
        mine = np.flatnonzero(profiles == profile)
        rows = np.concatenate(receiver.parts[int(profile)])
        of_key = defaultdict[bytes, list[int]](list)
        for number, key in enumerate(_keys(rows, "start_ns")):
            of_key[key].append(number)
        for flow, key in zip(mine[::-1].tolist(), _keys(firsts[mine], "interval_start_ns")[::-1], strict=True):
            found = of_key[key]
            headers[flow] = rows[found.pop() if len(found) > 1 else found[0]]
    return headers


def _keys(table: NDArray[Any], start: str) -> list[bytes]:
    layout = np.dtype([(name, PACKET[name]) for name in _KEY] + [("start_ns", "i8")])
    keys = np.zeros(len(table), layout)
    for name in _KEY:
        keys[name] = table[name]
    keys["start_ns"] = table[start]
    whole: list[bytes] = keys.view(f"V{layout.itemsize}").tolist()
    return whole


def join(parts: Sequence[Packets]) -> Packets:
    """Packets of several recordings of the same services, one after the other; no flow is in two of them."""
    packets = records(np.concatenate([np.asarray(part.packets) for part in parts]))
    headers = [part.headers.copy() for part in parts]
    flows: list[NDArray[np.int64]] = []
    names: list[str] = []
    at = raw_bytes = flow_count = 0
    for part, own in zip(parts, headers, strict=True):
        for offset in ("raw_offset", "payload_offset"):
            packets[offset][at : at + len(part)] += raw_bytes
        own["name_id"] += np.where(own["name_id"] >= 0, len(names), 0).astype(own["name_id"].dtype)
        flows.append(part.flows + flow_count)
        names += part.names
        at, raw_bytes, flow_count = at + len(part), raw_bytes + len(part.raw), flow_count + len(own)
    return Packets(
        packets, np.concatenate([part.raw for part in parts]), np.concatenate(flows), np.concatenate(headers),
        tuple(names), parts[0].services, parts[0].grace_ns, sum(part.left_out for part in parts),
    )  # fmt: skip
