"""The log of what feature classes are given: functions that the packet loop calls in place of theirs."""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.jit import callback, helper, kernel, table_at
from trafficrefinery.packets.parser import PACKET
from trafficrefinery.packets.tls_records import note_record

from .check_loop import COLLECT, START

LOG = np.dtype(
    [
        ("packets", "i8"),  # address of PACKET[capacity]
        ("marks", "i8"),  # address of u2[capacity]: what `begins` was
        ("capacity", "i8"),
        ("raw", "i8"),  # address of u1[raw_capacity]: the first bytes of each packet, one after the other
        ("raw_capacity", "i8"),
        ("used", "i8"),
        ("raw_used", "i8"),
        ("left_out", "i8"),  # packets that found no room
        ("begins", "i8"),  # 1 + the number of the profile whose state begins with the next packet; else 0
    ]
)
STATE = np.dtype([("log", "i8"), ("profile", "i8")])
"""What all states of a profile are: the address of its LOG, and its number."""
_U1, _U2 = np.dtype("u1"), np.dtype("u2")


@callback("void(int64, int64)")
def BEGIN(state: int, errors: int) -> None:  # noqa: ARG001, N802 (an address)
    """`start` of a profile whose states all lie at one address: that of a STATE."""
    own = table_at(state, 1, STATE)[0]
    table_at(own.log, 1, LOG)[0].begins = own.profile + 1


@callback("void(int64, int64, int64, int64, int64)")
def APPEND(state: int, packet: int, buffer: int, buffer_bytes: int, errors: int) -> None:  # noqa: ARG001, N802
    """Its `add_packet`: copy the packet, and those of its bytes that a class may read."""
    log = table_at(table_at(state, 1, STATE)[0].log, 1, LOG)[0]
    r = table_at(packet, 1, PACKET)[0]
    raw_bytes = np.int64(r.raw_bytes)
    if log.used >= log.capacity or log.raw_used + raw_bytes > log.raw_capacity:
        log.left_out += 1
        return
    kept = table_at(log.packets, log.capacity, PACKET)[log.used]
    table_at(log.packets, log.capacity, PACKET)[log.used] = r
    table_at(log.marks, log.capacity, _U2)[log.used] = log.begins
    log.begins = 0
    source = table_at(buffer, buffer_bytes, _U1)
    note_record(kept, source)
    raw = table_at(log.raw, log.raw_capacity, _U1)
    for i in range(raw_bytes):
        raw[log.raw_used + i] = source[r.raw_offset + i]
    kept.payload_offset += log.raw_used - r.raw_offset
    kept.raw_offset = log.raw_used
    kept.captured_payload = 0
    log.raw_used += raw_bytes
    log.used += 1


@kernel
def number_flows(packets: Any, marks: Any, slots: Any, firsts: Any, flows: Any) -> int:
    """Number the flows of logged packets by their first one.

    A flow that gets another service begins anew, with those of its packets that no row holds yet: their first attempt
    is dropped. What rows hold already stays a flow of its own.

    Args:
        slots: int64, of each slot of the flow cache the flow that is in it; -1 at first.
        firsts: int64, where the first packet of each flow is; as many as packets.
        flows: int64, of each packet; -1 of those to be dropped.

    Returns:
        The number of flows.
    """
    count = 0
    for i in range(len(packets)):
        r = packets[i]
        before = slots[r.slot]
        if marks[i] != 0 or before < 0:
            again = i
            if before >= 0 and _is_of_flow(packets[firsts[before]], r):
                again = _first_attempt(packets, flows, firsts[before], before, i)
            for j in range(again, i):
                if flows[j] == before:
                    flows[j] = -1
            if before >= 0 and again == firsts[before]:
                firsts[before] = i
            else:
                firsts[count] = i
                slots[r.slot] = count
                count += 1
        flows[i] = slots[r.slot]
    return count


@helper
def _is_of_flow(one: Any, other: Any) -> bool:
    return (  # type: ignore[no-any-return]
        one.a_lo == other.a_lo and one.b_lo == other.b_lo and one.a_port == other.a_port and one.b_port == other.b_port
        and one.protocol == other.protocol and one.a_hi == other.a_hi and one.b_hi == other.b_hi
    )  # fmt: skip


@helper
def _first_attempt(packets: Any, flows: Any, begin: int, flow: int, number: int) -> int:
    """Where the packet with some number was logged for its flow before; its number if it was not."""
    r = packets[number]
    for j in range(begin, number):
        if flows[j] == flow and packets[j].ts_ns == r.ts_ns and packets[j].frame_number == r.frame_number:
            return j
    return number


@kernel
def schedule(
    packets: Any, flows: Any, opens: Any, interval_ns: int, grace_ns: int, actions: Any
) -> None:  # fmt: skip
    """When the states of flows begin and are collected, for intervals of some length; see `partition.interval_of`.

    Args:
        packets: PACKET, whose `interval_start_ns` is set.
        flows: int64, of each packet.
        opens: int64, start of the interval that is open, of each flow; -1 at first, and at the end the last one.
        actions: int64, of each packet: `loop.START`, `loop.COLLECT` or 0, what has to be done before it is added.
    """
    for i in range(len(packets)):
        r = packets[i]
        newest_closed = r.watermark_ns - grace_ns
        start = max(r.ts_ns - r.ts_ns % interval_ns, newest_closed - newest_closed % interval_ns)
        before = opens[flows[i]]
        actions[i] = 0
        if before == -1:
            actions[i] = START
        elif start > before:
            actions[i] = COLLECT
        start = max(start, before)
        opens[flows[i]] = start
        r.interval_start_ns = start
