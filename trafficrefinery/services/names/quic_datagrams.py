"""Compiled readers of QUIC: which datagrams are Initials of clients, and Google's CHLO, which is in the clear."""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.jit import borrowed, helper, kernel
from trafficrefinery.packets.layers import u8, u16_little, u32, u32_little

from . import FOUND, NEED_MORE, NO_ECH, NOT_FOUND, OTHER, UNKNOWN_VERSION
from .hello import NOWHERE, printable_bytes, read_message

_SNI_TAG = 0x494E53  # "SNI\0" as a little-endian number
_CHLO_WITHIN = 64  # bytes from the start of a datagram: header, hash and stream frame take 50 at most
INITIAL_BYTES = 1200
"""The least size of a datagram with a client's Initial (RFC 9000, section 14.1)."""
MAX_PACKETS = 8
"""The most packets that are examined in one datagram."""
_VERSION_2 = 0x6B3343CF
_INITIAL, _RETRY = 0, 3  # types of packets, as version 1 numbers them (RFC 9000, table 5; RFC 9369, section 3.2)


@helper
def read_datagram(buffer, at, end, r):
    """Read a datagram as `sources.FlowSource.read` does; `quic` decrypts those that need more."""
    if end - at < 16:
        return OTHER, at, 0, 0, NO_ECH
    first = u8(buffer, at)
    version = u32(buffer, at + 1)
    if first & 0x89 == 0x09:
        version = u32(buffer, at + 9)  # Google's public header, with a connection id of 8 bytes
    is_large = np.int64(r.payload_bytes) >= INITIAL_BYTES
    if version >> 16 == 0x5130 and version != 0x51303530 and (first & 0x80 or first & 0x09 == 0x09):
        hello = find_google_hello(buffer, at, end)
        if hello != NOWHERE:
            status, name_at, name_bytes, ech = read_google_hello(buffer, hello, end)
            if status == NEED_MORE and r.captured_payload >= r.payload_bytes:
                status = NOT_FOUND
            return status, at, name_at, name_bytes, ech
    elif first & 0x80 and is_quic_version(version):
        if is_large and has_initial(buffer, at, end):
            return NEED_MORE, at, 0, 0, NO_ECH
    elif first & 0xC0 == 0xC0 and version != 0 and is_large and (r.src_port == 443 or r.dst_port == 443):
        id_bytes = np.int64(u8(buffer, at + 5))  # as of a client's packet (RFC 9000, sections 7.2, 17.2)
        behind = at + 6 + id_bytes
        if 8 <= id_bytes <= 20 and behind < end and u8(buffer, behind) <= 20:
            return UNKNOWN_VERSION, at, 0, 0, NO_ECH
    return OTHER, at, 0, 0, NO_ECH


@helper
def has_initial(buffer, at, end):
    """Whether there is an Initial of such a version among the packets of a datagram (RFC 9000, 12.2 and 17.2)."""
    for _ in range(MAX_PACKETS):
        if at + 7 > end or u8(buffer, at) & 0xC0 != 0xC0:
            return False
        version = u32(buffer, at + 1)
        source_id = at + 6 + u8(buffer, at + 5)
        kind = ((u8(buffer, at) >> 4) - (1 if version == _VERSION_2 else 0)) & 3
        if source_id >= end or not is_quic_version(version) or kind == _RETRY:
            return False
        if kind == _INITIAL:
            return True
        length_at = source_id + 1 + u8(buffer, source_id)
        if length_at >= end:
            return False
        width = 1 << (u8(buffer, length_at) >> 6)
        if length_at + width > end:
            return False
        count = np.int64(u8(buffer, length_at) & 0x3F)
        for i in range(1, width):
            count = count << 8 | u8(buffer, length_at + i)
        at = length_at + width + min(count, end)
    return False


@helper
def is_quic_version(version):
    """Whether `quic` has the keys of a version: QUIC 1 and 2, drafts, Facebook's, Google's with protected
    Initials; and those that force a version negotiation."""
    return (
        version == 1
        or version == _VERSION_2
        or 0xFF000016 <= version <= 0xFF000022
        or version == 0xFACEB001
        or version == 0xFACEB002
        or version == 0xFACEB00E
        or version == 0x51303530
        or version == 0x54303530
        or version == 0x54303531
        or version & 0x0F0F0F0F == 0x0A0A0A0A
    )


@helper
def find_google_hello(buffer, at, end):
    """Where a CHLO starts in a datagram of Google's QUIC, or NOWHERE."""
    for i in range(at, min(at + _CHLO_WITHIN, end - 3)):
        if u8(buffer, i) == 67 and u8(buffer, i + 1) == 72 and u8(buffer, i + 2) == 76 and u8(buffer, i + 3) == 79:
            return i
    return NOWHERE


@helper
def read_google_hello(buffer, at, end):
    """Read a CHLO: its tag, the count of its entries, their tags with the ends of their values, the values.

    See "QUIC Crypto" (Langley and Chang, 2016), "Handshake messages".
    """
    if end - at < 8:
        return NEED_MORE, at, 0, NO_ECH
    if find_google_hello(buffer, at, at + 4) != at:
        return OTHER, at, 0, NO_ECH
    entries = u16_little(buffer, at + 4)
    values = at + 8 + 8 * entries
    start = np.int64(0)
    for entry in range(entries):
        i = at + 8 + 8 * entry
        if i + 8 > end:
            return NEED_MORE, at, 0, NO_ECH
        stop = u32_little(buffer, i + 4)
        if stop < start:
            return NOT_FOUND, at, 0, NO_ECH
        if u32_little(buffer, i) == _SNI_TAG:
            if values + stop > end:
                return NEED_MORE, at, 0, NO_ECH
            return FOUND, values + start, printable_bytes(buffer, values + start, values + stop), NO_ECH
        start = stop
    return FOUND, at, 0, NO_ECH


@kernel
def message_name(message: Any) -> Any:
    """The hello in CRYPTO bytes, a ClientHello or a CHLO: status, and start, bytes, ECH of its name."""
    message = borrowed(message)
    if len(message) > 0 and message[0] == 67:
        return read_google_hello(message, 0, len(message))
    return read_message(message, 0, len(message))
