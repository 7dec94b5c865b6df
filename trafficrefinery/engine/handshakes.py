"""What a flow's packets say of its server's name, read in the packet loop: which packet tells it, and when none will.

What ends the search is evidence alone: the hello was read; or a flow's packets held PASSED_LIMIT bytes that are
neither a hello nor a piece of one. Retransmissions are not counted, and neither are packets or time.

A hello that lies in one segment, and a CHLO of Google's QUIC, which is in the clear, are read here, and the service of
their name is decided. Python is asked for the rest, within two budgets: what expressions say of a new name, to put
together a hello of several segments, and to decrypt QUIC Initials.
"""

from __future__ import annotations

import numpy as np

from trafficrefinery.jit import helper, inlined, table_at
from trafficrefinery.packets.wire import REASONS, u8, u32
from trafficrefinery.services.budget import BUDGET, may_spend
from trafficrefinery.services.name_table import NAME_TABLES, UNKNOWN, decide_name, number_name
from trafficrefinery.services.names.hello import (
    BEGINS_PROXY_HEADER,
    FOUND,
    MAX_NAME_BYTES,
    NEED_MORE,
    NO_ECH,
    NOWHERE,
    find_google_hello,
    find_hello,
    read_google_hello,
    read_hello,
    surely_starts_hello,
)
from trafficrefinery.services.special_names import ECH_PUBLIC_NAME, kinds_of

from .connection import ahead
from .flow_cache import BY_QUIC_SNI, BY_SNI, NAME_DONE

PASSED_LIMIT = 16 * 1024
"""Bytes of a flow, of both sides together, behind which no handshake begins any more."""
ASSEMBLY_LIMIT = 16 * 1024
"""Bytes of a stream from the start of a hello, or of CRYPTO frames, that a hello is looked for in."""

NO_NAMES, TLS_ONLY, TLS_AND_QUIC = 0, 1, 2
"""What is read: control READ_NAMES of the packet loop."""
NOTHING, TOLD, ASK = 0, 1, 2
TO_BE_READ = -1
SIDE, BEGUN, ODD_VERSION = 3, 4, 8
"""HEADER.hello: the side whose hello is being put together (1 a, 2 b, 0 nobody's); its start was seen; the flow was
counted for a version of QUIC that is not read."""
READY_UNIT_BYTES = 64

NAME_COUNTERS = {
    "hellos_over_budget": "ClientHellos in TCP, or pieces of them, that were not read because there were too many.",
    "quic_over_budget": "QUIC datagrams that were not decrypted because there were too many.",
    "hellos_unfinished": "Flows whose ClientHello began and did not go on.",
    "hellos_truncated": "Flows whose ClientHello is cut off by the snap length.",
    "quic_unknown_versions": "Flows that began with a version of QUIC that is not read.",
    "ech_offered": "Flows whose ClientHello has the extension of Encrypted Client Hello, GREASE included.",
    "ech_public_names": "Flows whose ClientHello names an ECH configuration's public name, which is not used.",
}
(
    HELLOS_OVER_BUDGET, QUIC_OVER_BUDGET, HELLOS_UNFINISHED, HELLOS_TRUNCATED, QUIC_UNKNOWN, ECH_OFFERED, ECH_PUBLIC,
) = range(len(REASONS), len(REASONS) + len(NAME_COUNTERS))  # fmt: skip

