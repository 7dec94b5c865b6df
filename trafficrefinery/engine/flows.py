"""Flows and their rows: how a flow starts, is fed, writes the row of an interval, and ends."""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.api import ENDED_EVICTED, ENDED_IDLE, OPEN
from trafficrefinery.jit import borrowed, call_at, data_address, helper, inlined, kernel, table_at
from trafficrefinery.packets.parser import ATTRIBUTED, CLIENT_SEEN, PACKET, ROW_HEADER, SERVER_SEEN
from trafficrefinery.services.sources import BY_NOTHING

from .connection import HOW, SEEN_A, SEEN_B, TOLD, begin_connection
from .first_packets import begin_kept, is_quiet, stop_keeping, vacate
from .flow_cache import (
    CLIENT_IS_A,
    FIXED,
    MANY_PACKETS,
    NO_SERVICE_YET,
    NONE_NS,
    ONE_PACKET,
    REPORTED,
    STATE_SLOT,
    USED,
    give,
    insert,
    protocol_of,
    remove,
    set_ends,
    state_of,
    take,
)
from .naming.handshakes import begin_search, end_search
from .partition import (
    CLOSE,
    DNS_OVER_TLS,
    DOQ_FLOWS,
    DOT_FLOWS,
    END,
    EVICTED_CAP,
    EVICTED_IDLE,
    FLOWS_NEW,
    FLUSH,
    I2,
    LATE,
    SHORT_CAPPED,
    direction_of,
    header_of,
    headers_of,
    index_of,
    interval_of,
    profile_of,
    service_of,
)


@inlined
def feed(p, slot, packet_address, buffer):
    """Give a packet to the feature classes of its flow, in the interval in which it counts."""
    h = header_of(p, slot)
    r = table_at(packet_address, 1, PACKET)[0]
    profile = profile_of(p, h)
    start = h.open_start_ns
    end = start + profile.interval_ns
    if r.ts_ns < start or r.ts_ns >= end or r.watermark_ns >= end + p.control.grace_ns:
        start = turn_interval(p, slot, r)
    if h.state_word < MANY_PACKETS:
        h.state_word += ONE_PACKET
    r.interval_start_ns = start
    r.direction = direction_of(h, r)
    p.counters[ATTRIBUTED] += 1
    service = service_of(p, h.service)
    service.packets += 1
    service.ip_bytes += np.int64(r.ip_bytes)
    if p.trail_count > 0:
        leave_trail(p, r, h)
    state = state_of(profile, h)
    call_at(profile.add_packet, (state, packet_address, data_address(buffer), len(buffer), profile.errors))


@inlined
def leave_trail(p, r, h):
    """Note the service of a frame, for who asks afterwards which packets it got."""
    table_at(p.trail, p.trail_count, I2)[r.frame_number] = h.service


@helper
def turn_interval(p, slot, r):
    """The slow part of `feed`: collect the interval that has ended, open the packet's."""
    h = header_of(p, slot)
    start = interval_of(p, h, r)
    if start > r.ts_ns:
        p.counters[LATE] += 1
        h.late_packets += np.uint16(1)
    if h.open_start_ns != NONE_NS and start > h.open_start_ns:
        collect(p, slot)
    h.open_start_ns = start
    h.state_word &= STATE_SLOT
    return start


@helper
def collect(p, slot):
    """Write the row of a flow's open interval. What is written keeps its service; what follows may get another."""
    h = header_of(p, slot)
    profile = profile_of(p, h)
    row = profile.row + profile.rows * profile.row_bytes
    is_kept = p.control.short_rows_limit < 0 or has_room(p, h, profile.interval_ns)
    if is_kept:
        profile.rows += 1
    else:
        p.counters[SHORT_CAPPED] += 1  # the row is overwritten by the next
    fill_row(p, table_at(row, 1, ROW_HEADER)[0], h)
    state = state_of(profile, h)
    call_at(profile.collect, (state, row, profile.interval_ns * 1e-9, profile.errors))
    h.open_start_ns = NONE_NS
    if is_kept:
        h.marks |= REPORTED
    vacate(p, slot, False)
    if is_quiet(p, h):
        h.marks |= FIXED
    begin_kept(h)


@helper
def has_room(p, h, interval_ns):
    """Whether a flow's open interval gets its row. Of flows with one or two packets, which a scan or a flood of spoofed
    addresses makes (and a lookup), a service has so many rows in an interval."""
    if h.state_word >= MANY_PACKETS:
        return True
    service = service_of(p, h.service)
    start = h.open_start_ns
    which = (start - p.control.origin_ns) // interval_ns & 1
    if start > service.short_starts[which]:
        service.short_starts[which] = start
        service.short_rows[which] = 0
    service.short_rows[which] += 1
    return service.short_rows[which] <= p.control.short_rows_limit


@helper
def fill_row(p, row, h):
    """What a row says of its flow."""
    row.start_ns = h.open_start_ns - p.control.shift_ns
    row.first_ns = h.first_ns
    set_ends(row, h)
    row.protocol = protocol_of(h)
    row.service = h.service
    row.name_id = h.name_id
    row.matched_by = h.matched_by
    row.client_is_a = 1 if h.marks & CLIENT_IS_A else 0
    row.is_first = 0 if h.marks & REPORTED else 1
    row.end = h.end & HOW
    client = SEEN_A if row.client_is_a else SEEN_B
    server = SEEN_B if row.client_is_a else SEEN_A
    row.sides = (CLIENT_SEEN if h.handshake & client else 0) | (SERVER_SEEN if h.handshake & server else 0)


