"""The loop that a class is checked in: packets that are parsed already, and what to do before and with each."""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.jit import call_at, callback, data_address, kernel, prefetch_at
from trafficrefinery.packets.parser import parse

TASK = np.dtype([("action", "i8"), ("packet", "i8"), ("state", "i8"), ("row", "i8")])
"""What to do, as bits, with what lies at three addresses."""
WARM, START, COLLECT, ADD = 1, 2, 4, 8
"""Bring packet and state into the caches; begin the state; write its row and clear it; add the packet to it."""


@callback("void(int64, int64, int64, int64, int64)")
def ADD_NOTHING(state: int, packet: int, buffer: int, buffer_bytes: int, errors: int) -> None:  # noqa: N802 (an address)
    """`add_packet` of a class that does nothing: what a call costs."""


@callback("void(int64, int64, float64, int64)")
def COLLECT_NOTHING(state: int, row: int, interval_s: float, errors: int) -> None:  # noqa: N802
    """Its `collect`."""


@callback("void(int64, int64, int64)")
def END_NOTHING(state: int, how: int, errors: int) -> None:  # noqa: N802
    """Its `end_flow`."""


@kernel
def parse_all(buffer: Any, frames: Any, tunnels: Any, packets: Any, reasons: Any) -> None:  # arrays, of records also
    for i in range(len(frames)):
        reasons[i] = parse(buffer, frames[i], tunnels, 0, packets[i])


@kernel
def run(step: Any, buffer: Any, tasks: Any, interval_s: float) -> None:
    """Do what TASK records say.

    Args:
        step: int64[5], the addresses of a `fuse.ProfileStep`.
        buffer: where the packets' bytes are.
    """
    for task in tasks:
        if task.action & WARM:
            for line in range(4):
                prefetch_at(task.packet + line * 64)
                prefetch_at(task.state + line * 64)
        if task.action & START:
            call_at(step[0], (task.state, step[4]))
        if task.action & COLLECT:
            call_at(step[2], (task.state, task.row, interval_s, step[4]))
        if task.action & ADD:
            call_at(step[1], (task.state, task.packet, data_address(buffer), len(buffer), step[4]))
