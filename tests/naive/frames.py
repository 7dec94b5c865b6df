"""A captured frame, and the naive reading of one: link layer, IP, TCP and UDP headers, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

UP, DOWN, TCP, UDP, GRE = 0, 1, 6, 17, 47
MAPPED = 0xFFFF_0000_0000  # ::ffff:0:0/96, where IPv4 addresses live
ETHERNET, TRANSPARENT_ETHERNET, IPV4, IPV6 = -1, 0x6558, 0x0800, 0x86DD
VLANS, MPLS, PPPOE = (0x8100, 0x88A8, 0x9100), (0x8847, 0x8848), 0x8864
RAW_LIMIT, MOST_HEADERS = 256, 32


class Frame(NamedTuple):
    """A frame as a trace holds it."""

    ts_ns: int
    data: bytes
    wire_bytes: int
    link_type: int = 1


class UnusableError(Exception):
    """The frame is no TCP or UDP packet that can be read; the argument is the reason's name."""


@dataclass
class Packet:
    """What a feature class sees, and what the flow and the service map need."""

    ts_ns: int
    wire_bytes: int
    captured_bytes: int
    source: tuple[int, int] = (0, 0)  # address as a 128-bit number, port
    destination: tuple[int, int] = (0, 0)
    protocol: int = 0
    ip_version: int = 0
    ip_bytes: int = 0
    payload_bytes: int = 0
    payload: bytes = b""  # what was captured of it
    raw: bytes = b""
    seq: int = 0
    ack: int = 0
    window: int = 0
    tcp_flags: int = 0
    tcp_header_bytes: int = 0
    window_scale: int = -1
    mss: int = 0
    has_timestamps: int = 0
    tsval: int = 0
    tsecr: int = 0
    sack_blocks: int = 0
    sack_left: int = 0
    sack_right: int = 0
    ttl: int = 0
    dscp: int = 0
    ecn: int = 0
    fragment: int = 0  # 0 whole, 1 first, 2 later
    fragment_id: int = 0
    macs: tuple[bytes, bytes] = (b"", b"")  # source, destination
    direction: int = 0
    interval_start_ns: int = 0

    @property
    def src_port(self) -> int:
        return self.source[1]

    @property
    def dst_port(self) -> int:
        return self.destination[1]

    @property
    def raw_bytes(self) -> int:
        return len(self.raw)


def number(data: bytes, start: int, count: int) -> int:
    return int.from_bytes(data[start : start + count])


