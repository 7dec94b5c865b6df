"""DNS messages in compiled code: what `messages` reads, for messages of ordinary size (RFC 1035, 2181, 3596, 9460).

What a message may cost is bounded by the MESSAGE that it is read into; a larger one is left to `messages`. Of a
damaged message, what lies before the damage counts.
"""

from __future__ import annotations

import numpy as np

from trafficrefinery.jit import helper
from trafficrefinery.packets.layers import u16, u32, u64
from trafficrefinery.services.name_table import text_hash

MAX_NAMES, MAX_ALIASES, MAX_ADDRESSES, MAX_RECORDS, MAX_QUESTIONS, MAX_POINTERS = 16, 12, 96, 128, 4, 16
TEXT_BYTES = 1024
NOT_DNS, READ, TOO_LARGE = 0, 1, 2
"""What came of reading: nothing, a MESSAGE, or a message that `messages` has to read."""

MESSAGE = np.dtype(
    [
        ("id", "i8"), ("is_response", "i8"), ("qtype", "i8"), ("complete", "i8"),
        ("names", "i8"), ("text_bytes", "i8"), ("aliases", "i8"), ("addresses", "i8"), ("questions", "i8"),
        ("place", "i8", (MAX_NAMES,)),  # where a name stands in the message, from its start
        ("name_hash", "u8", (MAX_NAMES,)),
        ("name_start", "i4", (MAX_NAMES,)),  # in `text`
        ("name_bytes", "i4", (MAX_NAMES,)),
        ("asked", "u1", (MAX_NAMES,)),
        ("alias_owner", "i4", (MAX_ALIASES,)), ("alias_target", "i4", (MAX_ALIASES,)),
        ("alias_ttl_s", "i8", (MAX_ALIASES,)),
        ("address_owner", "i4", (MAX_ADDRESSES,)), ("address_ttl_s", "i8", (MAX_ADDRESSES,)),
        ("address_hi", "u8", (MAX_ADDRESSES,)), ("address_lo", "u8", (MAX_ADDRESSES,)),
        ("text", "u1", (TEXT_BYTES,)),
    ],
    align=True,
)  # fmt: skip
"""A message. Names are numbered in the order in which they come; aliases and addresses speak of them by number."""

_DAMAGED, _LARGE = -1, -2  # in place of a name's number
_A, _NS, _CNAME, _PTR, _AAAA, _DNAME, _SVCB, _HTTPS = 1, 2, 5, 12, 28, 39, 64, 65
_HEADER_BYTES = 12
_MAPPED = np.uint64(0xFFFF_0000_0000)


@helper
def read_header(buffer, start, end, m):
    """Begin a MESSAGE with what a header says; False when these bytes cannot be a standard query or its response."""
    m.names = 0
    m.text_bytes = 0
    m.aliases = 0
    m.addresses = 0
    m.questions = 0
    m.complete = 0
    m.qtype = -1
    if end - start < _HEADER_BYTES:
        return False
    flags = u16(buffer, start + 2)
    m.id = u16(buffer, start)
    m.is_response = flags >> 15
    return (flags >> 11) & 0xF == 0


@helper
def read_questions(buffer, start, end, seed, m):
    """Read the questions of a message whose header was read.

    Returns:
        What came of it, and where the answers begin; that is -1 when the message is damaged before them.
    """
    questions = u16(buffer, start + 4)
    at = start + _HEADER_BYTES
    if questions > MAX_QUESTIONS:
        return TOO_LARGE, at
    for _ in range(questions):
        name, at = read_name(buffer, start, end, at, seed, m)
        if name == _LARGE:
            return TOO_LARGE, at
        if name == _DAMAGED or at + 2 > end:
            return READ if m.questions > 0 else NOT_DNS, np.int64(-1)
        if m.questions == 0:
            m.qtype = u16(buffer, at)
        m.asked[name] = 1
        m.questions += 1
        at += 4
    return READ, at


