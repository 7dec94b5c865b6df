"""The loop that a class is checked in: packets that are parsed already, and what to do before and with each."""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.jit import helper, kernel, table_at  # noqa: F401 (used by steps)
from trafficrefinery.nostep import add_packet, collect_row, start_state

START, COLLECT, ADD = 1, 2, 4
"""What to do for a packet, as bits: begin the state of its slot, write its row and clear it, add the packet."""


# --- step modules hold what follows ---------------------------------------------------------------------------------


@helper
def fill_row(row, header):  # type: ignore[no-untyped-def]  # compiled
    row.start_ns = header


@kernel
def run(partition, buffer, packets, slots, actions, rows, interval_s):  # type: ignore[no-untyped-def]
    """Do `actions[i]` in `slots[i]` for each packet; a row that is collected is number `rows[i]`."""
    p = partition[0]
    header = np.int64(0)
    for i in range(len(packets)):
        if actions[i] & 1:
            start_state(p, 0, slots[i])
        if actions[i] & 2:
            collect_row(p, 0, slots[i], rows[i], header, interval_s)
        if actions[i] & 4:
            add_packet(p, 0, slots[i], packets[i], buffer)
