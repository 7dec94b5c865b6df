"""Frames to packets: link layer, IP, TCP and UDP headers, as one compiled function without exceptions.

Every byte that is read lies within the captured length; what cannot be read is told by a reason code. Lengths that
are *reported* (`ip_bytes`, `payload_bytes`) come from the headers, so that a short snap length does not change them.
"""

from __future__ import annotations

import numpy as np

from trafficrefinery.api import Packet, state_dtype, state_fields
from trafficrefinery.jit import helper, inlined

_PUBLIC = [(name, state_dtype(Packet)[name]) for name in state_fields(Packet)]
_PRIVATE = [
    ("raw_offset", "i8"),  # of the IP header in the buffer
    ("payload_offset", "i8"),  # of the TCP or UDP payload in the buffer
    ("a_hi", "u8"),  # the two ends of the flow, a before b in (address, port) order
    ("a_lo", "u8"),
    ("b_hi", "u8"),
    ("b_lo", "u8"),
    ("hash", "u8"),
    ("watermark_ns", "i8"),  # latest time seen in the trace up to this packet
    ("slot", "i8"),  # of the flow in the cache, -1 when not found
    ("frame_number", "i8"),  # in the trace, from 0
    ("captured_payload", "u4"),  # payload bytes that are in the buffer
    ("fragment_id", "u4"),
    ("a_port", "u2"),
    ("b_port", "u2"),
    ("source_is_a", "u1"),
    ("mac_side", "u1"),  # bit 0: source MAC is the configured one; bit 1: destination MAC is
]


# The wide ones first, so that nothing is lost between them.
PACKET = np.dtype(
    sorted([*_PUBLIC, *((name, np.dtype(kind)) for name, kind in _PRIVATE)], key=lambda field: -field[1].itemsize),
    align=True,
)

# What a row of output says of its flow, before the outputs of feature classes.
ROW_HEADER = np.dtype(
    [("start_ns", "i8"), ("first_ns", "i8"), ("a_hi", "u8"), ("a_lo", "u8"), ("b_hi", "u8"), ("b_lo", "u8"),
     ("name_id", "i4"), ("a_port", "u2"), ("b_port", "u2"), ("service", "i2"), ("protocol", "u1"),
     ("matched_by", "u1"), ("client_is_a", "u1"), ("is_first", "u1"),  # of its flow, with this service
     ("end", "u1"), ("sides", "u1")], align=True,  # `connection.ENDS`; CLIENT_SEEN and SERVER_SEEN
)  # fmt: skip
CLIENT_SEEN, SERVER_SEEN = 1, 2

# Why a packet is not attributed to a flow of a service; the order is that of the counters.
REASONS = (
    "attributed", "not_ip", "not_tcp_or_udp", "malformed", "truncated", "unsupported_link_type",
    "fragment_without_first", "no_service", "flow_cache_full", "bad_time",
)  # fmt: skip
(
    ATTRIBUTED, NOT_IP, NOT_TCP_OR_UDP, MALFORMED, TRUNCATED, UNSUPPORTED_LINK,
    FRAGMENT_WITHOUT_FIRST, NO_SERVICE, CACHE_FULL, BAD_TIME,
) = range(len(REASONS))  # fmt: skip

GRE, VXLAN, GTPU = 1, 2, 4
DECAPSULATIONS = {"gre": GRE, "vxlan": VXLAN, "gtpu": GTPU}

_V4_MAPPED = np.uint64(0xFFFF00000000)
_MAX_LAYERS = 32  # headers before TCP or UDP; more is an attack or an error

# "Next" values that are no EtherType.
_ETHERNET, _IP_BY_VERSION, _UNKNOWN, _CUT = 0x10000, 0x10001, 0x10002, 0x10003
_IPV4, _IPV6, _VLAN, _QINQ, _QINQ_OLD, _MPLS, _MPLS_M, _PPPOE, _TEB = (
    0x0800, 0x86DD, 0x8100, 0x88A8, 0x9100, 0x8847, 0x8848, 0x8864, 0x6558,
)  # fmt: skip
STRIPPED_TAG, TAG_BYTES = 0x10000, 4
"""Set in FRAME.stripped_tag when the kernel took out the outer VLAN tag, which is in the lower 16 bits there. Its bytes
are in `wire_bytes` and not in the buffer."""
LINKTYPES = {0: "BSD loopback", 1: "Ethernet", 12: "raw IP", 14: "raw IP", 101: "raw IP", 108: "OpenBSD loopback",
             113: "Linux cooked v1", 228: "raw IPv4", 229: "raw IPv6", 276: "Linux cooked v2"}  # fmt: skip


_1, _2, _3, _32 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(32)


