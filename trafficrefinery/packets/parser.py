"""Frames to packets: link layer, IP, TCP and UDP headers, as one compiled function without exceptions.

Every byte that is read lies within the captured length; what cannot be read is reported by a reason code. Lengths
(`ip_bytes`, `payload_bytes`) come from the headers, so that a short snap length does not change them, but are never
more than what was on the wire. This module is the plain path: Ethernet, VLAN tags, IP, TCP and UDP; what is rarer is in
`link_types`, `shims` and `tunnels`.
"""

from __future__ import annotations

import numpy as np

from trafficrefinery.api import Packet, state_dtype, state_fields
from trafficrefinery.jit import helper, inlined

from .layers import (  # fmt: skip
    ATTRIBUTED,
    CACHE_FULL,
    CUT,
    ETHERNET,
    FRAGMENT_WITHOUT_FIRST,
    IP_BY_VERSION,
    IPV4,
    IPV6,
    MALFORMED,
    NO_SERVICE,
    NOT_TCP_OR_UDP,
    NOTHING,
    QINQ,
    QINQ_OLD,
    REASONS,
    STRIPPED_TAG,
    TAG_BYTES,
    TEB,
    VLAN,
    cut_or_malformed,
    u8,
    u16,
    u32,
    u64,
)
from .link_types import first_header
from .shims import mac_at, next_header
from .tunnels import ip_tunnel, may_be_tunnel, udp_tunnel

__all__ = [
    "ATTRIBUTED",
    "CACHE_FULL",
    "CLIENT_SEEN",
    "FRAGMENT_WITHOUT_FIRST",
    "NO_SERVICE",
    "PACKET",
    "REASONS",
    "ROW_HEADER",
    "SERVER_SEEN",
    "STRIPPED_TAG",
    "TAG_BYTES",
    "V4_MAPPED",
    "is_plain",
    "parse",
    "u8",
    "u16",
    "u32",
]  # fmt: skip

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
    ("unread", "u1"),  # what is in the packet and was not read: 1 + number in tunnels.UNREAD; 0: nothing
    ("tunnel_port", "u1"),  # the kind of tunnel whose UDP port this is, though it was not looked into; 0: none
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

V4_MAPPED = np.uint64(0xFFFF00000000)
_TIMESTAMPS = 0x0101080A  # two NOPs and the option's head: the only options of nearly all segments
_MAX_LAYERS = 32  # headers before TCP or UDP; more is an attack or an error


@inlined
def parse(buffer, frame, tunnels, mac, r):
    """Read one frame into `r` (a PACKET record without flow and direction).

    Args:
        buffer: uint8 array.
        frame: FRAME record.
        tunnels: which are looked into, from `tunnels.tunnel_table`.
        mac: the configured MAC address as a number, 0 for none.
        r: PACKET record; all fields that a feature may read are set when the result is 0.

    Returns:
        0, or the reason (an index of REASONS) why this is no packet that can be attributed.
    """
    if is_plain(buffer, frame, tunnels):
        _read_plain(buffer, frame, mac, r)
        return ATTRIBUTED
    return parse_any(buffer, frame, tunnels, mac, r)


@inlined
def is_plain(buffer, frame, tunnels):
    """Whether a frame is of the most frequent kind: Ethernet, IPv4 without options, TCP or UDP, and no tunnel.

    Its headers are captured and well-formed, its lengths agree, and it is not a fragment.
    """
    captured_bytes = np.int64(frame.captured_bytes)
    if frame.link_type != 1 or frame.stripped_tag != 0 or captured_bytes < 54:
        return False
    start = np.int64(frame.offset)
    ip = start + 14
    transport = ip + 20
    total = u16(buffer, ip + 2)
    protocol = u8(buffer, ip + 9)
    if u16(buffer, start + 12) != IPV4 or u8(buffer, ip) != 0x45 or u16(buffer, ip + 6) & 0x3FFF != 0:
        return False
    if total < 28 or total + 14 > np.int64(frame.wire_bytes):
        return False
    if protocol == 6:
        header = (u8(buffer, transport + 12) >> 4) * 4
        return header >= 20 and total >= 20 + header
    if protocol != 17 or u16(buffer, transport + 4) != total - 20:
        return False
    return not may_be_tunnel(tunnels, u16(buffer, transport), u16(buffer, transport + 2))


