"""TLS records in a packet's payload: their headers are in the clear (RFC 8446, section 5.1); and QUIC packets."""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.api import NOT_QUIC, TCP
from trafficrefinery.jit import helper, inlined

from .layers import u8, u16

LARGEST_PAYLOAD_BYTES = 1_024
"""Larger payloads are not examined: they hold more than a few control records that were sent together."""
_HEADER_BYTES = 5
_CHANGE_CIPHER_SPEC, _APPLICATION_DATA = 20, 23  # with alert and handshake between them
_MAJOR_VERSION, _LAST_MINOR_VERSION = 3, 4
_FIXED_BIT = 0x40
"""Set in the first byte of every QUIC packet (RFC 9000, section 17), and in none of Google's QUIC before version 46."""


@inlined
def note_record(r: Any, buffer: Any) -> None:
    """Fill `record_bytes` of a packet, see `api.Packet`; nothing where that was done.

    Args:
        r: PACKET record.
        buffer: uint8 array with the packet.
    """
    payload_bytes = np.int64(r.payload_bytes)
    if 0 < payload_bytes <= LARGEST_PAYLOAD_BYTES and r.record_bytes == 0:
        at: Any = np.int64(r.payload_offset)
        end = min(at + np.int64(r.captured_payload), len(buffer))
        if r.protocol == TCP:
            r.record_bytes = longest_record(buffer, at, end, payload_bytes)
        elif 0 <= at < end:
            r.record_bytes = payload_bytes if u8(buffer, at) & _FIXED_BIT else NOT_QUIC


@helper
def longest_record(buffer: Any, at: Any, end: Any, payload_bytes: Any) -> Any:
    """Bytes of the longest TLS record that begins in a payload, its header included.

    Args:
        at: where the payload begins.
        end: where what was captured of it ends.

    Returns:
        0: the payload does not begin with a record, something else than a record follows one, or a header was not
        captured. A header that goes on in the next packet counts for nothing.
    """
    payload_end = at + payload_bytes
    longest: Any = np.int64(0)
    while at + _HEADER_BYTES <= payload_end:
        if at < 0 or at + _HEADER_BYTES > end:
            return np.int64(0)
        kind = u8(buffer, at)
        is_record = _CHANGE_CIPHER_SPEC <= kind <= _APPLICATION_DATA
        if not is_record or u8(buffer, at + 1) != _MAJOR_VERSION or u8(buffer, at + 2) > _LAST_MINOR_VERSION:
            return np.int64(0)
        record_bytes = _HEADER_BYTES + u16(buffer, at + 3)
        longest = max(longest, min(record_bytes, 0xFFFF))
        at += record_bytes
    return longest
