"""The life of a TCP connection, from its own packets (RFC 9293): which SYN begins another one, and how one ended.

Two connections may use one 5-tuple, one after the other. The second begins with a SYN that is no retransmission and
no late duplicate: after a FIN or RST, or with a sequence number outside the window of the first. A FIN or RST counts
only where its number fits the connection (RFC 9293, 3.10.7; RFC 5961, 3): others are late, or forged.

Where the opener is in its stream is known to the byte (`next_seq`), where the other side is to 32 MiB only (the upper
bits of `transport`), as the first cache line of a header has no more room.
"""

from __future__ import annotations

import numpy as np

from trafficrefinery.api import ENDED_FIN, ENDED_RST, OPEN
from trafficrefinery.jit import helper, inlined

FIN, SYN, RST, ACK = 1, 2, 4, 16

# HEADER.marks; USED to REPORTED are the flow cache's.
SEEN_A, SEEN_B, OPENED_BY_A = 32, 64, 128
"""Packets of this side were seen; end a opened the connection (or, where no SYN was seen, sent the first packet)."""

# HEADER.handshake
SYN_A, SYN_B, FIN_A, FIN_B, EARLIER_A, EARLIER_B = 1, 2, 4, 8, 16, 32
"""SYN_: `base` is the initial sequence number + 1 of this side's SYN; else it is the first sequence number seen, or
acknowledged. EARLIER_: `earlier` is that of the connection before."""

ENDS = ("open", "fin", "rst", "idle", "evicted")
"""How a flow ended, as far as its packets tell."""

NO_SCALE = 15
_REORDERED_BYTES = 1 << 16  # by which a SYN that was delivered late may lie behind the data seen before it
_UNKNOWN_WINDOW_BYTES = 1 << 20
_WORD = 0xFFFFFFFF
_STEP_SHIFT, _STEP_BYTES, _STEPS = 25, 1 << 25, 127
_WINDOW_MAX = 1 << 30
"""No window is larger (RFC 7323, section 2.3)."""


@inlined
def ahead(x, y):
    """Distance of two sequence numbers, modulo 2^32, between -2^31 and 2^31 - 1."""
    return ((np.int64(x) - np.int64(y) + 0x80000000) & _WORD) - 0x80000000


@helper
def begin_connection(h, r):
    """Set what a flow's first packet tells; `earlier` and its marks are the caller's."""
    h.handshake = 0
    h.end = OPEN
    h.scale_a = NO_SCALE
    h.scale_b = NO_SCALE
    answer = r.tcp_flags & SYN and r.tcp_flags & ACK
    h.marks &= np.uint8(255 - SEEN_A - SEEN_B - OPENED_BY_A)
    if (r.source_is_a != 0) != (answer != 0):
        h.marks |= np.uint8(OPENED_BY_A)
    h.base_a = 0
    h.base_b = 0
    h.next_seq = 0


@helper
def begins_another(h, r):
    """Whether a segment with SYN opens another connection than the one of the flow.

    Args:
        h: HEADER of the flow, which has seen a packet before.
        r: PACKET.
    """
    from_a = r.source_is_a != 0
    first = (np.int64(r.seq) + 1) & _WORD
    seen = h.marks & (SEEN_A if from_a else SEEN_B) != 0
    peer_seen = h.marks & (SEEN_B if from_a else SEEN_A) != 0
    exact = h.handshake & (SYN_A if from_a else SYN_B) != 0
    peer_exact = h.handshake & (SYN_B if from_a else SYN_A) != 0
    base = np.int64(h.base_a if from_a else h.base_b)
    peer_base = np.int64(h.base_b if from_a else h.base_a)
    if exact and first == base:
        return False  # sent again
    if h.handshake & (EARLIER_A if from_a else EARLIER_B) and first == np.int64(h.earlier_a if from_a else h.earlier_b):
        return False  # a late duplicate of the connection before
    closed = h.handshake & (FIN_A | FIN_B) != 0 or h.end == ENDED_RST
    if r.tcp_flags & ACK:  # an answer belongs to the SYN that it answers
        if peer_exact and not closed:  # with another number it answers a SYN that lay in the window of this connection
            asked = ahead(np.int64(r.ack) - 1, h.next_seq)
            return exact and np.int64(r.ack) != peer_base and 0 <= asked < window_bytes(h, not from_a)
        if peer_exact and 0 <= ahead(r.ack, peer_base) <= _REORDERED_BYTES:
            return False
        if not seen:
            return closed
    if not seen and not closed and base == 0:
        return False  # both ends open at the same time: the peer has acknowledged nothing
    if not exact and not closed and 0 <= ahead(base, first) <= _REORDERED_BYTES:
        return False  # delivered behind what follows it
    if closed or not seen or (exact and not peer_seen and np.int64(h.next_seq) == base):
        return True  # an attempt that nobody answered ends with the next one
    if from_a == (h.marks & OPENED_BY_A != 0):
        base = np.int64(h.next_seq)
    return not 0 <= ahead(r.seq, base) < window_bytes(h, from_a)


