"""What a flow's packets say of its server's name, read in the packet loop: which packet tells it, and when none will.

What ends the search is evidence alone: the hello was read, its bytes are used up, or a TCP connection held PASSED_LIMIT
bytes that are neither a hello nor a piece of one. Retransmissions are not counted, and neither are packets or time.
Datagrams have no such order: after PASSED_LIMIT bytes of others the search rests, until one comes that `wakes` it.

What a hello is, and how its name is read, is in the table of `services.sources`. A hello that lies in one packet is
read here, and the service of its name is decided. Python is asked for the rest, within two budgets: what expressions
say of a new name, to put together a hello of several segments, and to read datagrams such as QUIC Initials.
"""

from __future__ import annotations

import numpy as np

from trafficrefinery.engine.connection import ahead
from trafficrefinery.engine.flow_cache import NAME_DONE
from trafficrefinery.jit import helper, inlined, table_at
from trafficrefinery.packets.parser import REASONS, u8
from trafficrefinery.services.budget import BUDGET, may_spend
from trafficrefinery.services.name_table import NAME_TABLES, UNKNOWN, decide_name, number_name
from trafficrefinery.services.names import FOUND, NEED_MORE, NO_ECH, UNKNOWN_VERSION, UNSURE
from trafficrefinery.services.names.hello import MAX_NAME_BYTES
from trafficrefinery.services.names.quic_datagrams import INITIAL_BYTES
from trafficrefinery.services.names.streams import LIMIT_BYTES
from trafficrefinery.services.source_readers import (
    DATAGRAMS_WANTED,
    STREAMS_WANTED,
    begins_in_stream,
    read_datagram,
    read_stream,
)
from trafficrefinery.services.sources import SOURCES, STRONGEST_FIRST, UDP
from trafficrefinery.services.special_names import ECH_PUBLIC_NAME, kinds_of

PASSED_LIMIT = 16 * 1024
"""Bytes of a flow, of both sides together, behind which no handshake begins any more."""

NOTHING, TOLD, ASK = 0, 1, 2
TO_BE_READ = -1
OF_NO_SERVICE = -2
"""In place of a service: a flow names its server, and that belongs to none."""
SIDE, BEGUN, ODD_VERSION, CUT = 3, 4, 8, 16
"""HEADER.hello: the side whose hello is being put together (1 a, 2 b, 0 nobody's); its start was seen; the flow was
counted for a version that is not read, and for datagrams that the capture cut."""
READY_UNIT_BYTES = 64
NAME_UNITS, DATAGRAM_UNITS = 4, 10
"""Cost in units of `budget.UNIT_US` when Python reads a piece of a hello, or decides a name (expressions are extra);
and when it reads a datagram."""

NAME_COUNTERS = {
    **{source.over_budget[0]: source.over_budget[1] for _, source in STRONGEST_FIRST},
    "hellos_unfinished": "Flows whose ClientHello was never completed.",
    "hellos_truncated": "Flows whose ClientHello is cut off by the snap length.",
    "quic_unknown_versions": "Flows that began with an unsupported version of QUIC.",
    "ech_offered": "Flows whose ClientHello has the Encrypted Client Hello extension, including GREASE.",
    "ech_public_names": "Flows whose ClientHello carries the public name of an ECH configuration, which is not used.",
}
_FIRST = len(REASONS)
HELLOS_UNFINISHED, HELLOS_TRUNCATED, QUIC_UNKNOWN, ECH_OFFERED, ECH_PUBLIC = range(
    _FIRST + len(STRONGEST_FIRST), _FIRST + len(NAME_COUNTERS)
)
_NUMBERS = [number for number, _ in STRONGEST_FIRST]
OVER_BUDGET = tuple(
    _FIRST + (_NUMBERS.index(number) if number in _NUMBERS else 0) for number in range(len(SOURCES) + 1)
)
"""Index of the counter of unread packets for each source; a piece of unknown source counts for the strongest one."""

NAMING = np.dtype(
    [
        ("name_at", "i8"),  # in the buffer, of a name that is asked for
        ("name_bytes", "i8"),  # TO_BE_READ: the packet is asked to be read
        ("ech", "i8"),
        ("by", "i8"),  # source of the name that is at hand or to be read, see `sources`
        ("service", "i8"),  # of a name that was decided; -1: none is known, OF_NO_SERVICE: it is the flow's own
        ("name_id", "i8"),
        ("kinds", "i8"),  # of that name, see `special_names`
        ("ask_units", "i8"),  # what expressions take for a name
        ("asks_all", "i8"),  # whether Python is asked about each name
        ("tables", "i8"),  # address of the NAME_TABLES
        ("special_names", "i8"),  # address of a `SpecialNames`
        ("text", "u1", (MAX_NAME_BYTES,)),  # the name in lower case
        ("names", BUDGET),
        ("quic", BUDGET),
    ],
    align=True,
)
"""What the loop asks of Python and what Python answers, what decides the service of a name, and the budgets."""