@helper
def read_answers(buffer, start, end, at, seed, m):
    """Read the answers, which begin at `at`; what came of it."""
    answers = u16(buffer, start + 6)
    if answers > MAX_RECORDS:
        return TOO_LARGE
    for number in range(answers):
        status, at = _answer(buffer, start, end, at, seed, m)
        if status == TOO_LARGE:
            return TOO_LARGE
        if status == NOT_DNS:
            return READ if m.questions > 0 or number > 0 else NOT_DNS
    m.complete = 1
    return READ


@helper
def _answer(buffer, start, end, at, seed, m):
    """Read one record: READ, TOO_LARGE, or NOT_DNS for damage; and where the next one begins."""
    owner, at = read_name(buffer, start, end, at, seed, m)
    if owner == _LARGE:
        return TOO_LARGE, at
    if owner == _DAMAGED or at + 10 > end:
        return NOT_DNS, at
    rtype = u16(buffer, at)
    is_internet = u16(buffer, at + 2) & 0x7FFF == 1  # the top bit is multicast DNS's cache flush
    ttl_s = u32(buffer, at + 4)
    if ttl_s >= 1 << 31:  # RFC 2181, 8
        ttl_s = 0
    count = u16(buffer, at + 8)
    data = at + 10
    stop = data + count
    address_bytes = 4 if rtype == _A else 16 if rtype == _AAAA else 0
    if stop > end or (address_bytes > 0 and is_internet and count != address_bytes):
        return NOT_DNS, at
    if rtype == _CNAME or rtype == _NS or rtype == _PTR or rtype == _DNAME:
        target, _ = read_name(buffer, start, end, data, seed, m)
        if target == _LARGE or (rtype == _CNAME and m.aliases >= MAX_ALIASES):
            return TOO_LARGE, at
        if target == _DAMAGED:
            return NOT_DNS, at
        if rtype == _CNAME:
            _add_alias(m, owner, target, ttl_s)
    elif address_bytes > 0 and is_internet:
        if not _add_address(m, owner, buffer, data, count, ttl_s):
            return TOO_LARGE, at
    elif (
        (rtype == _HTTPS or rtype == _SVCB) and is_internet and _is_binding(buffer, data, stop)
        and not _binding(buffer, start, data, stop, owner, ttl_s, seed, m)
    ):  # fmt: skip
        return TOO_LARGE, at
    return READ, stop


@helper
def _add_alias(m, owner, target, ttl_s):
    m.alias_owner[m.aliases] = np.int32(owner)
    m.alias_target[m.aliases] = np.int32(target)
    m.alias_ttl_s[m.aliases] = ttl_s
    m.aliases += 1


@helper
def _add_address(m, owner, buffer, at, count, ttl_s):
    if m.addresses >= MAX_ADDRESSES:
        return False
    m.address_owner[m.addresses] = np.int32(owner)
    m.address_ttl_s[m.addresses] = ttl_s
    if count == 4:
        m.address_hi[m.addresses] = np.uint64(0)
        m.address_lo[m.addresses] = _MAPPED | np.uint64(u32(buffer, at))
    else:
        m.address_hi[m.addresses] = u64(buffer, at)
        m.address_lo[m.addresses] = u64(buffer, at + 8)
    m.addresses += 1
    return True


@helper
def _binding(buffer, start, at, stop, owner, ttl_s, seed, m):
    """A service binding (RFC 9460, 2): its target is an alias of its owner, its hints are addresses of the target.

    False when the message is too large, or has a configuration of ECH, which `ech` reads.
    """
    is_alias = u16(buffer, at) == 0  # AliasMode, whose parameters say nothing
    target, at = read_name(buffer, start, stop, at + 2, seed, m)
    if target < 0 or m.aliases >= MAX_ALIASES:
        return False
    if m.name_bytes[target] == 0:  # the root: the owner itself
        target = np.int64(owner)
    else:
        _add_alias(m, owner, target, ttl_s)
    while at + 4 <= stop and not is_alias:
        key = u16(buffer, at)
        end = at + 4 + u16(buffer, at + 2)
        width = 4 if key == 4 else 16
        if key == 5:
            return False
        if key == 4 or key == 6:
            for hint in range(at + 4, end, width):
                if not _add_address(m, target, buffer, hint, width, ttl_s):
                    return False
        at = end
    return True


