"""The life of a TCP connection, from its own packets (RFC 9293): which SYN begins another one, and how one ended.

Two connections may use one 5-tuple, one after the other. The second begins with a SYN that is no retransmission and
no late duplicate: after a FIN or RST, or with a sequence number outside the window of the first. Where that SYN is
missing, or has the number of the first, the SYN-ACK shows it: it acknowledges another SYN, or has another number of
its own. A FIN or RST counts only where its number fits the connection (RFC 9293, 3.10.7; RFC 5961, 3): others are
late, or forged. A RST that fits may be forged as well, or refuse a SYN that is sent again and then accepted: it is the
end until each end that was seen has sent something else.

Where the opener is in its stream is known to the byte (`next_seq`), where the other side is to 32 MiB only (the upper
bits of `transport`), as the first cache line of a header has no more room.
"""

from __future__ import annotations

import numpy as np

from trafficrefinery.api import ENDED_FIN, ENDED_RST, OPEN, UDP
from trafficrefinery.jit import helper, inlined

FIN, SYN, RST, ACK = 1, 2, 4, 16

# HEADER.marks; USED to REPORTED are the flow cache's.
NOTED_A, NOTED_B, OPENED_BY_A = 32, 64, 128
"""NOTED_: packets of this side need no look, unless they have SYN, FIN or RST; cleared by a RST. End a opened the
connection (or, where no SYN was seen, sent the first packet)."""

# HEADER.handshake
SYN_A, SYN_B, FIN_A, FIN_B, EARLIER_A, EARLIER_B, SEEN_A, SEEN_B = 1, 2, 4, 8, 16, 32, 64, 128
"""SYN_: `base` is the initial sequence number + 1 of this side's SYN; else it is the first sequence number seen, or
acknowledged; 0 while neither is known. EARLIER_: `earlier` is that of the connection before. SEEN_: packets of this
side were seen."""

# HEADER.end
HOW, TOLD = 7, 8
"""HOW: the bits that say how the flow ended, an index of ENDS. TOLD: its feature classes were notified of an end."""
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
    h.marks &= np.uint8(255 - NOTED_A - NOTED_B - OPENED_BY_A)
    if (r.source_is_a != 0) != (answer != 0):
        h.marks |= np.uint8(OPENED_BY_A)
    h.base_a = 0
    h.base_b = 0
    h.next_seq = 0


@helper
def begins_another(h, r):
    """Whether a segment with SYN is of another connection than the flow's.

    Args:
        h: HEADER of the flow, which has seen a packet before.
        r: PACKET.
    """
    from_a = r.source_is_a != 0
    first = (np.int64(r.seq) + 1) & _WORD
    seen = h.handshake & (SEEN_A if from_a else SEEN_B) != 0
    peer_seen = h.handshake & (SEEN_B if from_a else SEEN_A) != 0
    exact = h.handshake & (SYN_A if from_a else SYN_B) != 0
    base = np.int64(h.base_a if from_a else h.base_b)
    peer_base = np.int64(h.base_b if from_a else h.base_a)
    is_answer = r.tcp_flags & ACK != 0
    if exact and first == base and not (is_answer and not acknowledges_syn(h, np.int64(r.ack), not from_a)):
        return False  # sent again
    if h.handshake & (EARLIER_A if from_a else EARLIER_B) and first == np.int64(h.earlier_a if from_a else h.earlier_b):
        return False  # a late duplicate of the connection before
    closed = h.handshake & (FIN_A | FIN_B) != 0 or h.end & HOW == ENDED_RST
    late = not exact and base != 0 and 0 <= ahead(base, first) <= _REORDERED_BYTES  # delivered behind what follows it
    if is_answer:
        return answers_another(h, r, closed, late)
    if closed:
        return True
    if late or (not exact and base == 0):  # nothing is known of its stream: both ends may open at once
        return False
    if not seen or (exact and not peer_seen and (peer_base == 0 or np.int64(h.next_seq) == base)):
        return True  # an attempt that nobody answered ends with the next one
    if from_a == (h.marks & OPENED_BY_A != 0):
        base = sent_by_opener(h)
    return not 0 <= ahead(r.seq, base) < window_bytes(h, from_a)


