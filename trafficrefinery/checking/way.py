"""One way to run a class, in a process of its own, since `TRAFFICREFINERY_JIT` holds for a process.

    python -m trafficrefinery.checking.way '{"file": …, "name": …, "params": …, "out": …}'

writes what came out to a file for `trafficrefinery.checking` to compare: rows and states, or a report of what went
wrong.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.api import FeatureClass
from trafficrefinery.capture.frames import FRAME
from trafficrefinery.checking import loop
from trafficrefinery.checking.traffic import INTERVAL_NS, Frame, traffic
from trafficrefinery.errors import FeatureError
from trafficrefinery.fuse import Profile, load_step, partition_members
from trafficrefinery.jit import COMPILED, MODE, CompilerError, address_of, kernel, records
from trafficrefinery.origins import refusal
from trafficrefinery.registry import load_file, specialise
from trafficrefinery.wire import ATTRIBUTED, PACKET, parse

INTERPRETED_LIMIT_S = 60
_DIRTY = 0xA5
_PASSES = 200
_COLLECTED = 2_000


class Script(NamedTuple):
    """Packets, and what to do with each: see `loop.run`.

    Args:
        flows: of each packet; the slot of its state where the trace is run as a whole.
    """

    buffer: NDArray[np.uint8]
    packets: NDArray[Any]  # of PACKET
    flows: NDArray[np.int64]
    actions: NDArray[np.int64]
    rows: NDArray[np.int64]

    def part(self, selection: Any) -> Script:
        """Some of the packets, by a slice or indices."""
        picked = (self.packets[selection], self.flows[selection], self.actions[selection], self.rows[selection])
        return Script(self.buffer, *picked)


@kernel
def parse_all(buffer: Any, frames: Any, packets: Any, reasons: Any) -> None:  # compiled
    for i in range(len(frames)):
        reasons[i] = parse(buffer, frames[i], 0, 0, packets[i])


@kernel
def add_nothing(packets: Any, slots: Any, actions: Any) -> int:  # compiled
    """The loop of `loop.run` around a class that does nothing."""
    n = 0
    for i in range(len(packets)):
        if actions[i] & 4:
            n += slots[i] + packets[i].direction
    return n


def script() -> Script:
    """The generated traffic as a worker would see it: parsed, with direction and interval."""
    frames = traffic()
    buffer, packets, reasons = _parsed(frames)
    kept = [i for i in range(len(frames)) if reasons[i] == ATTRIBUTED]
    packets = packets[kept]
    flows = np.array([frames[i].flow for i in kept])
    actions = np.full(len(kept), loop.ADD)
    rows = np.zeros(len(kept), np.int64)
    open_start: dict[int, int] = {}
    last_row: dict[int, int] = {}
    for i, frame in enumerate(frames[k] for k in kept):
        packet, flow = packets[i], frame.flow
        start = max(frame.ts_ns // INTERVAL_NS * INTERVAL_NS, open_start.get(flow, 0))
        if flow not in open_start:
            actions[i] |= loop.START
        elif start > open_start[flow]:
            actions[i] |= loop.COLLECT
            rows[i] = last_row[flow]
        if open_start.get(flow) != start:
            open_start[flow], last_row[flow] = start, sum(1 for _ in _row_numbers(last_row, actions, i))
        packet["interval_start_ns"], packet["direction"] = start, frame.direction
        packet["src_port"], packet["dst_port"] = _ports(packet, frame)
    raise NotImplementedError