@helper
def new_flow(p, r):
    """A slot for the packet's flow, in the index; -1 when the cache is full and the policy is to refuse."""
    slots = p.slots
    slot = take(slots)
    if slot < 0:
        if p.control.refuse_at_cap != 0:
            return -1
        drop_flow(p, longest_idle(p), ENDED_EVICTED)
        p.counters[EVICTED_CAP] += 1
        slot = take(slots)
    start_flow(p, slot, r)
    insert(index_of(p), r.hash, slot)
    return slot


@helper
def longest_idle(p):
    """The flow that was idle for longest among the next 64 in use: a bounded approximation of LRU."""
    headers = headers_of(p)
    top = p.slots.peak
    best = -1
    looked = 0
    hand = p.control.evict_hand
    while looked < 64 or best < 0:
        hand = hand + 1 if hand + 1 < top else 0
        looked += 1
        if headers[hand].marks & USED and (best < 0 or headers[hand].last_ns < headers[best].last_ns):
            best = hand
    p.control.evict_hand = hand
    return best


@helper
def start_flow(p, slot, r):
    h = header_of(p, slot)
    set_ends(h, r)
    h.transport = r.protocol if r.protocol == 17 else 0
    h.hash = r.hash
    h.first_ns = r.ts_ns - p.control.shift_ns
    h.last_ns = max(r.ts_ns, r.watermark_ns - p.control.grace_ns)
    h.open_start_ns = NONE_NS
    h.state_word = 0
    h.pool_slot = -1
    h.marks = USED
    h.matched_by = BY_NOTHING
    h.service = NO_SERVICE_YET
    h.name_id = -1
    begin_kept(h)
    begin_search(h)
    begin_connection(h, r)
    p.counters[FLOWS_NEW] += 1
    if r.src_port == DNS_OVER_TLS or r.dst_port == DNS_OVER_TLS:
        p.counters[DOT_FLOWS if r.protocol == 6 else DOQ_FLOWS] += 1


@helper
def end_flow(p, slot, end):
    """Write what a flow still holds and free its state; its header and index entry stay.

    Args:
        end: how it ends, where its packets did not tell before: an index of `connection.ENDS`.
    """
    h = header_of(p, slot)
    if h.service >= 0:
        if end == ENDED_EVICTED and h.end & HOW == OPEN:
            tell_end(p, slot, end)
        elif end == ENDED_IDLE:
            note_silence(p, slot)
        if h.open_start_ns != NONE_NS:
            collect(p, slot)
        if h.end & HOW == OPEN:
            tell_end(p, slot, end)
        give(profile_of(p, h).slots, np.int64(h.state_word) & STATE_SLOT)
    end_search(p.counters, h)
    stop_keeping(p, slot, False)


@helper
def note_silence(p, slot):
    """A flow that was idle for long enough before its open interval was over has ended in it."""
    h = header_of(p, slot)
    if h.open_start_ns == NONE_NS or h.end & HOW != OPEN:
        return
    if h.last_ns + p.control.idle_ns < h.open_start_ns + profile_of(p, h).interval_ns:
        tell_end(p, slot, ENDED_IDLE)


@helper
def tell_end(p, slot, end):
    """Note how a flow ends, and tell its classes once: a flow that goes on after a RST has another end later."""
    h = header_of(p, slot)
    told = h.end & TOLD
    h.end = np.uint8(end | told)
    if h.service < 0 or told:
        return
    h.end |= np.uint8(TOLD)
    profile = profile_of(p, h)
    state = state_of(profile, h)
    call_at(profile.end_flow, (state, np.int64(end), profile.errors))


@helper
def drop_flow(p, slot, end):
    h = header_of(p, slot)
    end_flow(p, slot, end)
    remove(index_of(p), h.hash, slot)
    h.marks = 0
    give(p.slots, slot)


@kernel
def sweep(partition: Any, budget: int) -> int:
    """Look at the next `budget` headers: write rows of closed intervals, drop idle flows.

    Returns:
        END when all were looked at, FLUSH when the rows must be taken first, else CLOSE: call again.
    """
    p = borrowed(partition)[0]
    c = p.control
    headers = headers_of(p)
    now = c.sweep_now_ns
    stop = min(c.sweep_pos + budget, c.sweep_top)
    while c.sweep_pos < stop:
        slot = c.sweep_pos
        h = headers[slot]
        if h.marks & USED:
            if h.service >= 0:
                profile = profile_of(p, h)
                if profile.rows > profile.row_limit:
                    return FLUSH
                if h.open_start_ns != NONE_NS and h.open_start_ns + profile.interval_ns <= now:
                    note_silence(p, slot)
                    collect(p, slot)
            if now - h.last_ns > c.idle_ns:
                drop_flow(p, slot, OPEN if c.finishing else ENDED_IDLE)
                if c.finishing == 0:
                    p.counters[EVICTED_IDLE] += 1
        c.sweep_pos += 1
    return END if c.sweep_pos >= c.sweep_top else CLOSE