@inlined
def u16(buffer, i):
    """Big-endian. The index is unsigned: for a signed one Numba adds the test for a negative one to each byte."""
    i = np.uint64(i)
    return (np.int64(buffer[i]) << 8) | np.int64(buffer[i + _1])


@inlined
def u32(buffer, i):
    i = np.uint64(i)
    return (
        (np.int64(buffer[i]) << 24)
        | (np.int64(buffer[i + _1]) << 16)
        | (np.int64(buffer[i + _2]) << 8)
        | np.int64(buffer[i + _3])
    )


@inlined
def u64(buffer, i):
    return (np.uint64(u32(buffer, i)) << _32) | np.uint64(u32(buffer, i + 4))


@inlined
def u8(buffer, i):
    return np.int64(buffer[np.uint64(i)])


@inlined
def _link_layer(buffer, i, end, link_type):
    """Offset and type of what follows the link-layer header; type -1 when the link type is not supported."""
    if link_type == 1:
        return i, _ETHERNET
    if link_type == 113:
        return (i + 16, u16(buffer, i + 14)) if i + 16 <= end else (end, _CUT)
    if link_type == 276:
        return (i + 20, u16(buffer, i)) if i + 20 <= end else (end, _CUT)
    if link_type == 12 or link_type == 14 or link_type == 101 or link_type == 228 or link_type == 229:
        return i, _IP_BY_VERSION
    if link_type == 0 or link_type == 108:  # a 4-byte address family; its values differ by system, the IP version tells
        return (i + 4, _IP_BY_VERSION) if i + 4 <= end else (end, _CUT)
    return i, -1


@inlined
def parse(buffer, frame, decapsulate, mac, r):
    """Read one frame into `r` (a PACKET record without flow and direction).

    Args:
        buffer: uint8 array.
        frame: FRAME record.
        decapsulate: bit set of GRE, VXLAN and GTPU to look into.
        mac: the configured MAC address as a number, 0 for none.
        r: PACKET record; all fields that a feature may read are set when the result is 0.

    Returns:
        0, or the reason (an index of REASONS) why this is no packet that can be attributed.
    """
    start = np.int64(frame.offset)
    end = start + np.int64(frame.captured_bytes)
    stripped = TAG_BYTES if frame.stripped_tag != 0 else 0  # of a VLAN tag that the kernel took out
    wire_end = start + np.int64(frame.wire_bytes) - stripped  # where the frame would end if all had been captured
    r.ts_ns = frame.ts_ns
    r.wire_bytes = frame.wire_bytes
    r.captured_bytes = frame.captured_bytes + stripped
    r.mac_side = 0
    i, kind = _link_layer(buffer, start, end, np.int64(frame.link_type))
    if kind == -1:
        return UNSUPPORTED_LINK
    if kind == _CUT:
        return TRUNCATED if wire_end > end else MALFORMED
    for _ in range(_MAX_LAYERS):
        if kind == _IPV4 or kind == _IPV6 or kind == _IP_BY_VERSION:
            if i >= end:
                return TRUNCATED if wire_end > end else MALFORMED
            version = u8(buffer, i) >> 4
            if version == 4:
                reason, i, kind = _ipv4(buffer, i, end, wire_end, decapsulate, r)
            elif version == 6:
                reason, i, kind = _ipv6(buffer, i, end, wire_end, decapsulate, r)
            else:
                return MALFORMED
            if kind == 0:
                return reason
        elif kind == _ETHERNET or kind == _TEB:
            if i + 14 > end:
                return TRUNCATED if wire_end > end else MALFORMED
            if mac != 0:
                source = (u16(buffer, i + 6) << 32) | u32(buffer, i + 8)
                destination = (u16(buffer, i) << 32) | u32(buffer, i + 2)
                r.mac_side = (1 if source == mac else 0) | (2 if destination == mac else 0)
            kind = u16(buffer, i + 12)
            i += 14
            if kind < 1536:  # IEEE 802.3 length: IP only inside a SNAP header (RFC 1042)
                if i + 8 > end or u32(buffer, i) != 0xAAAA0300 or u16(buffer, i + 4) != 0:
                    return NOT_IP
                kind = u16(buffer, i + 6)
                i += 8
        elif kind == _VLAN or kind == _QINQ or kind == _QINQ_OLD:
            if i + 4 > end:
                return TRUNCATED if wire_end > end else MALFORMED
            kind = u16(buffer, i + 2)
            i += 4
        elif kind == _MPLS or kind == _MPLS_M:
            if i + 5 > end:
                return TRUNCATED if wire_end > end else MALFORMED
            bottom = u8(buffer, i + 2) & 1
            i += 4
            if bottom:  # no type field: the first nibble tells (RFC 4928); 0 is a control word before Ethernet
                nibble = u8(buffer, i) >> 4
                kind = _IP_BY_VERSION if nibble == 4 or nibble == 6 else _ETHERNET
                if nibble == 0:
                    i += 4
        elif kind == _PPPOE:
            if i + 8 > end:
                return TRUNCATED if wire_end > end else MALFORMED
            protocol = u16(buffer, i + 6)
            kind = _IPV4 if protocol == 0x0021 else (_IPV6 if protocol == 0x0057 else _UNKNOWN)
            i += 8
        else:
            return NOT_IP
    return MALFORMED


