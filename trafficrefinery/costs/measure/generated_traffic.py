"""Generated traffic: what a feature class may meet, as frames. The same each time."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from trafficrefinery.api import ACK, CWR, DOWN, ECE, FIN, PSH, RST, SYN, TCP, UDP, UP, URG
from trafficrefinery.capture.traces.reader import PcapWriter

START_NS = 1_600_000_000_000_000_000  # on the grid of 10-second intervals
INTERVAL_NS = 10_000_000_000
_MS = 1_000_000
_SEGMENT_BYTES = 1_400
_FRAGMENT_BYTES = 1_480  # a multiple of 8


class Frame(NamedTuple):
    """A frame, as captured, with what it belongs to."""

    ts_ns: int
    data: bytes
    wire_bytes: int
    flow: int
    direction: int


def write_traffic(path: Path, frames: list[Frame]) -> None:
    """Write frames as a trace."""
    with PcapWriter(path) as writer:
        for frame in frames:
            writer.write(frame.ts_ns, frame.data, frame.wire_bytes)


def traffic(exchanges: int = 12, many: int = 1_500, net: int = 0) -> list[Frame]:
    """Some 140 frames for each exchange, and a flow of `many` packets in one interval.

    TCP with handshake and without, options, retransmissions, reordering, duplicates, sequence numbers that wrap; QUIC;
    fragments; IPv4 and IPv6; VLANs; frames that were cut; times that go back.

    Args:
        net: a byte of the servers' addresses: 198.18.`net`.0/24 and 2001:db8:`net`::/48.
    """
    flows: list[Iterator[Frame]] = []

    def ends(version: int, protocol: int, cut_at: int = 65_535) -> _Ends:
        return _Ends(len(flows), net, version, protocol, cut_at)

    for version, isn, options in (
        (4, 7, True), (6, 2**32 - 5_000, True), (4, 2**31 - 5_000, False), (6, 2**32 - 1, False),
    ):  # fmt: skip
        flows.append(_tcp(ends(version, TCP), isn, options, exchanges))
    for cut_at in (54, 60, 70):  # behind the TCP header, inside its options, behind them
        cut = ends(4, TCP, cut_at)
        flows.append(_tcp(cut, 2**32 - 50_000, True, exchanges // 3))
    for version in (4, 6):
        flows.append(_quic(ends(version, UDP), exchanges))
        flows.append(_fragments(ends(version, UDP), exchanges))
    flows.append(_odd(ends(4, TCP)))
    flows.append(_many(ends(4, UDP), many))
    flows.append(_single(ends(6, UDP)))
    frames = sorted((frame for flow in flows for frame in flow), key=lambda frame: frame.ts_ns)
    for i in range(5, len(frames) - 1, 97):  # two capture queues: a later frame comes first
        frames[i], frames[i + 1] = frames[i + 1], frames[i]
    return frames


@dataclass
class _Ends:
    """The two ends of a flow: makes its frames."""

    flow: int
    net: int
    version: int
    protocol: int
    cut_at: int  # snap length
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.flow)

    def frame(
        self, ts_ns: int, direction: int, segment: bytes, fragment: int | None = None, fragment_id: int = 0
    ) -> Frame:
        """The frame of what follows the IP header; `fragment` is the offset and the more-fragments bit, in bytes."""
        packet = (self._ipv4 if self.version == 4 else self._ipv6)(direction, segment, fragment, fragment_id)
        link = b"\x02\0\0\0\0\1" + b"\x02\0\0\0\0\2"
        if self.flow % 2:
            link += b"\x81\x00\x00\x07"
        data = link + (b"\x08\x00" if self.version == 4 else b"\x86\xdd") + packet
        return Frame(ts_ns, data[: self.cut_at], len(data), self.flow, direction)

    def _ipv4(self, direction: int, segment: bytes, fragment: int | None, fragment_id: int) -> bytes:
        client = bytes([10, self.net, self.flow, 2])
        server = bytes([198, 18, self.net, self.flow])
        bits = 0x4000 if fragment is None else (fragment & 1) << 13 | fragment >> 3
        total = min(20 + len(segment), 65_535)
        head = struct.pack(">BBHHHBBH", 0x45, 0x2A, total, fragment_id, bits, 64 - direction, self.protocol, 0)
        return head + (client + server if direction == UP else server + client) + segment

    def _ipv6(self, direction: int, segment: bytes, fragment: int | None, fragment_id: int) -> bytes:
        client = bytes.fromhex("20010db8fffe") + bytes([0, self.net]) + bytes(7) + bytes([self.flow])
        server = bytes.fromhex("20010db8") + bytes([0, self.net]) + bytes(9) + bytes([self.flow])
        following = self.protocol
        if fragment is not None:
            segment = struct.pack(">BBHI", self.protocol, 0, fragment, fragment_id) + segment
            following = 44
        head = struct.pack(">IHBB", 0x60000000, len(segment), following, 255 - direction)
        return head + (client + server if direction == UP else server + client) + segment

    def ports(self, direction: int) -> bytes:
        client, server = 50_000 + self.flow, 443
        return struct.pack(">HH", *((client, server) if direction == UP else (server, client)))

    def tcp(
        self, at: tuple[int, int], numbers: tuple[int, int], flags: int, payload_bytes: int = 0, options: bytes = b""
    ) -> Frame:
        """A segment: time and direction, sequence and acknowledgement numbers without their wrap at 2^32."""
        (ts_ns, direction), (seq, ack) = at, numbers
        options += bytes(-len(options) % 4)
        window = self.random.choice([0, 1, 501, 65_535])
        head = struct.pack(">IIBBHHH", seq % 2**32, ack % 2**32, (5 + len(options) // 4) << 4, flags, window, 0, 0)
        payload = self.random.randbytes(min(payload_bytes, 80)) + bytes(max(payload_bytes - 80, 0))
        return self.frame(ts_ns, direction, self.ports(direction) + head + options + payload)

    def udp(self, ts_ns: int, direction: int, payload: bytes) -> Frame:
        return self.frame(ts_ns, direction, self.ports(direction) + struct.pack(">HH", 8 + len(payload), 0) + payload)


def _timestamps(ts_ns: int, echo_ns: int) -> bytes:
    return struct.pack(">BBBBII", 1, 1, 8, 10, ts_ns // _MS % 2**32, echo_ns // _MS % 2**32)


def _tcp(ends: _Ends, isn: int, options: bool, exchanges: int) -> Iterator[Frame]:
    """A connection of requests and bursts of segments, of which some are lost, come twice or in another order."""
    random = ends.random
    ts_ns = START_NS + random.randrange(500 * _MS)
    sent = [isn, (isn + 2**31 + 77) % 2**32]
    if options:
        syn = bytes([2, 4, 5, 180, 3, 3, 7, 4, 2])
        yield ends.tcp((ts_ns, UP), (sent[UP], 0), SYN | ECE | CWR, 0, syn)
        yield ends.tcp((ts_ns + 1_100 * _MS, UP), (sent[UP], 0), SYN, 0, syn)
        ts_ns += 1_140 * _MS
        yield ends.tcp((ts_ns, DOWN), (sent[DOWN], sent[UP] + 1), SYN | ACK, 0, syn)
        sent = [sent[UP] + 1, sent[DOWN] + 1]
    for exchange in range(exchanges):
        stamp = _timestamps(ts_ns, ts_ns - 30 * _MS) if options else b""
        yield ends.tcp((ts_ns, UP), (sent[UP], sent[DOWN]), ACK | PSH, 300, stamp)
        if exchange % 4 == 1:
            yield ends.tcp((ts_ns + 9 * _MS, UP), (sent[UP], sent[DOWN]), ACK | PSH, 300, stamp)
        sent[UP] += 300
        ts_ns += 40 * _MS
        for frame in _burst(ends, ts_ns, sent, options):
            yield frame
            ts_ns = frame.ts_ns
        ts_ns += random.choice([0, 3 * _MS, 700 * _MS, 2_500 * _MS, 11_000 * _MS])
    if options:
        yield ends.tcp((ts_ns, UP), (sent[UP], sent[DOWN]), FIN | ACK)
        yield ends.tcp((ts_ns + 30 * _MS, DOWN), (sent[DOWN], sent[UP] + 1), FIN | ACK, 20)
        yield ends.tcp((ts_ns + 31 * _MS, UP), (sent[UP] + 1, sent[DOWN] + 21), ACK)
    else:
        yield ends.tcp((ts_ns, DOWN), (sent[DOWN], sent[UP]), RST | ACK)
        yield ends.tcp((ts_ns + 1, UP), (sent[UP], 0), RST)


def _burst(ends: _Ends, ts_ns: int, sent: list[int], options: bool) -> Iterator[Frame]:
    """A response of up to 40 segments, and their acknowledgements. Moves `sent[DOWN]` on."""
    random = ends.random
    segments = [(sent[DOWN] + i * _SEGMENT_BYTES, _SEGMENT_BYTES) for i in range(random.choice([0, 1, 6, 25, 40]))] + [
        (sent[DOWN] - 500, 500)
    ] * random.randrange(2)
    for _ in range(len(segments) // 6):
        i = random.randrange(len(segments))
        segments.insert(i + random.randrange(-2, 5), segments[i] if random.random() < 0.5 else segments.pop(i))
    for i, (seq, payload_bytes) in enumerate(segments):
        ts_ns += random.choice([0, 12_000, 1_500_000])
        stamp = _timestamps(ts_ns, ts_ns - 20 * _MS) if options else b""
        yield ends.tcp((ts_ns, DOWN), (seq, sent[UP]), ACK | (PSH if i % 9 == 8 else 0), payload_bytes, stamp)
        if i % 2:
            block = struct.pack(">BBBBII", 1, 1, 5, 10, (seq + 100) % 2**32, (seq + payload_bytes) % 2**32)
            extra = stamp + (block if i % 5 == 0 else b"") if options else b""
            yield ends.tcp((ts_ns + 90_000, UP), (sent[UP], seq + payload_bytes), ACK, 0, extra)
            ts_ns += 90_000
    sent[DOWN] += max((seq + payload_bytes - sent[DOWN] for seq, payload_bytes in segments), default=0)


def _quic(ends: _Ends, exchanges: int) -> Iterator[Frame]:
    random = ends.random
    ts_ns = START_NS + 200 * _MS
    yield ends.udp(ts_ns, UP, b"\xc3\0\0\0\1\x08" + random.randbytes(60) + bytes(1_134))
    yield ends.udp(ts_ns + 21 * _MS, DOWN, b"\xc3\0\0\0\1\0" + random.randbytes(60) + bytes(1_134))
    for _ in range(exchanges):
        ts_ns += random.choice([25 * _MS, 900 * _MS, 4_000 * _MS])
        yield ends.udp(ts_ns, UP, b"\x41" + random.randbytes(40) + bytes(random.choice([10, 59, 60, 400])))
        for i in range(random.choice([0, 2, 30])):
            ts_ns += random.choice([0, 20_000, 3 * _MS])
            yield ends.udp(ts_ns, DOWN, b"\x42" + random.randbytes(40) + bytes(random.choice([0, 1_200])))
            if i % 3 == 0:
                yield ends.udp(ts_ns + 5_000, UP, b"\x41" + random.randbytes(30))


def _fragments(ends: _Ends, exchanges: int) -> Iterator[Frame]:
    """Datagrams of three fragments; every fifth comes in another order, and every seventh is whole."""
    ts_ns = START_NS + 5_000 * _MS
    for number in range(exchanges):
        ts_ns += 1_300 * _MS
        payload = ends.random.randbytes(50) + bytes(3_450)
        segment = ends.ports(number % 2) + struct.pack(">HH", 8 + len(payload), 0) + payload
        if number % 7 == 6:
            yield ends.frame(ts_ns, number % 2, segment)
            continue
        pieces = [
            (offset | (1 if offset + _FRAGMENT_BYTES < len(segment) else 0), segment[offset : offset + _FRAGMENT_BYTES])
            for offset in range(0, len(segment), _FRAGMENT_BYTES)
        ]
        if number % 5 == 4:
            pieces[1:] = pieces[:0:-1]
        for i, (fragment, piece) in enumerate(pieces):
            yield ends.frame(ts_ns + i, number % 2, piece, fragment, fragment_id=number + 1)


def _odd(ends: _Ends) -> Iterator[Frame]:
    """Every flag, no flag, urgent data, keep-alives, the largest packet, times that go back."""
    ts_ns = START_NS + 3_000 * _MS
    for number in range(64):
        step = -400 * _MS if number % 10 == 9 else 150 * _MS
        ts_ns += step
        flags = (number * 37) % 256 if number % 3 else ACK | URG
        payload_bytes = 65_000 if number == 30 else number % 4
        seq = 2**32 - 20 + number - number % 5
        yield ends.tcp((ts_ns, number // 2 % 2), (seq, number * 11), flags, payload_bytes)


def _many(ends: _Ends, count: int) -> Iterator[Frame]:
    """More packets in one interval than any list of first packets holds."""
    for number in range(count):
        payload_bytes = [0, 1, 120, 1_372][number * 7 % 4]
        yield ends.udp(START_NS + 20_000 * _MS + number * _MS * 6, number % 3 % 2, bytes(payload_bytes))


def _single(ends: _Ends) -> Iterator[Frame]:
    yield ends.udp(START_NS + 2 * INTERVAL_NS - 1, DOWN, b"")
