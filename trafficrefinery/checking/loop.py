"""The loop that a class is checked in: packets that are parsed already, and what to do before and with each."""

from __future__ import annotations

from trafficrefinery.jit import call_at, callback, data_address, kernel
from trafficrefinery.wire import parse

START, COLLECT, ADD = 1, 2, 4
"""What to do, as bits and in this order: begin a state, write its row and clear it, add the packet to it."""


@callback("void(int64, int64, int64, int64)")
def ADD_NOTHING(state, packet, buffer, buffer_bytes):  # noqa: N802 (an address)
    """`add_packet` of a class that does nothing: what a call costs."""


@callback("void(int64, int64, float64)")
def COLLECT_NOTHING(state, row, interval_s):  # noqa: N802
    """Its `collect`."""


@kernel
def parse_all(buffer, frames, packets, reasons):
    for i in range(len(frames)):
        reasons[i] = parse(buffer, frames[i], 0, 0, packets[i])


@kernel
def run(step, buffer, packets, actions, states, rows, interval_s):
    """Do `actions[i]` for each packet.

    Args:
        step: int64[3], the addresses of a `fuse.ProfileStep`.
        states: the address of the state for each packet.
        rows: the address of the row that a COLLECT writes.
    """
    for i in range(len(packets)):
        if actions[i] & START:
            call_at(step[0], (states[i],))
        if actions[i] & COLLECT:
            call_at(step[2], (states[i], rows[i], interval_s))
        if actions[i] & ADD:
            packet = data_address(packets) + i * packets.itemsize
            call_at(step[1], (states[i], packet, data_address(buffer), len(buffer)))
