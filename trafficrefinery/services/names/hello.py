"""Compiled readers of the TLS ClientHello (RFC 8446, 4.1.2).

They find the server name and whether the hello offers Encrypted Client Hello (RFC 9849). Nothing is read at or behind
`end`, which is at most the length of the buffer.

Several functions return a hello's `status` (a `Status` as a number), where its name starts in the buffer, its bytes
(0: none), and whether it offers ECH: NO_ECH, HAS_ECH, or MAY_HAVE_ECH when it is cut before its last extension.
"""

from __future__ import annotations

import numpy as np

from trafficrefinery.jit import helper, inlined
from trafficrefinery.packets.layers import u8, u16

from . import FOUND, HAS_ECH, MAY_HAVE_ECH, NEED_MORE, NO_ECH, NOT_FOUND, OTHER, UNSURE

NOWHERE, BEGINS_PROXY_HEADER = -1, -2
MAX_RECORD_BYTES = 16384 + 2048
MAX_NAME_BYTES = 255
_CLIENT_HELLO, _HANDSHAKE = 1, 22
_SERVER_NAME, _ECH = 0, 0xFE0D
_SURE_BYTES = 6  # of a record's start, that decide whether a ClientHello begins there
_PROXY_HEADER_BYTES = 16


@inlined
def _u24(buffer, i):
    return u8(buffer, i) << 16 | u16(buffer, i + 1)


@helper
def starts_hello(buffer, at, end):
    """Whether the bytes from `at` can be the start of a record with a ClientHello; six bytes decide surely."""
    count = end - at
    if count <= 0 or u8(buffer, at) != _HANDSHAKE:
        return False
    if (count > 1 and u8(buffer, at + 1) != 3) or (count > 2 and u8(buffer, at + 2) > 4):
        return False
    if count >= 5 and not 0 < u16(buffer, at + 3) <= MAX_RECORD_BYTES:
        return False
    return count < _SURE_BYTES or u8(buffer, at + 5) == _CLIENT_HELLO


@helper
def surely_starts_hello(buffer, at, end):
    """Whether a ClientHello starts at `at`, by enough bytes to be sure."""
    return end - at >= _SURE_BYTES and starts_hello(buffer, at, end)


@helper
def find_hello(buffer, at, end):
    """Where a ClientHello starts in a piece of a stream: at its start, or behind what a proxy or a client says first.

    That is a header of the PROXY protocol, version 1 or 2, or any lines of text (CONNECT, STARTTLS).

    Returns:
        The position, where fewer than six bytes may be there (none, or not even the place, when a PROXY header ends
        behind the piece); NOWHERE; or BEGINS_PROXY_HEADER when what is there can be the start of one of version 2.
    """
    if at >= end:
        return NOWHERE
    if u8(buffer, at) == _HANDSHAKE:
        return at if starts_hello(buffer, at, end) else NOWHERE
    if _may_be_proxy_header(buffer, at, end):
        if end - at < _PROXY_HEADER_BYTES:
            return BEGINS_PROXY_HEADER
        behind = at + _PROXY_HEADER_BYTES + u16(buffer, at + 14)
        return behind if behind >= end or starts_hello(buffer, behind, end) else NOWHERE
    position = at
    while position < end and _is_text(u8(buffer, position)):
        position += 1
    if at < position < end and u8(buffer, position - 1) == 10 and starts_hello(buffer, position, end):
        return position
    return NOWHERE


@inlined
def _is_text(byte):
    return 32 <= byte < 127 or byte == 10 or byte == 13 or byte == 9


@helper
def _may_be_proxy_header(buffer, at, end):
    """The signature of the PROXY protocol, version 2: CR LF CR LF NUL CR LF QUIT LF, as far as the bytes go."""
    for i in range(min(12, end - at)):
        expected = 10
        if i == 0 or i == 2 or i == 5:
            expected = 13
        elif i == 4:
            expected = 0
        elif i == 7:
            expected = 81
        elif i == 8:
            expected = 85
        elif i == 9:
            expected = 73
        elif i == 10:
            expected = 84
        if u8(buffer, at + i) != expected:
            return False
    return True


@helper
def read_hello(buffer, at, end):
    """Read the ClientHello of the first record from `at`. NEED_MORE also when it goes on in further records."""
    if not starts_hello(buffer, at, end):
        return OTHER, at, 0, NO_ECH
    if end - at < _SURE_BYTES:
        return NEED_MORE, at, 0, NO_ECH
    return read_message(buffer, at + 5, min(end, at + 5 + u16(buffer, at + 3)))