@inlined
def _ipv4(buffer, i, end, wire_end, decapsulate, r):
    """Returns (reason, offset, next type); the type is 0 when the packet ends here."""
    if i + 20 > end:
        return (TRUNCATED if wire_end > end else MALFORMED), i, 0
    header = (u8(buffer, i) & 15) * 4
    total = u16(buffer, i + 2)
    if total == 0:  # segmentation offload on the capturing machine leaves it empty
        total = wire_end - i
    if header < 20 or total < header:
        return MALFORMED, i, 0
    r.ip_version = 4
    r.ip_bytes = total
    r.dscp = u8(buffer, i + 1) >> 2
    r.ecn = u8(buffer, i + 1) & 3
    r.ttl = u8(buffer, i + 8)
    r.raw_offset = i
    r.raw_bytes = min(min(end - i, total), 256)
    source = _V4_MAPPED | np.uint64(u32(buffer, i + 12))
    destination = _V4_MAPPED | np.uint64(u32(buffer, i + 16))
    fragment = u16(buffer, i + 6)
    r.fragment_id = u16(buffer, i + 4)
    r.fragment = 2 if fragment & 0x1FFF else (1 if fragment & 0x2000 else 0)
    zero = np.uint64(0)
    return _transport(
        buffer, i + header, end, i + total, wire_end, u8(buffer, i + 9), decapsulate, r,
        zero, source, zero, destination,
    )  # fmt: skip


@helper
def _ipv6(buffer, i, end, wire_end, decapsulate, r):
    if i + 40 > end:
        return (TRUNCATED if wire_end > end else MALFORMED), i, 0
    total = u16(buffer, i + 4) + 40
    if total == 40 and wire_end > i + 40:  # jumbogram, or segmentation offload
        total = wire_end - i
    r.ip_version = 6
    r.ip_bytes = total
    traffic_class = (u16(buffer, i) >> 4) & 0xFF
    r.dscp = traffic_class >> 2
    r.ecn = traffic_class & 3
    r.ttl = u8(buffer, i + 7)
    r.raw_offset = i
    r.raw_bytes = min(min(end - i, total), 256)
    r.fragment = 0
    r.fragment_id = 0
    protocol = u8(buffer, i + 6)
    j = i + 40
    while protocol == 0 or protocol == 43 or protocol == 44 or protocol == 60 or protocol == 135:
        if j + 8 > end:
            return (TRUNCATED if wire_end > end else MALFORMED), i, 0
        following = u8(buffer, j)
        if protocol == 44:
            fragment = u16(buffer, j + 2)
            r.fragment = 2 if fragment & 0xFFF8 else (1 if fragment & 1 else 0)
            r.fragment_id = u32(buffer, j + 4)
            j += 8
            if r.fragment == 2:
                protocol = following
                break
        else:
            j += (u8(buffer, j + 1) + 1) * 8
        protocol = following
    if j > i + total:
        return MALFORMED, i, 0
    return _transport(
        buffer, j, end, i + total, wire_end, protocol, decapsulate, r,
        u64(buffer, i + 8), u64(buffer, i + 16), u64(buffer, i + 24), u64(buffer, i + 32),
    )  # fmt: skip


