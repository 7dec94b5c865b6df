"""Packets of port 53 to DNS messages, in compiled code; what needs Python has a budget.

A message over TCP that fills a segment is read like one over UDP (RFC 7766). A direction of a connection that sends
other segments is put together by `messages.DnsStreams` from then on.
"""

from __future__ import annotations

import numpy as np

from trafficrefinery.jit import helper, table_at
from trafficrefinery.packets.layers import u16
from trafficrefinery.services.budget import may_spend
from trafficrefinery.services.name_table import finish, stir

from .answers import APPLY, ASK, IGNORED, LARGE, NOTHING, PIECE, STREAM_NS, decide_answers, take_message
from .recent import ENTRY, find_recent, put_recent

PIECE_UNITS, LARGE_UNITS, LARGE_BYTES = 3, 10, 50
"""What `messages` costs of the budget, in units of 10 µs: to take a piece of a stream; to read a message, with one
more for each LARGE_BYTES."""
CROWD = 16
"""Addresses of a message beyond which they are paid for, as many for a unit: each takes two entries of a table."""
_BY_PYTHON = 1  # ENTRY.service of a direction that is put together there; else -1
_WINDOW_BYTES = 2 + 0xFFFF  # the longest message with its length
_WHOLE, _PIECE, _NEITHER = 0, 1, 2


@helper
def take_packet(a, t, budget, buffer, r, now_ns):
    """Read a packet from or to port 53; what it is worth. `budget_refused` says whether it had been worth more.

    Args:
        a: ANSWERS.
        t: NAME_TABLES.
        budget: BUDGET of what needs Python.
        r: PACKET.
        now_ns: the watermark.
    """
    a.budget_refused = 0
    if r.fragment == 2:
        return IGNORED
    start = np.int64(r.payload_offset)
    end = start + np.int64(r.captured_payload)
    if r.protocol == 6:
        kind = _take_segment(a, t, buffer, r, now_ns)
        if kind == _PIECE:
            return PIECE if _affords(a, budget, now_ns, PIECE_UNITS) else IGNORED
        if kind == _NEITHER:
            return IGNORED
        start += 2
    elif end - start >= 12 and (buffer[start + 2] & 0x80) != 0 and buffer[start + 6] == 0 and buffer[start + 7] == 0:
        return IGNORED  # a response without answers
    if end == start:
        return IGNORED
    status = take_message(a, t, buffer, start, end, r, now_ns)
    return afford_message(a, t, budget, status, end - start, now_ns)


@helper
def afford_message(a, t, budget, status, size_bytes, now_ns):
    """What a message is worth within the budget: names that cannot be asked about now have no expression."""
    if status == LARGE and not _affords(a, budget, now_ns, LARGE_UNITS + size_bytes // LARGE_BYTES):
        return NOTHING
    if status == ASK and not _affords(a, budget, now_ns, a.ask_units):
        status = decide_answers(a, t, now_ns, False)
        if status == LARGE:
            return NOTHING
    if (
        a.message.addresses > CROWD
        and status == APPLY
        and not _affords(a, budget, now_ns, a.message.addresses // CROWD)
    ):
        return NOTHING
    return status


@helper
def _affords(a, budget, now_ns, units):
    if may_spend(budget, now_ns, units):
        return True
    a.budget_refused = 1
    return False


@helper
def _take_segment(a, t, buffer, r, now_ns):
    """What a segment is: a whole message, a piece to be put together with others, or neither."""
    h = stir(stir(t.seed, r.a_hi), r.a_lo)
    h = stir(stir(h, r.b_hi), r.b_lo)
    h = stir(h, np.uint64(r.a_port) << np.uint64(17) | np.uint64(r.b_port) << np.uint64(1) | np.uint64(r.source_is_a))
    key = finish(h)
    at = find_recent(a.streams, key, now_ns)
    seq = np.int64(r.seq)
    if r.tcp_flags & 2:
        seq = (seq + 1) & 0xFFFFFFFF
        if at < 0 or _ahead(_entry(a, at).value, seq) < 0 or _ahead(_entry(a, at).value, seq) >= _WINDOW_BYTES:
            at = put_recent(a.streams, key, now_ns + STREAM_NS, now_ns)
            _entry(a, at).value = seq
            _entry(a, at).service = -1
    count = np.int64(r.captured_payload)
    if count == 0:
        return _NEITHER
    a.stream_start = -1
    if at >= 0 and _entry(a, at).service == _BY_PYTHON:
        return _PIECE
    is_whole = _starts_message(buffer, r) and count == np.int64(r.payload_bytes)
    is_whole = is_whole and u16(buffer, r.payload_offset) == count - 2
    if at >= 0:
        ahead = _ahead(seq, _entry(a, at).value)
        if ahead < 0 and ahead > -_WINDOW_BYTES:
            return _NEITHER  # seen before
        if ahead < 0 or ahead >= _WINDOW_BYTES:
            at = np.int64(-1)  # the thread is lost
        elif ahead > 0 or not is_whole:
            return _hand_over(a, at)
    if at < 0:
        if not _starts_message(buffer, r):
            return _NEITHER
        at = put_recent(a.streams, key, now_ns + STREAM_NS, now_ns)
        _entry(a, at).value = seq
        if not is_whole:
            return _hand_over(a, at)
    _entry(a, at).value = (seq + count) & 0xFFFFFFFF
    _entry(a, at).until_ns = now_ns + STREAM_NS
    return _WHOLE


@helper
def _entry(a, at):
    return table_at(a.streams.entries, a.streams.entries_count, ENTRY)[at]


@helper
def _ahead(seq, of):
    """Distance of two sequence numbers, modulo 2^32."""
    distance = (seq - of) & 0xFFFFFFFF
    return distance - 0x1_0000_0000 if distance >= 0x8000_0000 else distance


@helper
def _hand_over(a, at):
    """From now on Python puts a direction together, from the sequence number that is expected next."""
    _entry(a, at).service = _BY_PYTHON
    a.stream_start = _entry(a, at).value
    return _PIECE


@helper
def _starts_message(buffer, r):
    """Whether a segment can begin with the length and header of a message: `messages` asks the same."""
    count = np.int64(r.captured_payload)
    i = np.int64(r.payload_offset)
    if count < 2:
        return False
    announced = u16(buffer, i)
    if count == 2:  # some senders write the length by itself
        return announced >= 12
    if count < 14:
        return False
    is_query = (np.int64(buffer[i + 4]) & 0x78) == 0 and (np.int64(buffer[i + 5]) & 0x40) == 0
    questions = u16(buffer, i + 6)
    return announced >= 12 and is_query and questions <= 1