class Reading:
    """One frame on its way up the layers."""

    def __init__(self, frame: Frame, decapsulate: tuple[str, ...] = ()) -> None:
        self.frame, self.data, self.decapsulate = frame, frame.data, decapsulate
        self.packet = Packet(frame.ts_ns, frame.wire_bytes, len(frame.data))
        self.headers = 0

    def need(self, until: int) -> None:
        """The captured bytes must reach to `until`."""
        if until > len(self.data):
            raise UnusableError("truncated" if self.frame.wire_bytes > len(self.data) else "malformed")

    def read(self) -> Packet:
        link, data = self.frame.link_type, self.data
        if link == 1:
            self.layer(ETHERNET, 0)
        elif link == 113:
            self.need(16)
            self.layer(number(data, 14, 2), 16)
        elif link == 276:
            self.need(20)
            self.layer(number(data, 0, 2), 20)
        elif link in (12, 14, 101, 228, 229):
            self.ip(0)
        elif link in (0, 108):
            self.need(4)
            self.ip(4)
        else:
            raise UnusableError("unsupported_link_type")
        return self.packet

    def layer(self, kind: int, at: int) -> None:
        self.headers += 1
        if self.headers > MOST_HEADERS:
            raise UnusableError("malformed")
        if kind in (IPV4, IPV6):
            self.ip(at)
        elif kind in (ETHERNET, TRANSPARENT_ETHERNET):
            self.ethernet(at)
        elif kind in VLANS:
            self.need(at + 4)
            self.layer(number(self.data, at + 2, 2), at + 4)
        elif kind in MPLS:
            self.mpls(at)
        elif kind == PPPOE:
            self.need(at + 8)
            ppp = {0x0021: IPV4, 0x0057: IPV6}.get(number(self.data, at + 6, 2))
            if ppp is None:
                raise UnusableError("not_ip")
            self.layer(ppp, at + 8)
        else:
            raise UnusableError("not_ip")

    def ethernet(self, at: int) -> None:
        self.need(at + 14)
        self.packet.macs = self.data[at + 6 : at + 12], self.data[at : at + 6]
        kind = number(self.data, at + 12, 2)
        if kind >= 1536:
            self.layer(kind, at + 14)
        elif self.data[at + 14 : at + 20] == b"\xaa\xaa\x03\0\0\0" and len(self.data) >= at + 22:
            self.layer(number(self.data, at + 20, 2), at + 22)
        else:
            raise UnusableError("not_ip")

    def mpls(self, at: int) -> None:
        self.need(at + 5)
        if not self.data[at + 2] & 1:
            return self.layer(MPLS[0], at + 4)
        nibble = self.data[at + 4] >> 4
        if nibble in (4, 6):
            return self.ip(at + 4)
        return self.layer(ETHERNET, at + 8 if nibble == 0 else at + 4)

    def ip(self, at: int) -> None:
        self.need(at + 1)
        version = self.data[at] >> 4
        if version not in (4, 6):
            raise UnusableError("malformed")
        self.packet.ip_version = version
        self.need(at + (20 if version == 4 else 40))
        if version == 4:
            self.ipv4(at)
        else:
            self.ipv6(at)

    def ipv4(self, at: int) -> None:
        data, p = self.data, self.packet
        header_bytes = (data[at] & 15) * 4
        p.ip_bytes = number(data, at + 2, 2) or self.frame.wire_bytes - at  # 0: segmentation offload
        if header_bytes < 20 or p.ip_bytes < header_bytes:
            raise UnusableError("malformed")
        p.dscp, p.ecn = divmod(data[at + 1], 4)
        p.ttl = data[at + 8]
        p.fragment_id = number(data, at + 4, 2)
        flags, offset = divmod(number(data, at + 6, 2), 1 << 13)
        p.fragment = 2 if offset else (1 if flags & 1 else 0)
        self.address(at, MAPPED | number(data, at + 12, 4), MAPPED | number(data, at + 16, 4))
        self.transport(data[at + 9], at + header_bytes, at + p.ip_bytes)

    def ipv6(self, at: int) -> None:
        data, p = self.data, self.packet
        announced = number(data, at + 4, 2)
        beyond = self.frame.wire_bytes - at > 40
        p.ip_bytes = self.frame.wire_bytes - at if announced == 0 and beyond else announced + 40
        p.dscp, p.ecn = divmod(number(data, at, 2) >> 4 & 0xFF, 4)
        p.ttl = data[at + 7]
        kind, position = data[at + 6], at + 40
        p.fragment = p.fragment_id = 0
        while kind in (0, 43, 44, 60, 135):
            self.need(position + 8)
            following, words = data[position], data[position + 1]
            if kind == 44:
                offset, more = divmod(number(data, position + 2, 2), 8)
                p.fragment, p.fragment_id = (2 if offset else more & 1), number(data, position + 4, 4)
                position += 8
            else:
                position += 8 * (words + 1)
            kind = following
            if p.fragment == 2:
                break
        if position > at + p.ip_bytes:
            raise UnusableError("malformed")
        self.address(at, number(data, at + 8, 16), number(data, at + 24, 16))
        self.transport(kind, position, at + p.ip_bytes)

    def address(self, at: int, source: int, destination: int) -> None:
        self.packet.source, self.packet.destination = (source, 0), (destination, 0)
        self.packet.raw = self.data[at : at + min(self.packet.ip_bytes, RAW_LIMIT)]

    def transport(self, protocol: int, at: int, packet_end: int) -> None:
        """What follows the IP header; `packet_end` is where the packet ends by its own length."""
        p = self.packet
        p.protocol = protocol
        inside = self.data[:packet_end]  # what follows is padding
        if p.fragment == 2:
            if protocol not in (TCP, UDP):
                raise UnusableError("not_tcp_or_udp")
            p.payload_bytes = packet_end - at
            return
        if protocol == GRE and "gre" in self.decapsulate:
            self.gre(inside, at, packet_end)
            return
        if protocol not in (TCP, UDP):
            raise UnusableError("not_tcp_or_udp")
        self.need_inside(inside, at + 4, packet_end)
        p.source, p.destination = (p.source[0], number(inside, at, 2)), (p.destination[0], number(inside, at + 2, 2))
        if protocol == TCP:
            self.tcp(inside, at, packet_end)
            return
        if packet_end < at + 8:
            raise UnusableError("malformed")
        if p.dst_port == 4789 and "vxlan" in self.decapsulate and len(inside) >= at + 16:
            self.layer(ETHERNET, at + 16)
            return
        if 2152 in (p.src_port, p.dst_port) and "gtpu" in self.decapsulate:
            inner = self.gtpu(inside, at + 8)
            if inner is not None:
                self.ip(inner)
                return
        self.payload(inside, at + 8, packet_end)

    def need_inside(self, inside: bytes, until: int, packet_end: int) -> None:
        if until > len(inside):
            raise UnusableError("truncated" if packet_end > len(inside) else "malformed")

    def gre(self, inside: bytes, at: int, packet_end: int) -> None:
        self.need_inside(inside, at + 4, packet_end)
        checksum_or_routing, key, sequence = inside[at] & 0xC0, inside[at] & 0x20, inside[at] & 0x10
        if inside[at + 1] & 7:
            raise UnusableError("not_tcp_or_udp")
        options = sum(4 for option in (checksum_or_routing, key, sequence) if option)
        self.layer(number(inside, at + 2, 2), at + 4 + options)

    def gtpu(self, inside: bytes, at: int) -> int | None:
        """Where the inner packet of a G-PDU begins."""
        if len(inside) < at + 8 or inside[at] >> 5 != 1 or not inside[at] & 0x10 or inside[at + 1] != 255:
            return None
        inner = at + 8
        if inside[at] & 7:
            inner += 4
            extension = inside[at] & 4 and (inside[inner - 1] if inner <= len(inside) else 0)
            while extension:
                if inner >= len(inside) or inside[inner] == 0:
                    return None
                inner += 4 * inside[inner]
                if inner > len(inside):
                    return None
                extension = inside[inner - 1]
        return inner if inner < len(inside) else None

    def tcp(self, inside: bytes, at: int, packet_end: int) -> None:
        p = self.packet
        if packet_end < at + 20:
            raise UnusableError("malformed")
        p.tcp_header_bytes = 20
        if len(inside) >= at + 16:
            p.tcp_header_bytes = (inside[at + 12] >> 4) * 4
            if p.tcp_header_bytes < 20 or at + p.tcp_header_bytes > packet_end:
                raise UnusableError("malformed")
            p.seq, p.ack = number(inside, at + 4, 4), number(inside, at + 8, 4)
            p.tcp_flags, p.window = inside[at + 13], number(inside, at + 14, 2)
            self.options(inside[at + 20 : at + p.tcp_header_bytes])
        self.payload(inside, at + p.tcp_header_bytes, packet_end)

    def options(self, options: bytes) -> None:
        p = self.packet
        while options and options[0] != 0:
            if options[0] == 1:
                options = options[1:]
                continue
            if len(options) < 2 or options[1] < 2 or options[1] > len(options):
                return
            kind, value, options = options[0], options[2 : options[1]], options[options[1] :]
            if kind == 8 and len(value) == 8:
                p.has_timestamps, p.tsval, p.tsecr = 1, number(value, 0, 4), number(value, 4, 4)
            elif kind == 5 and len(value) >= 8:
                p.sack_blocks, p.sack_left, p.sack_right = len(value) // 8, number(value, 0, 4), number(value, 4, 4)
            elif kind == 3 and len(value) == 1:
                p.window_scale = min(value[0], 14)
            elif kind == 2 and len(value) == 2:
                p.mss = number(value, 0, 2)

    def payload(self, inside: bytes, at: int, packet_end: int) -> None:
        self.packet.payload_bytes, self.packet.payload = packet_end - at, inside[at:]


def read_frame(frame: Frame, decapsulate: tuple[str, ...] = ()) -> Packet:
    """The TCP or UDP packet in a frame. UnusableError: the reason why it is none."""
    return Reading(frame, decapsulate).read()