@helper
def read_message(buffer, at, end):
    """Read a handshake message from its type byte."""
    count = end - at
    if (count > 0 and u8(buffer, at) != _CLIENT_HELLO) or (count > 4 and u8(buffer, at + 4) != 3):
        return OTHER, at, 0, NO_ECH
    if count < 6:
        return NEED_MORE, at, 0, NO_ECH
    message_end = at + 4 + _u24(buffer, at + 1)
    cut = NOT_FOUND if message_end <= end else NEED_MORE  # what it means that something is not there
    end = min(end, message_end)
    position = at + 4 + 2 + 32  # behind version and random
    for width in range(3):  # session id, cipher suites, compression methods
        if position + 2 > end:  # a length, or one byte and more behind it
            return _shortest(position + 1 == message_end == end and width == 2, cut, at, buffer, position)
        if width == 1:
            position += 2 + u16(buffer, position)
        else:
            position += 1 + u8(buffer, position)
    if position == message_end:
        return FOUND, at, 0, NO_ECH  # without extensions, as in SSL 3
    if position + 2 > end:
        return cut, at, 0, NO_ECH
    return _read_extensions(buffer, position + 2, position + 2 + u16(buffer, position), end, cut)


@helper
def _shortest(is_last, cut, at, buffer, position):
    """A hello that ends with an empty list of compression methods; else it is cut."""
    if is_last and u8(buffer, position) == 0:
        return FOUND, at, 0, NO_ECH
    return cut, at, 0, NO_ECH


@helper
def _read_extensions(buffer, position, behind, end, cut):
    """The extensions from `position` to `behind`, of which those before `end` are there."""
    name_at = position
    name_bytes = np.int64(0)
    has_name = False
    ech = NO_ECH
    while position < behind:
        if position + 4 > end or position + 4 + u16(buffer, position + 2) > end:
            if ech == NO_ECH:
                ech = MAY_HAVE_ECH
            return (FOUND if name_bytes > 0 else cut), name_at, name_bytes, ech
        kind = u16(buffer, position)
        start = position + 4
        position = start + u16(buffer, position + 2)
        if kind == _SERVER_NAME and not has_name:
            has_name = True
            name_at, name_bytes = _server_name(buffer, start, position)
        elif kind == _ECH:
            ech = HAS_ECH
    return FOUND, name_at, name_bytes, ech


@helper
def _server_name(buffer, at, end):
    """The host name of a server_name extension (RFC 6066, section 3)."""
    position = at + 2  # behind the length of the list
    while position + 3 <= end:
        start = position + 3
        kind = u8(buffer, position)
        position = start + u16(buffer, position + 1)
        if position > end:
            break
        if kind == 0:
            return start, printable_bytes(buffer, start, position)
    return at, np.int64(0)


@helper
def printable_bytes(buffer, at, end):
    """The length of a name without its final dots, or 0 when it can be none: as `names.printable_name`."""
    while end > at and u8(buffer, end - 1) == 46:
        end -= 1
    if end - at > MAX_NAME_BYTES:
        return np.int64(0)
    for i in range(at, end):
        if u8(buffer, i) < 0x21 or u8(buffer, i) > 0x7E:
            return np.int64(0)
    return np.int64(end - at)


@helper
def read_first_record(buffer, at, end):
    """Read a piece of a stream of which `at` is the start, as `sources.FlowSource.read` does."""
    hello = find_hello(buffer, at, end)
    if hello < 0 or hello >= end:
        return _nowhere(hello, at)
    status, name_at, name_bytes, ech = read_hello(buffer, hello, end)
    return status, hello, name_at, name_bytes, ech


@helper
def _nowhere(hello, at):
    """No hello begins in the piece, as far as it is there."""
    if hello == NOWHERE:
        return OTHER, at, 0, 0, NO_ECH
    return UNSURE, (at if hello == BEGINS_PROXY_HEADER else hello), 0, 0, NO_ECH


@helper
def read_records(stream, at, end):
    """The same of a stream that was put together: a hello may be spread over several records.

    Their content is moved together at the start of the stream.
    """
    hello = find_hello(stream, at, end)
    if hello < 0 or hello >= end:
        return _nowhere(hello, at)
    position = hello
    filled = np.int64(0)
    damaged = False
    while position < end and not damaged:
        if stream[position] != _HANDSHAKE or (position + 1 < end and stream[position + 1] != 3):
            damaged = True
            break
        if position + 5 > end:
            break
        record_end = position + 5 + u16(stream, position + 3)
        damaged = record_end - position - 5 > MAX_RECORD_BYTES
        for i in range(position + 5, min(record_end, end)):
            stream[filled] = stream[i]
            filled += 1
        position = record_end
        if filled >= 4 and filled >= 4 + _u24(stream, 0):
            break  # what follows the hello is not looked at
    status, name_at, name_bytes, ech = read_message(stream, 0, filled)
    if damaged and status == NEED_MORE:
        return OTHER, hello, 0, 0, NO_ECH
    return status, hello, name_at, name_bytes, ech
