"""THE loop: frames in, rows of features out.

A packet goes through four passes: parse and hash; find the header by the index; find the state by the header; update.
Each pass asks for the cache lines of the next, a batch of packets ahead, so that memory works while others are updated.

The loop returns to Python when something needs it (a set of event bits), and goes on where it stopped. What the rows
say never depends on when that happens: intervals are closed by the watermark (latest time in the whole trace), which
each packet carries.

Feature classes are called by address, once a packet for all classes of a flow's profile: see `fuse`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.api import ENDED_IDLE, OPEN
from trafficrefinery.jit import borrowed, helper, inlined, kernel, prefetch, prefetch_at
from trafficrefinery.packets.parser import (
    ATTRIBUTED,
    CACHE_FULL,
    FRAGMENT_WITHOUT_FIRST,
    NO_SERVICE,
    V4_MAPPED,
    is_plain,
    parse,
    u16,
    u32,
)
from trafficrefinery.services.dns.answers import APPLY
from trafficrefinery.services.sources import UDP

from .connection import (
    EARLIER_A,
    EARLIER_B,
    NOTED_A,
    NOTED_B,
    SEEN_A,
    SEEN_B,
    SYN_A,
    SYN_B,
    advance,
    begins_another,
    note_segment,
)
from .flow_cache import (
    FIXED,
    NAME_DONE,
    NONE_NS,
    USED,
    find,
    flow_hash,
    guess,
    partition_of,
    prefetch_index,
    same_flow,
    state_of,
)
from .flows import collect, end_flow, feed, new_flow, start_flow, tell_end
from .fragments import know_fragment
from .naming.deciding import undecided, wakes
from .naming.dns import finish_dns, note_dns
from .partition import (
    BATCH,
    BEFORE_UNREAD,
    BEHIND,
    BOUNDARY,
    CLOSE,
    DNS,
    END,
    EVICTED_IDLE,
    FLUSH,
    GO_ON,
    GROW,
    HEADER_BYTES,
    NAME,
    NO_DNS,
    OUT_OF_ORDER,
    PACKET_BYTES,
    PACKETS,
    READ_NAME,
    RING,
    RING_MASK,
    SECOND_LINE,
    WIRE_BYTES,
    answers_of,
    batch_of,
    direction_of,
    header_of,
    headers_of,
    index_of,
    interval_of,
    profiles_of,
    service_of,
)


@kernel
def process(partition: Any, buffer: Any, frames: Any) -> int:
    """Process the frames of a block from `control["frame_pos"]` on; returns event bits, END at the end of the block.

    Args:
        partition: one record of `partition_dtype`.
    """
    p = borrowed(partition)[0]
    buffer = borrowed(buffer)
    frames = borrowed(frames)
    c = p.control
    while True:
        for profile in range(p.profiles_count):
            if profiles_of(p)[profile].rows > profiles_of(p)[profile].row_limit:
                return FLUSH
        if p.slots.in_use > c.grow_at_flows:
            return GROW
        if c.stop_frame == 0 and c.parsed - c.updated <= RING - BATCH:
            parse_batch(p, buffer, frames)
        if move_on(p, buffer, c.stop_frame != 0 or c.frame_pos >= len(frames)):
            return NAME
        if c.updated == c.parsed:
            if c.stop_frame & DNS and answers_of(p).status == APPLY and finish_dns(p):
                c.stop_frame -= DNS
            if c.stop_frame != 0:
                stop: int = c.stop_frame
                c.stop_frame = 0
                return stop
            if c.frame_pos >= len(frames):
                c.frame_pos = 0
                return END


@inlined
def parse_batch(p, buffer, frames):
    c = p.control
    counters = p.counters
    batch = batch_of(p)
    index = index_of(p)
    partitions = c.partitions
    parsed = c.parsed
    full = parsed + BATCH
    i = c.frame_pos
    watermark = c.watermark_ns
    while parsed < full and i < len(frames) and c.stop_frame == 0:
        frame = frames[np.uint64(i)]
        if frame.ts_ns >= watermark:
            if frame.ts_ns >= c.next_boundary_ns:  # an interval's summary holds whole packets: stop before this one
                c.boundary_ns = frame.ts_ns
                c.stop_frame = BOUNDARY
                break
            watermark = frame.ts_ns
            if watermark >= c.next_close_ns:
                c.stop_frame |= CLOSE
        elif frame.ts_ns < watermark - c.grace_ns:
            if frame.ts_ns < watermark - c.max_behind_ns:  # is the clock set back, or is the time a stray?
                c.stop_frame = BEHIND
                break
            if c.my_partition == 0:
                counters[OUT_OF_ORDER] += 1
            c.most_behind_ns = max(c.most_behind_ns, watermark - frame.ts_ns)
        i += 1
        if partitions > 1 and of_another(buffer, frame, p.tunnels, c.my_partition, partitions):
            continue
        r = batch[parsed & RING_MASK]
        reason = parse(buffer, frame, p.tunnels, c.mac, r)
        if reason != ATTRIBUTED:
            if c.my_partition == 0:
                counters[PACKETS] += 1
                counters[WIRE_BYTES] += np.int64(frame.wire_bytes)
                counters[reason] += 1
                if r.unread != 0:
                    counters[BEFORE_UNREAD + np.int64(r.unread)] += 1
            continue
        mine = partitions == 1 or partition_of(r.a_hi, r.a_lo, r.b_hi, r.b_lo, partitions) == c.my_partition
        if mine:
            counters[PACKETS] += 1
            counters[WIRE_BYTES] += np.int64(frame.wire_bytes)
            if r.unread != 0:
                counters[BEFORE_UNREAD + np.int64(r.unread)] += 1
            if r.fragment != 0 and not know_fragment(p, r, watermark):
                counters[FRAGMENT_WITHOUT_FIRST] += 1
                continue
        if c.read_dns != NO_DNS and (r.src_port == 53 or r.dst_port == 53) and note_dns(p, buffer, r, mine, watermark):
            c.stop_frame |= DNS
        if mine:
            r.watermark_ns = watermark
            r.frame_number = c.frames_before + i - 1
            r.hash = flow_hash(r, p.seed)
            prefetch_index(index, r.hash)
            parsed += 1
    c.watermark_ns = watermark
    c.frame_pos = i
    c.parsed = parsed


@inlined
def of_another(buffer, frame, tunnels, partition, partitions):
    """Whether a plain frame belongs to another worker and tells no names: without parsing it."""
    if not is_plain(buffer, frame, tunnels):
        return False
    ip = np.int64(frame.offset) + 14
    if u16(buffer, ip + 20) == 53 or u16(buffer, ip + 22) == 53:
        return False
    zero = np.uint64(0)
    source = V4_MAPPED | np.uint64(u32(buffer, ip + 12))
    destination = V4_MAPPED | np.uint64(u32(buffer, ip + 16))
    return partition_of(zero, source, zero, destination, partitions) != partition


@inlined
def move_on(p, buffer, drain):
    """Take the packets that are parsed a step further each; at most a batch of them is updated.

    The header of a packet is asked for a batch before its state is, and that a batch before the update: so requests to
    memory come one by one between the updates, which go on meanwhile. `drain`: wait for nothing.

    Returns:
        True: the name in the packet at BATCH_POS must be read first.
    """
    c = p.control
    headers = headers_of(p)
    batch = batch_of(p)
    index = index_of(p)
    profiles = profiles_of(p)
    lag = 0 if drain else BATCH
    parsed = c.parsed
    found = c.found
    asked = c.asked
    updated = c.updated
    full = updated + BATCH
    reads_name = False
    while updated < full and (found < parsed or asked < found - lag or updated < asked - lag):
        if found < parsed:
            r = batch[found & RING_MASK]
            r.slot = guess(index, r.hash)
            if r.slot >= 0:
                prefetch(headers, r.slot)
            found += 1
        if asked < found - lag:
            ask_for_state(p, headers, profiles, batch[asked & RING_MASK])
            asked += 1
        if updated < asked - lag:
            if update(p, headers, batch, updated & RING_MASK, buffer):
                c.batch_pos = updated & RING_MASK
                reads_name = True
                break
            updated += 1
    c.found = found
    c.asked = asked
    c.updated = updated
    return reads_name


@inlined
def ask_for_state(p, headers, profiles, r):
    """Prefetch what the packet will touch of its flow's state."""
    if r.slot >= 0:
        h = headers[np.uint64(r.slot)]
        if h.marks & FIXED == 0:
            prefetch_at(p.headers + r.slot * HEADER_BYTES + SECOND_LINE)
        if h.service >= 0:
            profile = profiles[service_of(p, h.service).profile]
            state = state_of(profile, h)
            direction = direction_of(h, r)
            for line in range(profile.ahead_count):
                prefetch_at(state + profile.ahead[direction, line])