@inlined
def _read_plain(buffer, frame, mac, r):
    """Read a frame that `is_plain`, in a straight line. It finds what `parse_any` finds, which is the authority."""
    start = np.int64(frame.offset)
    ip = start + 14
    transport = ip + 20
    total = u16(buffer, ip + 2)
    protocol = u8(buffer, ip + 9)
    header = (u8(buffer, transport + 12) >> 4) * 4 if protocol == 6 else 8
    end = start + min(np.int64(frame.captured_bytes), total + 14)  # what follows is padding
    payload = transport + header
    r.ts_ns = frame.ts_ns
    r.wire_bytes = frame.wire_bytes
    r.captured_bytes = frame.captured_bytes
    r.mac_side = _mac_side(buffer, start, mac)
    r.unread = 0
    r.tunnel_port = 0
    r.ip_version = 4
    r.ip_bytes = total
    r.dscp = u8(buffer, ip + 1) >> 2
    r.ecn = u8(buffer, ip + 1) & 3
    r.ttl = u8(buffer, ip + 8)
    r.raw_offset = ip
    r.raw_bytes = min(end - ip, 256)
    r.fragment = 0
    r.fragment_id = u16(buffer, ip + 4)
    r.protocol = protocol
    _no_tcp(r)
    if protocol == 6:
        _tcp_header(buffer, transport, header, end, r)
    r.payload_bytes = total - 20 - header
    r.payload_offset = payload
    r.captured_payload = max(end - payload, 0)
    source = V4_MAPPED | np.uint64(u32(buffer, ip + 12))
    destination = V4_MAPPED | np.uint64(u32(buffer, ip + 16))
    zero = np.uint64(0)
    _ends(r, zero, source, zero, destination, u16(buffer, transport), u16(buffer, transport + 2))


@helper
def parse_any(buffer, frame, tunnels, mac, r):
    """Read a frame of any kind; see `parse`."""
    start = np.int64(frame.offset)
    end = start + np.int64(frame.captured_bytes)
    stripped = TAG_BYTES if frame.stripped_tag != 0 else 0  # of a VLAN tag that the kernel took out
    wire_end = max(start + np.int64(frame.wire_bytes) - stripped, end)  # where it would end if all had been captured
    r.ts_ns = frame.ts_ns
    r.wire_bytes = frame.wire_bytes
    r.captured_bytes = frame.captured_bytes + stripped
    r.mac_side = 0
    r.unread = 0
    r.tunnel_port = 0
    i = start
    kind = ETHERNET
    if frame.link_type != 1:
        i, kind = first_header(buffer, start, end, np.int64(frame.link_type))
        if kind < 0:
            return -kind
        if kind == CUT:
            return cut_or_malformed(end, wire_end)
    for _ in range(_MAX_LAYERS):
        if kind == IPV4 or kind == IPV6 or kind == IP_BY_VERSION:
            if i >= end:
                return cut_or_malformed(end, wire_end)
            version = u8(buffer, i) >> 4
            if version == 4:
                reason, i, kind, packet_end = _ipv4(buffer, i, end, wire_end, tunnels, r)
            elif version == 6:
                reason, i, kind, packet_end = _ipv6(buffer, i, end, wire_end, tunnels, r)
            else:
                return MALFORMED
            if kind == NOTHING:
                return reason
            wire_end = packet_end  # what is in a tunnel does not go beyond it
            end = min(end, wire_end)
        elif kind == ETHERNET or kind == TEB:
            if i + 14 > end:
                return cut_or_malformed(end, wire_end)
            r.mac_side = _mac_side(buffer, i, mac)
            kind = u16(buffer, i + 12)
            i += 14
        elif kind == VLAN or kind == QINQ or kind == QINQ_OLD:
            if i + 4 > end:
                return cut_or_malformed(end, wire_end)
            kind = u16(buffer, i + 2)
            i += 4
        else:
            reason, i, kind = next_header(buffer, i, end, wire_end, kind, mac, r)
            if kind == NOTHING:
                return reason
    return MALFORMED


