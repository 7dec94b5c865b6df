"""The whole packet path on recorded packets, and what all feature classes share: parsing, lookup, calls, names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import IntervalCounts, Worker
from trafficrefinery.jit import records
from trafficrefinery.packets.parser import ATTRIBUTED, PACKET
from trafficrefinery.packets.tunnels import tunnel_table

from . import check_loop
from .clock import Repeated, cpu_ns

_MOST_FLOWS = 4096
_TURNS = 25


class Dropping:
    """A receiver that counts the rows and drops them."""

    def __init__(self) -> None:
        self.rows_total = 0

    def rows(self, worker: int, profile: int, rows: NDArray[Any], names: Sequence[str]) -> None:  # noqa: ARG002
        """Receiver."""
        self.rows_total += len(rows)

    def summary(self, worker: int, start_ns: int, summary: IntervalCounts) -> None:
        """Receiver."""

    def done_until(self, worker: int, until_ns: int) -> None:
        """Receiver."""

    def restart(self, worker: int) -> None:
        """Receiver."""


class Idle(Worker):
    """A worker whose feature classes do nothing; their states are brought into the caches all the same.

    Attributes:
        names_ns: CPU time of reading names: DNS answers, TLS and QUIC server names.
    """

    names_ns = 0

    def _fill_profiles(self) -> None:
        super()._fill_profiles()
        self._profiles["add_packet"], self._profiles["collect"] = check_loop.ADD_NOTHING, check_loop.COLLECT_NOTHING
        self._profiles["end_flow"] = check_loop.END_NOTHING

    def _learn_dns(self, block: Block) -> None:
        before = cpu_ns()
        super()._learn_dns(block)
        self.names_ns += cpu_ns() - before

    def _read_name(self, block: Block) -> None:
        before = cpu_ns()
        super()._read_name(block)
        self.names_ns += cpu_ns() - before


class SharedCosts(NamedTuple):
    """What all classes share, in ns a packet of the trace; and a flow's first packet, beyond what any packet takes.

    Args:
        total_ns: of the packet path with classes that do nothing.
        lookup_ns: what is left of it: hash, flow cache, service, intervals, rows.
    """

    total_ns: Repeated
    parse_ns: Repeated
    names_ns: Repeated
    call_ns: Repeated
    lookup_ns: float
    first_packet_ns: Repeated


class WholeCosts(NamedTuple):
    """The packet path of one worker, everything together, in ns a packet of the trace."""

    packets: int
    attributed: int
    rows: int
    flows: int
    end_to_end_ns: Repeated
    shared: SharedCosts


def whole(plan: Plan, blocks: Sequence[Block], call_ns: Repeated, repetitions: int) -> WholeCosts:
    """Measure the packet path with the classes of a plan and with classes that do nothing, in turn.

    As in a daemon that has run for a while: its memory is there, and the names in the trace were seen before.

    Args:
        blocks: frames in memory: reading them from where they come is not part of it.
        call_ns: of a packet of a service.
    """
    packets = sum(len(block.frames) for block in blocks)
    receiver = Dropping()
    worker, lazy = Worker(plan, receiver), Idle(plan, Dropping())
    turns = []
    for _ in range(repetitions + 1):
        before, rows_before, names_before_ns = worker.counters, receiver.rows_total, lazy.names_ns
        busy_ns, idle_ns = _path_ns(worker, blocks), _path_ns(lazy, blocks)
        turns.append((busy_ns, idle_ns, [lazy.names_ns - names_before_ns], parse_ns(blocks)))
    measured = (np.array(parts, np.float64) for parts in zip(*turns[1:], strict=True))
    busy, total, names, parse = (Repeated.of_parts(parts, packets) for parts in measured)
    attributed, flows = (worker.counters[name] - before[name] for name in ("attributed", "flows_new"))
    share = attributed / packets
    called = Repeated(call_ns.value * share, tuple(value * share for value in call_ns.values))
    lookup_ns = max(total.value - parse.value - names.value - called.value, 0.0)
    shared = SharedCosts(total, parse, names, called, lookup_ns, first_packet_ns(plan, blocks))
    for each in (worker, lazy):
        each.finish()
    return WholeCosts(packets, attributed, receiver.rows_total - rows_before, flows, busy, shared)


def _path_ns(worker: Worker, blocks: Sequence[Block]) -> list[int]:
    """The CPU time of each block, and of ending all flows. The next call begins anew, with the memory that is there."""
    times = [cpu_ns()]
    for block in blocks:
        worker.process(block)
        times.append(cpu_ns())
    worker.start_over()
    times.append(cpu_ns())
    return [after - before for before, after in pairwise(times)]


def parse_ns(blocks: Sequence[Block]) -> list[int]:
    """The CPU time of parsing the frames of each block."""
    most = max(len(block.frames) for block in blocks)
    packets, reasons, tunnels = records(np.zeros(most, PACKET)), np.zeros(most, np.int64), tunnel_table(())
    times = [cpu_ns()]
    for block in blocks:
        check_loop.parse_all(block.buffer, block.frames, tunnels, packets, reasons)
        times.append(cpu_ns())
    return [after - before for before, after in pairwise(times)]


def first_packet_ns(plan: Plan, blocks: Sequence[Block]) -> Repeated:
    """What the first packet of a flow takes beyond the next one: new header, service, state."""
    worker = Idle(plan, Dropping())
    for block in blocks:
        worker.process(block)  # learns the names
    first = _first_frames(blocks)
    found = []
    for _ in range(_TURNS):
        worker.start_over()
        before = cpu_ns()
        worker.process(first)
        between = cpu_ns()
        worker.process(first)
        found.append((2 * between - before - cpu_ns()) / len(first.frames))
    worker.finish()
    return Repeated.of(found)


def _first_frames(blocks: Sequence[Block]) -> Block:
    """The first frame of each 5-tuple, all at the time of the last packet."""
    layout = np.dtype([(name, PACKET[name]) for name in ("a_hi", "a_lo", "b_hi", "b_lo", "a_port", "b_port",
                                                         "protocol")])  # fmt: skip
    seen: dict[bytes, tuple[Any, bytes]] = {}
    for block in blocks:
        packets, reasons = records(np.zeros(len(block.frames), PACKET)), np.zeros(len(block.frames), np.int64)
        check_loop.parse_all(block.buffer, block.frames, tunnel_table(()), packets, reasons)
        keys = np.zeros(len(packets), layout)
        for name in layout.names or ():
            keys[name] = packets[name]
        for number, key in enumerate(keys.view(f"V{layout.itemsize}").tolist()):
            if reasons[number] == ATTRIBUTED and key not in seen and len(seen) < _MOST_FLOWS:
                frame = np.asarray(block.frames)[number]
                start = int(frame["offset"])
                seen[key] = frame, block.buffer[start : start + int(frame["captured_bytes"])].tobytes()
    frames = records(np.zeros(len(seen), FRAME))
    for number, (frame, _) in enumerate(seen.values()):
        frames[number] = frame
    lengths = np.array([len(data) for _, data in seen.values()], np.int64)
    frames["offset"] = np.cumsum(lengths) - lengths
    frames["ts_ns"] = max((int(block.frames["ts_ns"].max()) for block in blocks), default=0)
    return Block(np.frombuffer(bytearray(b"".join(data for _, data in seen.values())), np.uint8), frames)