@inlined
def window_bytes(h, from_a):
    """The largest window that the peer of the sender can offer (RFC 7323, section 2)."""
    if h.handshake & (SYN_B if from_a else SYN_A) == 0:
        return np.int64(_UNKNOWN_WINDOW_BYTES)
    scale_a = np.int64(h.scale_a)
    scale_b = np.int64(h.scale_b)
    if scale_a == NO_SCALE or scale_b == NO_SCALE:  # it holds only when both offer it
        return np.int64(0xFFFF)
    return np.int64(0xFFFF) << (scale_b if from_a else scale_a)


@helper
def note_segment(h, r):
    """Note a segment with SYN, FIN or RST, or the first of its side.

    Returns:
        How the connection ends with this segment, or OPEN; `end` is the caller's to set.
    """
    from_a = r.source_is_a != 0
    flags = r.tcp_flags
    seen = h.marks & (SEEN_A if from_a else SEEN_B) != 0
    h.marks |= np.uint8(SEEN_A if from_a else SEEN_B)
    if flags == 0:  # UDP, a later fragment, or a header that was cut off
        return OPEN
    belongs = flags & (FIN | RST) != 0 and fits(h, r, from_a, seen)
    first = np.uint32((np.int64(r.seq) + (1 if flags & SYN else 0)) & _WORD)
    is_earlier = h.handshake & (EARLIER_A if from_a else EARLIER_B) != 0 and first == (
        h.earlier_a if from_a else h.earlier_b
    )
    if flags & SYN and not is_earlier and h.handshake & (SYN_A if from_a else SYN_B) == 0:
        scale = np.uint8(r.window_scale if r.window_scale >= 0 else NO_SCALE)
        if from_a:
            h.base_a = first
            h.scale_a = scale
        else:
            h.base_b = first
            h.scale_b = scale
        h.handshake |= np.uint8(SYN_A if from_a else SYN_B)
        opens = from_a if flags & ACK == 0 else not from_a
        both = flags & ACK == 0 and h.handshake & (SYN_B if from_a else SYN_A) != 0  # then the first one opened it
        if not both and opens != (h.marks & OPENED_BY_A != 0):
            h.marks ^= np.uint8(OPENED_BY_A)
            set_step(h, h.next_seq)
            h.next_seq = 0
    elif not seen and h.handshake & (SYN_A if from_a else SYN_B) == 0:
        if from_a:
            h.base_a = first
        else:
            h.base_b = first
    if flags & ACK and h.marks & (SEEN_B if from_a else SEEN_A) == 0:  # tells where the unseen side is
        if from_a:
            h.base_b = r.ack
        else:
            h.base_a = r.ack
        if from_a == (h.marks & OPENED_BY_A != 0):
            set_step(h, r.ack)
    if from_a == (h.marks & OPENED_BY_A != 0):
        if h.next_seq == 0:
            h.next_seq = first
    elif not seen:
        set_step(h, first)
    return note_end(h, r, from_a) if belongs else OPEN


@inlined
def set_step(h, seq):
    """Enter where the side is that did not open the connection."""
    h.transport = np.uint8(((np.int64(seq) & _WORD) >> _STEP_SHIFT) << 1)


@helper
def fits(h, r, from_a, seen):
    """Whether a FIN or RST belongs to the connection, as far as its numbers tell.

    Args:
        seen: packets of the sender were seen before.
    """
    window = window_bytes(h, from_a)
    if seen or ((h.base_a if from_a else h.base_b) != 0 and r.tcp_flags & ACK == 0):  # the peer has told where it is
        return is_near(h, from_a, r.seq, window)
    if h.marks & (SEEN_B if from_a else SEEN_A) == 0:
        return True  # the first packet of the flow
    if r.tcp_flags & ACK:
        return is_near(h, not from_a, r.ack, window)
    return h.handshake & (SYN_B if from_a else SYN_A) == 0  # a SYN is refused by what acknowledges it (3.10.7.3)


@helper
def is_near(h, side_is_a, seq, window):
    """Whether a number lies within a window of where a side is in its stream."""
    if side_is_a == (h.marks & OPENED_BY_A != 0):
        reached = np.int64(h.next_seq if h.next_seq != 0 else h.base_a if side_is_a else h.base_b)
        return -window <= ahead(seq, reached) <= window
    return -window <= ahead(seq, np.int64(h.transport >> 1) << _STEP_SHIFT) < window + _STEP_BYTES


@helper
def note_end(h, r, from_a):
    """Note FIN and RST, as `note_segment`."""
    flags = r.tcp_flags
    if flags & FIN:
        h.handshake |= np.uint8(FIN_A if from_a else FIN_B)
    if h.end != OPEN:
        return OPEN
    if flags & RST:
        return ENDED_RST
    wanted = (FIN_A if h.marks & SEEN_A else 0) | (FIN_B if h.marks & SEEN_B else 0)
    if h.handshake & wanted == wanted and flags & FIN:
        return ENDED_FIN
    return OPEN


@inlined
def advance(h, r):
    """Keep how far the streams have come."""
    if r.tcp_flags & (SYN | RST) == 0:
        end = np.int64(r.seq) + np.int64(r.payload_bytes)
        if (r.source_is_a != 0) == (h.marks & OPENED_BY_A != 0):
            if 0 < ahead(end, h.next_seq) <= _WINDOW_MAX:
                h.next_seq = np.uint32(end & _WORD)
        elif 0 < ((end >> _STEP_SHIFT) - np.int64(h.transport >> 1)) & _STEPS <= _WINDOW_MAX >> _STEP_SHIFT:
            set_step(h, end)