@inlined
def _ipv4(buffer, i, end, wire_end, tunnels, r):
    """Returns (reason, offset, next kind, end of the packet); the kind is NOTHING when the packet ends here."""
    if i + 20 > end:
        return cut_or_malformed(end, wire_end), i, NOTHING, end
    header = (u8(buffer, i) & 15) * 4
    total = u16(buffer, i + 2)
    # No more than was on the wire; segmentation offload on the capturing machine leaves it empty.
    if total == 0 or total > wire_end - i:
        total = wire_end - i
    if header < 20 or total < header:
        return MALFORMED, i, NOTHING, end
    r.ip_version = 4
    r.ip_bytes = total
    r.dscp = u8(buffer, i + 1) >> 2
    r.ecn = u8(buffer, i + 1) & 3
    r.ttl = u8(buffer, i + 8)
    r.raw_offset = i
    r.raw_bytes = min(min(end - i, total), 256)
    source = V4_MAPPED | np.uint64(u32(buffer, i + 12))
    destination = V4_MAPPED | np.uint64(u32(buffer, i + 16))
    fragment = u16(buffer, i + 6)
    r.fragment_id = u16(buffer, i + 4)
    r.fragment = 2 if fragment & 0x1FFF else (1 if fragment & 0x2000 else 0)
    zero = np.uint64(0)
    return _transport(
        buffer, i + header, end, i + total, u8(buffer, i + 9), tunnels, r, zero, source, zero, destination
    )


@helper
def _ipv6(buffer, i, end, wire_end, tunnels, r):
    if i + 40 > end:
        return cut_or_malformed(end, wire_end), i, NOTHING, end
    total = u16(buffer, i + 4) + 40
    # No more than was on the wire; jumbograms (RFC 2675) and segmentation offload leave it empty.
    total = min(total, wire_end - i) if total != 40 else wire_end - i
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
    while protocol == 0 or protocol == 43 or protocol == 44 or protocol == 51 or protocol == 60 or protocol == 135:
        if j + 8 > end:
            return cut_or_malformed(end, wire_end), i, NOTHING, end
        following = u8(buffer, j)
        if protocol == 44:
            fragment = u16(buffer, j + 2)
            r.fragment = 2 if fragment & 0xFFF8 else (1 if fragment & 1 else 0)
            r.fragment_id = u32(buffer, j + 4)
            j += 8
            if r.fragment == 2:
                protocol = following
                break
        elif protocol == 51:
            j += (u8(buffer, j + 1) + 2) * 4
        else:
            j += (u8(buffer, j + 1) + 1) * 8
        protocol = following
    if j > i + total:
        return MALFORMED, i, NOTHING, end
    return _transport(
        buffer, j, end, i + total, protocol, tunnels, r,
        u64(buffer, i + 8), u64(buffer, i + 16), u64(buffer, i + 24), u64(buffer, i + 32),
    )  # fmt: skip


@inlined
def _mac_side(buffer, i, mac):
    """Which ends of the Ethernet header at `i` have the configured address."""
    if mac == 0:
        return 0
    return (1 if mac_at(buffer, i + 6) == mac else 0) | (2 if mac_at(buffer, i) == mac else 0)


@inlined
def _no_tcp(r):
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
    r.record_bytes = 0  # `tls_records.note_record` fills it where a class reads it


@inlined
def _tcp_header(buffer, i, header, end, r):
    """The fixed fields, all of them captured, and the options as far as they are."""
    r.seq = u32(buffer, i + 4)
    r.ack = u32(buffer, i + 8)
    r.tcp_flags = u8(buffer, i + 13)
    r.window = u16(buffer, i + 14)
    r.tcp_header_bytes = header
    if header == 32 and i + 32 <= end and u32(buffer, i + 20) == _TIMESTAMPS:
        _timestamps(buffer, i + 22, r)
    elif header > 20:
        _tcp_options(buffer, i + 20, min(i + header, end), r)