NAMING = np.dtype(
    [
        ("name_at", "i8"),  # in the buffer, of a name that is asked for
        ("name_bytes", "i8"),  # TO_BE_READ: the packet is asked to be read
        ("ech", "i8"),
        ("by", "i8"),
        ("service", "i8"),  # of a name that was decided; -1: none
        ("name_id", "i8"),
        ("kinds", "i8"),  # of that name, see `specialnames`
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


@helper
def is_quic_version(version):
    """Whether `names.quic` has the keys of a version: QUIC 1 and 2, drafts, Facebook's, Google's with protected
    Initials; and those that force a version negotiation."""
    return (
        version == 1
        or version == 0x6B3343CF
        or 0xFF000016 <= version <= 0xFF000022
        or version == 0xFACEB001
        or version == 0xFACEB002
        or version == 0xFACEB00E
        or version == 0x51303530
        or version == 0x54303530
        or version == 0x54303531
        or version & 0x0F0F0F0F == 0x0A0A0A0A
    )


@inlined
def begin_search(h):
    """Nothing of a flow was looked at yet."""
    h.hello_a = 0
    h.hello_b = 0
    h.passed = 0
    h.hello = 0
    h.hello_ready = 0


@helper
def look_for_name(n, counters, h, r, buffer, mode):
    """Look at a packet of a flow whose name is still to come.

    Args:
        n: NAMING.
        h: the flow's HEADER, whose marks get NAME_DONE when no packet after this one is to be looked at; `connection`
            has noted the packet in it.
        mode: TLS_ONLY or TLS_AND_QUIC.

    Returns:
        NOTHING; TOLD: `n` has the service of its name; ASK: Python must look a name up, or read the packet.
    """
    if r.fragment == 2:
        return NOTHING
    if r.protocol == 17:
        if mode != TLS_AND_QUIC:
            h.marks |= NAME_DONE
            return NOTHING
        return _look_at_datagram(n, counters, h, r, buffer)
    return _look_at_segment(n, counters, h, r, buffer)


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
def _ask(n, counters, h, budget, counter, r):
    """Whether Python may be asked now; else it is counted."""
    if may_spend(budget, r.watermark_ns, 1 + (r.captured_payload >> 11)):
        return True
    counters[counter] += 1
    return False


@helper
def _tell(n, counters, h, r, buffer, name_at, name_bytes, ech):
    """A name was read from the packet: decide its service, or ask for it."""
    quic = r.protocol == 17
    n.by = BY_QUIC_SNI if quic else BY_SNI
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
    if may_spend(n.names, r.watermark_ns, 1):
        return ASK
    counters[QUIC_OVER_BUDGET if quic else HELLOS_OVER_BUDGET] += 1
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
def _look_at_segment(n, counters, h, r, buffer):
    side = 1 if r.source_is_a else 2
    seq = np.int64(r.seq) + (1 if r.tcp_flags & 2 else 0)
    count = np.int64(r.payload_bytes)
    if count == 0:
        return NOTHING
    at = np.int64(r.payload_offset)
    end = at + np.int64(r.captured_payload)
    assembles = h.hello & SIDE == side
    if not assembles and surely_starts_hello(buffer, at, end):
        _set_start(h, side, seq)
    distance = ahead(seq, _start(h, side))
    if distance + count <= (np.int64(h.hello_ready) * READY_UNIT_BYTES if assembles else 0):
        return NOTHING  # a retransmission
    if distance >= ASSEMBLY_LIMIT:
        _pass(counters, h, count)
        return NOTHING
    if assembles or distance > 0:  # a piece of a hello, or one whose start is still to come
        return _read_piece(n, counters, h, r, side)
    return _look_at_start(n, counters, h, r, buffer, at - distance)


@helper
def _read_piece(n, counters, h, r, side):
    if not _ask(n, counters, h, n.names, HELLOS_OVER_BUDGET, r):
        return NOTHING
    if h.hello & SIDE != side:
        h.hello = np.uint8((h.hello & ODD_VERSION) | side)
        h.hello_ready = 0
    n.by = BY_SNI
    n.name_bytes = TO_BE_READ
    return ASK


@helper
def _look_at_start(n, counters, h, r, buffer, at):
    """A segment that reaches the place where a hello may begin, at `at` in the buffer."""
    side = 1 if r.source_is_a else 2
    payload_at = np.int64(r.payload_offset)
    end = payload_at + np.int64(r.captured_payload)
    count = np.int64(r.payload_bytes)
    seq = np.int64(r.seq) + (1 if r.tcp_flags & 2 else 0) - payload_at  # of buffer[0]
    cut = end < payload_at + count
    what = NOTHING
    hello = find_hello(buffer, at, end)
    behind = payload_at + count
    if hello >= end:
        behind = max(behind, hello)  # of a header that goes on
    elif hello != NOWHERE:
        status, name_at, name_bytes, ech = NEED_MORE, at, np.int64(0), 0
        if hello != BEGINS_PROXY_HEADER:
            status, name_at, name_bytes, ech = read_hello(buffer, hello, end)
            at = hello
        if status == FOUND:
            what = _tell(n, counters, h, r, buffer, name_at, name_bytes, ech)
            if what != NOTHING or h.marks & NAME_DONE:
                return what
        elif status == NEED_MORE and cut:
            counters[HELLOS_TRUNCATED] += 1
            h.marks |= NAME_DONE
            return NOTHING
        elif status == NEED_MORE:
            _set_start(h, side, seq + at)
            if _read_piece(n, counters, h, r, side) == ASK:
                if hello != BEGINS_PROXY_HEADER:
                    h.hello |= BEGUN
                return ASK
    _set_start(h, side, seq + behind)
    _pass(counters, h, behind - at)
    return NOTHING


# QUIC


@helper
def _look_at_datagram(n, counters, h, r, buffer):
    at = np.int64(r.payload_offset)
    end = at + np.int64(r.captured_payload)
    count = np.int64(r.payload_bytes)
    if end - at >= 16:
        first = u8(buffer, at)
        version = u32(buffer, at + 1)
        if first & 0x89 == 0x09:
            version = u32(buffer, at + 9)  # Google's public header, with a connection id of 8 bytes
        if version >> 16 == 0x5130 and version != 0x51303530 and (first & 0x80 or first & 0x09 == 0x09):
            hello = find_google_hello(buffer, at, end)
            if hello != NOWHERE:
                return _read_chlo(n, counters, h, r, buffer, hello)
        elif first & 0x80 and is_quic_version(version):
            if count >= 1200:
                return _read_initial(n, counters, h, r)
        elif first & 0xC0 == 0xC0 and version != 0 and count >= 1200 and (r.src_port == 443 or r.dst_port == 443):
            _count_version(counters, h, buffer, at, end)
    _pass(counters, h, count)
    return NOTHING


@helper
def _count_version(counters, h, buffer, at, end):
    """Count a flow for a version that is not read, if this can be a client's packet (RFC 9000, sections 7.2, 17.2)."""
    id_bytes = np.int64(u8(buffer, at + 5))
    behind = at + 6 + id_bytes
    if h.hello & ODD_VERSION == 0 and 8 <= id_bytes <= 20 and behind < end and u8(buffer, behind) <= 20:
        h.hello |= ODD_VERSION
        counters[QUIC_UNKNOWN] += 1


@helper
def _read_chlo(n, counters, h, r, buffer, hello):
    payload_at = np.int64(r.payload_offset)
    end = payload_at + np.int64(r.captured_payload)
    status, name_at, name_bytes, ech = read_google_hello(buffer, hello, end)
    if status == FOUND:
        return _tell(n, counters, h, r, buffer, name_at, name_bytes, ech)
    if status == NEED_MORE and r.captured_payload < r.payload_bytes:
        counters[HELLOS_TRUNCATED] += 1
        h.marks |= NAME_DONE
    else:
        _pass(counters, h, r.payload_bytes)
    return NOTHING


@helper
def _read_initial(n, counters, h, r):
    """A datagram that may hold an Initial of the client."""
    side = 1 if r.source_is_a else 2
    if h.hello & SIDE == 3 - side:
        return NOTHING  # the server's
    if r.captured_payload < r.payload_bytes:
        counters[HELLOS_TRUNCATED] += 1
        h.marks |= NAME_DONE
        return NOTHING
    if not _ask(n, counters, h, n.quic, QUIC_OVER_BUDGET, r):
        return NOTHING
    n.by = BY_QUIC_SNI
    n.name_bytes = TO_BE_READ
    return ASK