@inlined
def begin_search(h):
    """Nothing of a flow was looked at yet."""
    h.hello_a = 0
    h.hello_b = 0
    h.passed = 0
    h.hello = 0
    h.hello_ready = 0


@helper
def look_for_name(n, counters, h, r, buffer, wanted):
    """Look at a packet of a flow whose name is still to come.

    Args:
        n: NAMING.
        h: the flow's HEADER, whose marks get NAME_DONE when no packet after this one is to be looked at; `connection`
            has noted the packet in it.
        wanted: a bit for each source that is read, see `source_readers`.

    Returns:
        NOTHING; TOLD: `n` has the service of its name; ASK: Python must look a name up, or read the packet.
    """
    if r.fragment == 2:
        return NOTHING
    is_datagram = r.protocol == UDP
    if wanted & (DATAGRAMS_WANTED if is_datagram else STREAMS_WANTED) == 0:
        h.marks |= NAME_DONE
        return NOTHING
    if is_datagram:
        return _look_at_datagram(n, counters, h, r, buffer, wanted)
    return _look_at_segment(n, counters, h, r, buffer, wanted)


@helper
def _pass(counters, h, count):
    """These bytes of the flow are no piece of a hello."""
    passed = min(np.int64(h.passed) + np.int64(count), np.int64(0xFFFF))
    h.passed = np.uint16(passed)
    if passed >= PASSED_LIMIT:
        end_search(counters, h)


@helper
def end_search(counters, h):
    """No name will come any more; a hello that has begun is counted."""
    if h.marks & NAME_DONE == 0 and h.hello & BEGUN:
        counters[HELLOS_UNFINISHED] += 1
    h.marks |= NAME_DONE


@helper
def _ask(n, counters, budget, units, by, r):
    """Ask Python to read the packet, or count that it may not be asked now."""
    if may_spend(budget, r.watermark_ns, units + (r.captured_payload >> 11)):
        n.by = by
        n.name_bytes = TO_BE_READ
        return ASK
    counters[OVER_BUDGET[by]] += 1
    return NOTHING


@helper
def _tell(n, counters, h, r, buffer, name_at, name_bytes, ech):
    """A name was read from the packet, by `n.by`: decide its service, or ask for it."""
    n.ech = ech
    n.name_at = name_at
    n.name_bytes = name_bytes
    n.service = -1
    n.name_id = -1
    if name_bytes == 0:
        count_hello(counters, ech, False)
        h.marks |= NAME_DONE
        return NOTHING
    if n.asks_all == 0 and _decide(n, counters, buffer):
        h.marks |= NAME_DONE
        return TOLD
    if may_spend(n.names, r.watermark_ns, NAME_UNITS + n.ask_units):
        return ASK
    counters[OVER_BUDGET[n.by]] += 1
    return NOTHING


@helper
def _decide(n, counters, buffer):
    """Find the service of the name at hand; False when expressions have to be asked first."""
    count = min(n.name_bytes, MAX_NAME_BYTES)
    for i in range(count):
        byte = u8(buffer, n.name_at + i)
        n.text[i] = np.uint8(byte + 32 if 65 <= byte <= 90 else byte)
    t = table_at(n.tables, 1, NAME_TABLES)[0]
    service, hash_ = decide_name(t, n.text, 0, count, True)
    n.kinds = kinds_of(n.special_names, hash_)
    is_public = n.ech != NO_ECH and n.kinds & ECH_PUBLIC_NAME != 0
    if service == UNKNOWN and not is_public:
        return False
    if service < 0 and not is_public:
        n.service = OF_NO_SERVICE
    if service >= 0 and not is_public:
        n.service = service
        n.name_id = number_name(t, hash_, n.text, 0, count)
    count_hello(counters, n.ech, is_public)
    return True


@helper
def count_hello(counters, ech, is_public):
    """Count a hello that was read, for what it says of Encrypted Client Hello."""
    if ech == 1:
        counters[ECH_OFFERED] += 1
    if is_public:
        counters[ECH_PUBLIC] += 1


# TCP


@inlined
def _start(h, side):
    """Sequence number at which a hello of this side may begin."""
    if side == 1:
        return np.int64(h.base_a) + np.int64(h.hello_a)
    return np.int64(h.base_b) + np.int64(h.hello_b)


@helper
def _set_start(h, side, seq):
    """A hello of this side may begin at a sequence number. It stays where it is when that is too far away."""
    distance = ahead(seq, h.base_a if side == 1 else h.base_b)
    if abs(distance) > 0x7FFF:
        return
    if side == 1:
        h.hello_a = np.int16(distance)
    else:
        h.hello_b = np.int16(distance)


