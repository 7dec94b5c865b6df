"""The first packets of flows whose service may still change: kept in a pool, which gives way when it is full."""

from __future__ import annotations

import numpy as np

from trafficrefinery.jit import helper, inlined
from trafficrefinery.packets.parser import NO_SERVICE, u8
from trafficrefinery.packets.tls_records import note_record
from trafficrefinery.services.sources import UDP

from .flow_cache import FIRST_PACKETS, FIXED, GIVEN_UP, NAME_DONE, NONE_NS, protocol_of
from .naming.handshakes import PASSED_LIMIT, SIDE
from .partition import (
    POOL_GIVEN_UP,
    WAITING,
    header_of,
    kept_of,
    kept_raw_of,
    pool_free_of,
    pool_next_of,
    pool_owner_of,
    profile_of,
)


@helper
def settle(p, slot):
    """From now on the flow keeps its service, or has none: its first packets are needed no more."""
    give_up(p, slot)
    header_of(p, slot).marks |= FIXED


@helper
def give_up(p, slot):
    """What was kept of a flow's packets stays with the service that it has, or has none; a name may still come.

    For packets to say, as its entries of the pool are free from then on; see `vacate`.
    """
    stop_keeping(p, slot, True)


@helper
def stop_keeping(p, slot, is_free):
    """As `give_up` does; the entries of the pool are only vacated unless they are free."""
    h = header_of(p, slot)
    if h.pool_slot >= 0 and h.service < 0:
        p.counters[WAITING] -= np.int64(h.packets)
        p.counters[NO_SERVICE] += np.int64(h.packets)
    vacate(p, slot, is_free)
    h.packets = GIVEN_UP


@inlined
def begin_kept(h):
    """From here on packets can change to another service with their flow."""
    h.packets = 0
    h.first_ip_bytes = 0
    h.late_packets = 0


@helper
def vacate(p, slot, is_free):
    """Take a flow's entries of the pool from it; unless they are free, they become so when `find_entry` comes by.

    When an interval is closed and when an idle flow is dropped depends on where blocks end. What is free must not, as
    which flows are given up when the pool is full follows from it.
    """
    h = header_of(p, slot)
    entry = np.int64(h.pool_slot)
    h.pool_slot = -1
    while entry >= 0:  # what follows an entry can still be read by who is feeding its packets
        pool_owner_of(p)[entry] = -1
        if is_free:
            free_entry(p, entry)
        entry = np.int64(pool_next_of(p)[entry])


@helper
def free_entry(p, entry):
    """Return an entry that no flow owns."""
    pool_free_of(p)[p.control.pool_free] = entry
    p.control.pool_free += 1


@helper
def first_kept(h):
    """Where the first packet of a flow is kept."""
    return np.int64(h.pool_slot) * FIRST_PACKETS


@helper
def next_kept(p, at):
    """Where the packet behind one of the same flow is kept; below 0 when that was the last of its last entry."""
    at += 1
    return at if at % FIRST_PACKETS else np.int64(pool_next_of(p)[at // FIRST_PACKETS - 1]) * FIRST_PACKETS


@inlined
def no_name_comes(p, h):
    """Whether no packet can bring the flow a name any more."""
    return h.marks & NAME_DONE != 0 or p.control.read_names == 0


@helper
def is_quiet(p, h):
    """Whether no packet can bring a name, but for a datagram that wakes the flow up, see `deciding.wakes`."""
    if no_name_comes(p, h):
        return True
    is_over = protocol_of(h) == UDP and h.passed >= PASSED_LIMIT
    return is_over and (h.hello & SIDE == 0 or h.packets == GIVEN_UP)


@helper
def keep_packet(p, slot, r, buffer):
    """Keep one of a flow's first packets; when the pool is full, the flow that came first gives way."""
    h = header_of(p, slot)
    c = p.control
    i = np.int64(h.packets) - 1
    if h.pool_slot < 0:
        h.pool_slot = take_entry(p, slot, r.watermark_ns)
    last = np.int64(h.pool_slot)
    for _ in range((i - 1) // FIRST_PACKETS):
        last = np.int64(pool_next_of(p)[last])
    if i > 0 and i % FIRST_PACKETS == 0:
        taken = take_entry(p, slot, r.watermark_ns)
        pool_next_of(p)[last] = taken
        last = taken
    at = last * FIRST_PACKETS + i % FIRST_PACKETS
    note_record(r, buffer)
    kept_of(p)[at] = r
    kept = kept_of(p)[at]
    kept.captured_payload = 0
    if c.pool_raw_bytes > 0:
        kept.raw_offset = at * c.pool_raw_bytes
        kept.payload_offset += kept.raw_offset - r.raw_offset
        raw = kept_raw_of(p)
        for byte in range(np.int64(r.raw_bytes)):
            raw[kept.raw_offset + byte] = u8(buffer, r.raw_offset + byte)


@helper
def take_entry(p, slot, now_ns):
    """An entry of the pool for a flow."""
    c = p.control
    if c.pool_free == 0:
        find_entry(p, slot, now_ns - c.grace_ns)
    c.pool_free -= 1
    taken = np.int64(pool_free_of(p)[c.pool_free])
    pool_owner_of(p)[taken] = slot
    pool_next_of(p)[taken] = -1
    return taken


@helper
def find_entry(p, slot, now_ns):
    """Free the next entry in turn; the flow that still keeps packets there gives way.

    One that is over by time is not counted, as it keeps none any more where a sweep has seen it.
    """
    c = p.control
    owner = pool_owner_of(p)
    while c.pool_free == 0:
        entry = c.pool_hand
        c.pool_hand = entry + 1 if entry + 1 < len(owner) else 0
        holder = owner[entry]
        if holder == slot:
            continue
        if holder < 0:
            free_entry(p, entry)
        elif is_over(p, holder, now_ns):
            stop_keeping(p, holder, False)
            free_entry(p, entry)
        else:
            give_up(p, holder)
            p.counters[POOL_GIVEN_UP] += 1


@inlined
def is_over(p, slot, now_ns):
    """Whether the open interval of a flow is to be closed, or the flow is idle: `sweep` asks the same."""
    h = header_of(p, slot)
    return now_ns - h.last_ns > p.control.idle_ns or (
        h.service >= 0 and h.open_start_ns != NONE_NS and h.open_start_ns + profile_of(p, h).interval_ns <= now_ns
    )