@inlined
def _transport(buffer, i, end, packet_end, protocol, tunnels, r, s_hi, s_lo, d_hi, d_lo):
    """TCP, UDP, or what else an IP packet holds; `packet_end` is where it ends, captured or not."""
    _no_tcp(r)
    r.protocol = protocol
    end = min(end, packet_end)  # what follows is padding
    if protocol != 6 and protocol != 17:
        return _other_protocol(buffer, i, end, packet_end, protocol, tunnels, r, s_hi, s_lo, d_hi, d_lo)
    return _tcp_or_udp(buffer, i, end, packet_end, protocol, tunnels, r, s_hi, s_lo, d_hi, d_lo)


@helper
def _other_protocol(buffer, i, end, packet_end, protocol, tunnels, r, s_hi, s_lo, d_hi, d_lo):
    """A tunnel, or TCP or UDP behind an authentication header (RFC 4302)."""
    if r.fragment == 2:
        return NOT_TCP_OR_UDP, i, NOTHING, packet_end
    for _ in range(_MAX_LAYERS):
        if protocol != 51:
            break
        if i + 12 > end:
            return cut_or_malformed(end, packet_end), i, NOTHING, packet_end
        protocol = u8(buffer, i)
        i += (u8(buffer, i + 1) + 2) * 4
    if protocol == 6 or protocol == 17:
        r.protocol = protocol
        return _tcp_or_udp(buffer, i, end, packet_end, protocol, tunnels, r, s_hi, s_lo, d_hi, d_lo)
    reason, inner, kind = ip_tunnel(buffer, i, end, packet_end, protocol, tunnels, r)
    return reason, inner, kind, packet_end


@inlined
def _tcp_or_udp(buffer, i, end, packet_end, protocol, tunnels, r, s_hi, s_lo, d_hi, d_lo):
    if r.fragment == 2:
        r.payload_bytes = packet_end - i
        r.payload_offset = i
        r.captured_payload = 0
        _ends(r, s_hi, s_lo, d_hi, d_lo, 0, 0)
        return ATTRIBUTED, i, NOTHING, packet_end
    if i + 4 > end:
        return cut_or_malformed(end, packet_end), i, NOTHING, packet_end
    source_port = u16(buffer, i)
    destination_port = u16(buffer, i + 2)
    if protocol == 17:
        if packet_end < i + 8:
            return MALFORMED, i, NOTHING, packet_end
        header = 8
        if i + 6 <= end:
            size = u16(buffer, i + 4)
            if i + size < packet_end and size != 0:  # empty: a jumbogram (RFC 2675, 4), or segmentation offload
                packet_end = i + max(size, 8)
                end = min(end, packet_end)
        if may_be_tunnel(tunnels, source_port, destination_port):
            inner, kind = udp_tunnel(buffer, i, end, packet_end, tunnels, r)
            if kind != NOTHING:
                return ATTRIBUTED, inner, kind, packet_end
    else:
        if packet_end < i + 20:
            return MALFORMED, i, NOTHING, packet_end
        header = 20
        if i + 16 <= end:
            header = (u8(buffer, i + 12) >> 4) * 4
            if header < 20 or i + header > packet_end:
                return MALFORMED, i, NOTHING, packet_end
            _tcp_header(buffer, i, header, end, r)
        else:
            r.tcp_header_bytes = header
    r.payload_bytes = packet_end - i - header
    r.payload_offset = i + header
    r.captured_payload = max(end - i - header, 0)
    _ends(r, s_hi, s_lo, d_hi, d_lo, source_port, destination_port)
    return ATTRIBUTED, i, NOTHING, packet_end


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


@inlined
def _timestamps(buffer, i, r):
    """The option of that name at `i` (RFC 7323 section 3)."""
    r.has_timestamps = 1
    r.tsval = u32(buffer, i + 2)
    r.tsecr = u32(buffer, i + 6)


@helper
def _tcp_options(buffer, i, end, r):
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
            _timestamps(buffer, i, r)
        elif kind == 5 and size >= 10:
            r.sack_blocks = (size - 2) // 8
            r.sack_left = u32(buffer, i + 2)
            r.sack_right = u32(buffer, i + 6)
        elif kind == 3 and size == 3:
            r.window_scale = min(u8(buffer, i + 2), 14)  # RFC 7323 section 2.3
        elif kind == 2 and size == 4:
            r.mss = u16(buffer, i + 2)
        i += size