@helper
def answers_another(h, r, closed, late):
    """Whether a SYN-ACK, which does not repeat the connection's own, is of another connection.

    Args:
        closed: a FIN or RST was seen.
        late: the number is that of a SYN-ACK that was delivered behind what follows it.
    """
    from_a = r.source_is_a != 0
    exact = h.handshake & (SYN_A if from_a else SYN_B) != 0
    base = np.int64(h.base_a if from_a else h.base_b)
    peer_exact = h.handshake & (SYN_B if from_a else SYN_A) != 0
    peer_base = np.int64(h.base_b if from_a else h.base_a)
    ack = np.int64(r.ack)
    knows_earlier = h.handshake & (EARLIER_A | EARLIER_B) == (EARLIER_B if from_a else EARLIER_A)
    if knows_earlier and ack != peer_base and ack == np.int64(h.earlier_b if from_a else h.earlier_a):
        return False  # a late duplicate of the connection before, of which no SYN-ACK was seen
    is_ours = acknowledges_syn(h, ack, not from_a)
    if closed:
        return exact or not is_ours or (base != 0 and not late)
    if not is_ours:
        return exact or base != 0  # while nothing has answered a SYN, an old answer may come before the right one
    if not exact:
        return not peer_exact and base != 0 and not late
    if ack == sent_by_opener(h):
        return False  # nothing but the SYN was sent: the same SYN, answered anew
    return ahead((np.int64(r.seq) + 1) & _WORD, base) < 0 or not is_near(h, from_a, r.seq, window_bytes(h, from_a))


@helper
def acknowledges_syn(h, ack, of_a):
    """Whether a SYN-ACK with this acknowledgement may answer the SYN of a side, as far as that is known."""
    base = np.int64(h.base_a if of_a else h.base_b)
    behind = ahead(ack, base)
    if h.handshake & (SYN_A if of_a else SYN_B) == 0:
        return base == 0 or -_REORDERED_BYTES <= behind <= _REORDERED_BYTES
    if of_a == (h.marks & OPENED_BY_A != 0):  # its data may be acknowledged with it (RFC 7413)
        return behind >= 0 and ahead(ack, sent_by_opener(h)) <= 0
    return 0 <= behind <= _REORDERED_BYTES


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
    """Note a segment with SYN, FIN or RST, or the first of its side, also after a RST.

    Returns:
        How the connection ends with this segment, or OPEN; `end` is the caller's to set. A RST that was not the end is
        taken back here.
    """
    from_a = r.source_is_a != 0
    flags = r.tcp_flags
    seen = h.handshake & (SEEN_A if from_a else SEEN_B) != 0
    h.handshake |= np.uint8(SEEN_A if from_a else SEEN_B)
    peer_seen = h.handshake & (SEEN_B if from_a else SEEN_A) != 0
    tells_all = flags & ACK or (flags != 0 and peer_seen) or r.protocol == UDP  # a first SYN says nothing of the peer
    if tells_all and flags & RST == 0:
        h.marks |= np.uint8(NOTED_A if from_a else NOTED_B)
    if flags == 0:  # UDP, a later fragment, or a header that was cut off
        return OPEN
    belongs = flags & (FIN | RST) != 0 and fits(h, r, from_a, seen)
    note_numbers(h, r, from_a, seen)
    ends = note_end(h, r, from_a) if belongs else OPEN
    if h.end & HOW == ENDED_RST and flags & RST == 0 and goes_on(h):
        h.end = np.uint8((h.end & TOLD) | (ENDED_FIN if has_every_fin(h) else OPEN))
    return ends