@helper
def _look_at_segment(n, counters, h, r, buffer, wanted):
    side = 1 if r.source_is_a else 2
    seq = np.int64(r.seq) + (1 if r.tcp_flags & 2 else 0)
    count = np.int64(r.payload_bytes)
    if count == 0:
        return NOTHING
    at = np.int64(r.payload_offset)
    end = at + np.int64(r.captured_payload)
    assembles = h.hello & SIDE == side
    if not assembles and begins_in_stream(buffer, at, end, wanted):
        _set_start(h, side, seq)
    distance = ahead(seq, _start(h, side))
    if distance + count <= (np.int64(h.hello_ready) * READY_UNIT_BYTES if assembles else 0):
        return NOTHING  # a retransmission
    if distance >= LIMIT_BYTES:
        _pass(counters, h, count)
        return NOTHING
    if assembles or distance > 0:  # a piece of a hello, or one whose start is still to come
        return _read_piece(n, counters, h, r, side, 0)
    return _look_at_start(n, counters, h, r, buffer, at - distance, wanted)


@helper
def _read_piece(n, counters, h, r, side, by):
    if _ask(n, counters, n.names, NAME_UNITS, by, r) == NOTHING:
        return NOTHING
    if h.hello & SIDE != side:
        h.hello = np.uint8((h.hello & (ODD_VERSION | CUT)) | side)
        h.hello_ready = 0
    return ASK


@helper
def _look_at_start(n, counters, h, r, buffer, at, wanted):
    """A segment that reaches the place where a hello may begin, at `at` in the buffer."""
    side = 1 if r.source_is_a else 2
    payload_at = np.int64(r.payload_offset)
    end = payload_at + np.int64(r.captured_payload)
    behind = payload_at + np.int64(r.payload_bytes)
    seq = np.int64(r.seq) + (1 if r.tcp_flags & 2 else 0) - payload_at  # of buffer[0]
    is_cut = end < behind
    by, status, begins, name_at, name_bytes, ech = read_stream(buffer, at, end, wanted)
    if begins >= end:
        behind = max(behind, begins)  # of a header that goes on
    else:
        at = begins
        if status == FOUND:
            n.by = by
            what = _tell(n, counters, h, r, buffer, name_at, name_bytes, ech)
            if what != NOTHING or h.marks & NAME_DONE:
                return what
        elif (status == NEED_MORE or status == UNSURE) and is_cut:
            return _give_up_cut(counters, h)
        elif status == NEED_MORE or status == UNSURE:
            _set_start(h, side, seq + at)
            if _read_piece(n, counters, h, r, side, by) == ASK:
                if status == NEED_MORE:
                    h.hello |= BEGUN
                return ASK
    _set_start(h, side, seq + behind)
    _pass(counters, h, behind - at)
    return NOTHING


@helper
def _give_up_cut(counters, h):
    """The capture has cut off what would have the name."""
    counters[HELLOS_TRUNCATED] += 1
    h.marks |= NAME_DONE
    return NOTHING


# UDP


@helper
def _look_at_datagram(n, counters, h, r, buffer, wanted):
    at = np.int64(r.payload_offset)
    end = at + np.int64(r.captured_payload)
    by, status, _, name_at, name_bytes, ech = read_datagram(buffer, at, end, wanted, r)
    if status == FOUND:
        n.by = by
        return _tell(n, counters, h, r, buffer, name_at, name_bytes, ech)
    if status == NEED_MORE:
        if h.hello & SIDE == (2 if r.source_is_a else 1):
            return NOTHING  # the server's
        if r.captured_payload >= r.payload_bytes:
            return _ask(n, counters, n.quic, DATAGRAM_UNITS, by, r)
        if h.hello & CUT == 0:
            h.hello |= CUT
            counters[HELLOS_TRUNCATED] += 1
    if status == UNKNOWN_VERSION and h.hello & ODD_VERSION == 0:
        h.hello |= ODD_VERSION
        counters[QUIC_UNKNOWN] += 1
    h.passed = np.uint16(min(np.int64(h.passed) + np.int64(r.payload_bytes), np.int64(0xFFFF)))
    return NOTHING


@helper
def begins_anew(h, r, buffer, wanted):
    """Whether a datagram is to be looked at in a flow whose search rests: it can be of a client's hello.

    Few bytes are looked at, as most packets of a long flow come here.
    """
    if r.payload_bytes < INITIAL_BYTES or r.captured_payload < 16 or wanted & DATAGRAMS_WANTED == 0:
        return False
    at = np.int64(r.payload_offset)
    if u8(buffer, at) & 0x80 == 0 or r.fragment == 2 or h.hello & SIDE == (2 if r.source_is_a else 1):
        return False
    _, status, _, _, _, _ = read_datagram(buffer, at, at + np.int64(r.captured_payload), wanted, r)
    return status == NEED_MORE or status == FOUND
