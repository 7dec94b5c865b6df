"""A captured frame, and the naive reading of one: link layer, IP, TCP and UDP headers, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from support.naive import shims
from support.naive.shims import UnusableError, number

UP, DOWN, TCP, UDP = 0, 1, 6, 17
MAPPED = 0xFFFF_0000_0000  # ::ffff:0:0/96, where IPv4 addresses live
VLANS = (0x8100, 0x88A8, 0x9100)
RAW_LIMIT, MOST_HEADERS = 256, 32


class Frame(NamedTuple):
    """A frame as a trace holds it."""

    ts_ns: int
    data: bytes
    wire_bytes: int
    link_type: int = 1


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
    unread: str = ""  # what is inside and was not read, as its counter is called
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

    @property
    def record_bytes(self) -> int:
        """The longest TLS record, as the packet says it; 0 where the payload is not made of records. With UDP, all of a
        payload, or 1 where it cannot be QUIC."""
        if self.payload_bytes > 1_024 or self.fragment == 2:
            return 0
        if self.protocol != TCP:
            return 0 if not self.payload else self.payload_bytes if self.payload[0] & 0x40 else 1
        rest, left, found = self.payload, self.payload_bytes, [0]
        while left >= 5:
            if len(rest) < 5 or rest[0] not in (20, 21, 22, 23) or rest[1] != 3 or rest[2] > 4:
                return 0
            found.append(5 + number(rest, 3, 2))
            rest, left = rest[found[-1] :], left - found[-1]
        return min(max(found), 65_535)


class Reading:
    """One frame on its way up the layers: `data` is what was captured of it, `wire_end` how far it reached."""

    def __init__(self, frame: Frame, decapsulate: tuple[str, ...] = ()) -> None:
        self.frame, self.data, self.decapsulate = frame, frame.data, decapsulate
        self.wire_end = max(frame.wire_bytes, len(frame.data))
        self.packet = Packet(frame.ts_ns, frame.wire_bytes, len(frame.data))
        self.headers = 0

    def need(self, until: int) -> None:
        """The captured bytes must reach to `until`."""
        if until > len(self.data):
            raise UnusableError("truncated" if self.wire_end > len(self.data) else "malformed")

    def read(self) -> Packet:
        kind, at = shims.first_header(self, self.frame.link_type)
        self.layer(kind, at)
        return self.packet

    def layer(self, kind: int | str, at: int) -> None:
        self.headers += 1
        if self.headers > MOST_HEADERS:
            raise UnusableError("malformed")
        if kind in ("ip", 0x0800, 0x86DD):
            self.ip(at)
        elif kind in ("ethernet", 0x6558):
            self.need(at + 14)
            self.packet.macs = self.data[at + 6 : at + 12], self.data[at : at + 6]
            self.layer(number(self.data, at + 12, 2), at + 14)
        elif kind in VLANS:
            self.need(at + 4)
            self.layer(number(self.data, at + 2, 2), at + 4)
        else:
            self.layer(*shims.next_header(self, kind, at))

    def ip(self, at: int) -> None:
        self.need(at + 1)
        version = self.data[at] >> 4
        if version not in (4, 6):
            raise UnusableError("malformed")
        self.need(at + (20 if version == 4 else 40))
        self.packet.ip_version = version
        if version == 4:
            self.ipv4(at)
        else:
            self.ipv6(at)

    def length(self, at: int, announced: int) -> int:
        """Of an IP packet: what its header says, or all there is where that is empty; no more than was on the wire."""
        return min(announced or self.wire_end - at, self.wire_end - at)

    def ipv4(self, at: int) -> None:
        data, p = self.data, self.packet
        header_bytes = (data[at] & 15) * 4
        p.ip_bytes = self.length(at, number(data, at + 2, 2))
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
        p.ip_bytes = self.length(at, announced + 40 if announced else 0)
        p.dscp, p.ecn = divmod(number(data, at, 2) >> 4 & 0xFF, 4)
        p.ttl = data[at + 7]
        kind, position = data[at + 6], at + 40
        p.fragment = p.fragment_id = 0
        while kind in (0, 43, 44, 51, 60, 135):
            self.need(position + 8)
            following, words = data[position], data[position + 1]
            if kind == 44:
                offset, more = divmod(number(data, position + 2, 2), 8)
                p.fragment, p.fragment_id = (2 if offset else more & 1), number(data, position + 4, 4)
                position += 8
            else:
                position += 4 * (words + 2) if kind == 51 else 8 * (words + 1)
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
        self.data, self.wire_end = self.data[:packet_end], packet_end  # what follows is padding
        if p.fragment != 2:
            for _ in range(MOST_HEADERS):
                if protocol != 51:
                    break
                self.need(at + 12)
                protocol, at = self.data[at], at + 4 * (self.data[at + 1] + 2)
        p.protocol = protocol
        if p.fragment == 2:
            if protocol not in (TCP, UDP):
                raise UnusableError("not_tcp_or_udp")
            p.payload_bytes = packet_end - at
        elif protocol not in (TCP, UDP):
            self.layer(*shims.ip_tunnel(self, protocol, at))
        else:
            self.need(at + 4)
            data = self.data
            p.source, p.destination = (p.source[0], number(data, at, 2)), (p.destination[0], number(data, at + 2, 2))
            if protocol == TCP:
                self.tcp(data, at, packet_end)
            else:
                self.udp(at)

    def udp(self, at: int) -> None:
        if self.wire_end < at + 8:
            raise UnusableError("malformed")
        announced = number(self.data, at + 4, 2) if len(self.data) >= at + 6 else 0
        if announced:
            self.wire_end = min(self.wire_end, at + max(announced, 8))
            self.data = self.data[: self.wire_end]
        inside = shims.udp_tunnel(self, self.packet.src_port, self.packet.dst_port, at + 8)
        if inside is None:
            self.payload(self.data, at + 8, self.wire_end)
        else:
            self.layer(*inside)

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