@inlined
def update(p, headers, batch, i, buffer):
    """Give a packet to its flow. True: its name must be read first."""
    c = p.control
    r = batch[i]
    slot = r.slot
    if slot < 0 or headers[np.uint64(slot)].marks & USED == 0 or not same_flow(headers[np.uint64(slot)], r):
        slot = find(index_of(p), headers, r)
        if slot < 0:
            slot = new_flow(p, r)
            if slot < 0:
                p.counters[CACHE_FULL] += 1
                return False
        r.slot = slot
    h = headers[np.uint64(slot)]
    seen = max(r.ts_ns, r.watermark_ns - c.grace_ns)
    if seen - h.last_ns > c.idle_ns:  # the packets decide what is a new flow, not the sweep
        end_flow(p, slot, ENDED_IDLE)
        start_flow(p, slot, r)
        p.counters[EVICTED_IDLE] += 1
    h.last_ns = max(h.last_ns, seen)
    ended = OPEN
    if r.tcp_flags & 7 != 0 or h.marks & (NOTED_A if r.source_is_a else NOTED_B) == 0:  # SYN, FIN, RST
        ended = live_on(p, slot, r)
    if r.tcp_flags != 0:
        advance(h, r)
    what = GO_ON
    may_be_named = h.marks & NAME_DONE == 0 and r.protocol == UDP and c.read_names != 0
    if h.marks & FIXED == 0 or (may_be_named and wakes(p, slot, r, buffer)):
        what = undecided(p, slot, r, buffer)
        if what == READ_NAME:
            return True
    if what == GO_ON:
        if h.service < 0:
            p.counters[NO_SERVICE] += 1
        else:
            feed(p, slot, p.batch + i * PACKET_BYTES, buffer)
    if ended != OPEN:
        tell_end(p, slot, ended)
    return False


@helper
def live_on(p, slot, r):
    """Note what a packet says of the life of its TCP connection; one that opens another one begins a new flow.

    Returns:
        How the flow ends with this packet, or OPEN.
    """
    h = header_of(p, slot)
    if r.tcp_flags & 2 and h.handshake & (SEEN_A | SEEN_B) and begins_another(h, r):
        end_flow(p, slot, OPEN)
        base_a = h.base_a
        base_b = h.base_b
        known = h.handshake
        start_flow(p, slot, r)
        h.earlier_a = base_a
        h.earlier_b = base_b
        h.handshake |= np.uint8((EARLIER_A if known & SYN_A else 0) | (EARLIER_B if known & SYN_B else 0))
    elif h.service >= 0 and h.open_start_ns != NONE_NS and interval_of(p, h, r) > h.open_start_ns:
        collect(p, slot)  # the row does not know what comes after it
    return note_segment(h, r)