@helper
def note_numbers(h, r, from_a, seen):
    """Note where the sides are in their streams.

    Args:
        seen: packets of the sender were seen before.
    """
    flags = r.tcp_flags
    opens = from_a == (h.marks & OPENED_BY_A != 0)
    exact = h.handshake & (SYN_A if from_a else SYN_B) != 0
    base = np.int64(h.base_a if from_a else h.base_b)
    first = np.uint32((np.int64(r.seq) + (1 if flags & SYN else 0)) & _WORD)
    is_earlier = h.handshake & (EARLIER_A if from_a else EARLIER_B) != 0 and first == (
        h.earlier_a if from_a else h.earlier_b
    )
    is_new = flags & SYN != 0 and not is_earlier and not exact
    # A RST that refuses a SYN has no number of its own (RFC 9293, 3.10.7.1).
    begins = is_new or (flags & RST == 0 and not exact and (not seen or base == 0))
    if begins:
        if from_a:
            h.base_a = first
        else:
            h.base_b = first
    if is_new:
        h.handshake |= np.uint8(SYN_A if from_a else SYN_B)
        if from_a:
            h.scale_a = np.uint8(r.window_scale if r.window_scale >= 0 else NO_SCALE)
        else:
            h.scale_b = np.uint8(r.window_scale if r.window_scale >= 0 else NO_SCALE)
        both = flags & ACK == 0 and h.handshake & (SYN_B if from_a else SYN_A) != 0  # then the first one opened it
        if not both and opens != (flags & ACK == 0):
            opens = not opens
            h.marks ^= np.uint8(OPENED_BY_A)
            set_step(h, h.next_seq)
            h.next_seq = 0
    if flags & ACK and (h.base_b if from_a else h.base_a) == 0:  # tells where the unseen side is
        if from_a:
            h.base_b = r.ack
        else:
            h.base_a = r.ack
        if opens:
            set_step(h, r.ack)
    if not opens:
        if begins or not seen:
            set_step(h, first)
    elif h.next_seq == 0:
        data_bytes = np.int64(r.payload_bytes) if is_new else 0  # see `advance` for that of other segments
        h.next_seq = np.uint32((np.int64(first) + data_bytes) & _WORD)


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
    if h.handshake & (SEEN_B if from_a else SEEN_A) == 0:
        return True  # the first packet of the flow
    if r.tcp_flags & ACK:
        return is_near(h, not from_a, r.ack, window)
    return h.handshake & (SYN_B if from_a else SYN_A) == 0  # a SYN is refused by what acknowledges it (3.10.7.3)


@inlined
def sent_by_opener(h):
    """The sequence number behind what the side that opened the connection has sent, as far as it is known."""
    if h.next_seq != 0:
        return np.int64(h.next_seq)
    return np.int64(h.base_a if h.marks & OPENED_BY_A else h.base_b)


@helper
def is_near(h, side_is_a, seq, window):
    """Whether a number lies within a window of where a side is in its stream."""
    if side_is_a == (h.marks & OPENED_BY_A != 0):
        return -window <= ahead(seq, sent_by_opener(h)) <= window
    return -window <= ahead(seq, np.int64(h.transport >> 1) << _STEP_SHIFT) < window + _STEP_BYTES


@helper
def note_end(h, r, from_a):
    """Note a FIN or RST that fits, as `note_segment`."""
    how = h.end & HOW
    if r.tcp_flags & FIN:
        h.handshake |= np.uint8(FIN_A if from_a else FIN_B)
    if r.tcp_flags & RST and (how == OPEN or how == ENDED_RST):
        h.marks &= np.uint8(255 - NOTED_A - NOTED_B)
        return ENDED_RST
    return ENDED_FIN if how == OPEN and r.tcp_flags & FIN and has_every_fin(h) else OPEN


@inlined
def has_every_fin(h):
    """Whether each side that was seen has sent a FIN."""
    wanted = (FIN_A if h.handshake & SEEN_A else 0) | (FIN_B if h.handshake & SEEN_B else 0)
    return h.handshake & wanted == wanted


@inlined
def goes_on(h):
    """Whether each side that was seen has sent something since the last RST."""
    wanted = (NOTED_A if h.handshake & SEEN_A else 0) | (NOTED_B if h.handshake & SEEN_B else 0)
    return h.marks & wanted == wanted


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