@helper
def _is_binding(buffer, at, stop):
    """Whether a record's data are a priority, a name without pointers, and whole parameters with whole hints.

    Data that are not say nothing; the message goes on behind them.
    """
    at += 2
    wire_bytes = np.int64(1)
    while True:
        if at >= stop or buffer[at] > 63:
            return False
        count = np.int64(buffer[at])
        at += 1 + count
        if count == 0:
            break
        wire_bytes += 1 + count
    if wire_bytes > 255:
        return False
    while at + 4 <= stop:
        key = u16(buffer, at)
        count = u16(buffer, at + 2)
        at += 4 + count
        if (key == 4 and count % 4 != 0) or (key == 6 and count % 16 != 0):
            return False
    return at == stop


@helper
def read_name(buffer, start, end, at, seed, m):
    """Read a name in lower case into a MESSAGE; its number there, or a negative one, and where it ends.

    A pointer leads backwards from the name or piece that it ends, so that this comes to an end (RFC 1035, 4.1.4).
    """
    if at + 2 <= end and buffer[at] >= 0xC0:
        target = ((np.int64(buffer[at]) & 0x3F) << 8) | np.int64(buffer[at + 1])
        for number in range(m.names):
            if m.place[number] == target and start + target < at:
                return np.int64(number), at + 2
    text = m.text
    begin = m.text_bytes
    out = begin
    position = piece = np.int64(at)
    after = np.int64(-1)
    wire_bytes = np.int64(1)
    pointers = 0
    while True:
        if position >= end:
            return np.int64(_DAMAGED), at
        count = np.int64(buffer[position])
        if count == 0:
            break
        if count >= 0xC0:
            if position + 1 >= end:
                return np.int64(_DAMAGED), at
            target = start + (((count & 0x3F) << 8) | np.int64(buffer[position + 1]))
            if target >= piece:
                return np.int64(_DAMAGED), at
            pointers += 1
            if pointers > MAX_POINTERS:
                return np.int64(_LARGE), at
            if after < 0:
                after = position + 2
            position = target
            piece = target
            continue
        wire_bytes += 1 + count
        if count > 63 or position + 1 + count > end or wire_bytes > 255:
            return np.int64(_DAMAGED), at
        if out + 1 + 4 * count > TEXT_BYTES:
            return np.int64(_LARGE), at
        if out > begin:
            text[out] = 46
            out += 1
        out = _add_label(text, out, buffer, position + 1, count)
        position += 1 + count
    if after < 0:
        after = position + 1
    return _number(m, begin, out, at - start, seed), after


@helper
def _add_label(text, out, buffer, at, count):
    """A label in lower case; a byte that is not printed, a dot or a backslash is a decimal escape. Where it ends."""
    for i in range(at, at + count):
        byte = np.int64(buffer[i])
        if byte >= 65 and byte <= 90:
            byte += 32
        if byte >= 0x21 and byte <= 0x7E and byte != 46 and byte != 92:
            text[out] = byte
            out += 1
        else:
            text[out] = 92
            text[out + 1] = 48 + byte // 100
            text[out + 2] = 48 + byte // 10 % 10
            text[out + 3] = 48 + byte % 10
            out += 4
    return out


@helper
def _number(m, begin, out, place, seed):
    """The number of the name in `text[begin:out]`: of the same name before, or a new one."""
    hash_ = text_hash(seed, m.text, begin, out - begin)
    for other in range(m.names):
        if m.name_hash[other] == hash_ and m.name_bytes[other] == out - begin:
            return np.int64(other)
    if m.names >= MAX_NAMES:
        return np.int64(_LARGE)
    number = np.int64(m.names)
    m.place[number] = place
    m.name_hash[number] = hash_
    m.name_start[number] = np.int32(begin)
    m.name_bytes[number] = np.int32(out - begin)
    m.asked[number] = 0
    m.names += 1
    m.text_bytes = out
    return number