@inlined
def _transport(buffer, i, end, packet_end, wire_end, protocol, decapsulate, r, s_hi, s_lo, d_hi, d_lo):
    """TCP, UDP, or a tunnel to look into. `packet_end` is where the IP packet ends by its own length."""
    r.seq = 0
    r.ack = 0
    r.window = 0
    r.tcp_flags = 0
    r.tcp_header_bytes = 0
    r.window_scale = -1
    r.mss = 0
    r.has_timestamps = 0
    r.tsval = 0
    r.tsecr = 0
    r.sack_blocks = 0
    r.sack_left = 0
    r.sack_right = 0
    r.protocol = protocol
    end = min(end, packet_end)  # what follows is padding
    if r.fragment == 2:
        if protocol != 6 and protocol != 17:
            return NOT_TCP_OR_UDP, i, 0
        r.payload_bytes = packet_end - i
        r.payload_offset = i
        r.captured_payload = 0
        _ends(r, s_hi, s_lo, d_hi, d_lo, 0, 0)
        return 0, i, 0
    if protocol == 47 and decapsulate & GRE:
        if i + 4 > end:
            return (TRUNCATED if packet_end > end else MALFORMED), i, 0
        flags = u8(buffer, i)
        if u8(buffer, i + 1) & 7:  # version 1 is PPTP's
            return NOT_TCP_OR_UDP, i, 0
        inner = i + 4 + (4 if flags & 0xC0 else 0) + (4 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        return NOT_IP, inner, u16(buffer, i + 2)  # the reason is for type 0, a keep-alive: it ends here
    if protocol != 6 and protocol != 17:
        return NOT_TCP_OR_UDP, i, 0
    if i + 4 > end:
        return (TRUNCATED if packet_end > end else MALFORMED), i, 0
    source_port = u16(buffer, i)
    destination_port = u16(buffer, i + 2)
    if protocol == 17:
        if packet_end < i + 8:
            return MALFORMED, i, 0
        if destination_port == 4789 and decapsulate & VXLAN and i + 16 <= end:
            return 0, i + 16, _ETHERNET
        if (destination_port == 2152 or source_port == 2152) and decapsulate & GTPU and i + 16 <= end:
            inner = _gtpu(buffer, i + 8, end)
            if inner > 0:
                return 0, inner, _IP_BY_VERSION
        header = 8
    else:
        if packet_end < i + 20:
            return MALFORMED, i, 0
        header = 20
        if i + 16 <= end:
            header = (u8(buffer, i + 12) >> 4) * 4
            if header < 20 or i + header > packet_end:
                return MALFORMED, i, 0
            r.seq = u32(buffer, i + 4)
            r.ack = u32(buffer, i + 8)
            r.tcp_flags = u8(buffer, i + 13)
            r.window = u16(buffer, i + 14)
            if header > 20:
                _tcp_options(buffer, i + 20, min(i + header, end), r)
        r.tcp_header_bytes = header
    r.payload_bytes = packet_end - i - header
    r.payload_offset = i + header
    r.captured_payload = max(end - i - header, 0)
    _ends(r, s_hi, s_lo, d_hi, d_lo, source_port, destination_port)
    return 0, i, 0


@helper
def _gtpu(buffer, i, end):
    """Offset of the inner packet of a G-PDU (3GPP TS 29.281), or 0."""
    flags = u8(buffer, i)
    if flags >> 5 != 1 or not flags & 0x10 or u8(buffer, i + 1) != 255:
        return 0
    inner = i + 8
    if flags & 7:
        inner += 4
        if flags & 4:
            for _ in range(_MAX_LAYERS):
                if inner > end or u8(buffer, inner - 1) == 0:
                    break
                if inner >= end or u8(buffer, inner) == 0:
                    return 0
                inner += u8(buffer, inner) * 4
    return inner if inner < end else 0


@inlined
def _ends(r, s_hi, s_lo, d_hi, d_lo, source_port, destination_port):
    """Fill ports and the two ends of the flow in canonical order, so that both directions make the same key."""
    r.src_port = source_port
    r.dst_port = destination_port
    if s_hi < d_hi or (s_hi == d_hi and (s_lo < d_lo or (s_lo == d_lo and source_port <= destination_port))):
        r.source_is_a = 1
        r.a_hi = s_hi
        r.a_lo = s_lo
        r.b_hi = d_hi
        r.b_lo = d_lo
        r.a_port = source_port
        r.b_port = destination_port
    else:
        r.source_is_a = 0
        r.a_hi = d_hi
        r.a_lo = d_lo
        r.b_hi = s_hi
        r.b_lo = s_lo
        r.a_port = destination_port
        r.b_port = source_port


@helper
def _tcp_options(buffer, i, end, r):
    if i + 12 <= end and u32(buffer, i) == 0x0101080A:  # NOP NOP timestamps: nearly all segments
        r.has_timestamps = 1
        r.tsval = u32(buffer, i + 4)
        r.tsecr = u32(buffer, i + 8)
        i += 12
    while i < end:
        kind = u8(buffer, i)
        if kind == 0:
            return
        if kind == 1:
            i += 1
            continue
        if i + 2 > end:
            return
        size = u8(buffer, i + 1)
        if size < 2 or i + size > end:
            return
        if kind == 8 and size == 10:
            r.has_timestamps = 1
            r.tsval = u32(buffer, i + 2)
            r.tsecr = u32(buffer, i + 6)
        elif kind == 5 and size >= 10:
            r.sack_blocks = (size - 2) // 8
            r.sack_left = u32(buffer, i + 2)
            r.sack_right = u32(buffer, i + 6)
        elif kind == 3 and size == 3:
            r.window_scale = min(u8(buffer, i + 2), 14)  # RFC 7323 section 2.3
        elif kind == 2 and size == 4:
            r.mss = u16(buffer, i + 2)
        i += size
