"""The search for the name of a flow, naive: twin of `handshakes` and of what it asks Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from support.naive import hellos
from support.naive.connections import ahead
from support.naive.tlsnames import hello_name, initial_crypto
from trafficrefinery.services.names import Status

LIMIT_BYTES = 16_384
FARTHEST = 0x7FFF  # of a hello from the first sequence number of its side
QUIC_VERSIONS = (1, 0x6B3343CF)
SYN = 2


def may_be_initial(p: Any) -> bool:
    """Whether a datagram can be a client's, with a piece of a hello."""
    long_header = len(p.payload) >= 16 and p.payload[0] & 0x80 and p.payload_bytes >= 1200
    version = int.from_bytes(p.payload[1:5])
    initial = 0x10 if version == 0x6B3343CF else 0  # bits of the type
    return bool(long_header and version in QUIC_VERSIONS and p.payload[0] & 0x30 == initial)


@dataclass
class Search:
    """What was seen of the handshake that names the server; `done` when no packet is looked at any more."""

    done: bool = False
    passed_bytes: int = 0
    side: Any = None  # whose hello is put together
    moved: dict[Any, int] = field(
        default_factory=dict
    )  # from a side's first sequence number to where a hello may begin
    start: int | None = None  # of the pieces
    pieces: dict[int, int] = field(default_factory=dict)
    places: set[int] = field(default_factory=set)
    others: dict[Any, Any] = field(default_factory=dict)  # start, pieces, places and cut of the other side
    cut: bool = False
    ready: int = 0

    def prefix(self) -> bytes:
        end = 0
        while end in self.pieces:
            end += 1
        return bytes(self.pieces[i] for i in range(end))

    def pass_over(self, count: int) -> None:
        self.passed_bytes += count
        self.done |= self.passed_bytes >= LIMIT_BYTES

    def move(self, end: Any, first: int, seq: int) -> None:
        if abs(ahead(seq, first)) <= FARTHEST:
            self.moved[end] = ahead(seq, first)

    # TCP

    def tcp(self, p: Any, first: int) -> str | None:
        """The name that a segment tells; `first`: the first sequence number of its side."""
        if not p.payload_bytes:
            return None
        seq = (p.seq + bool(p.tcp_flags & SYN)) % 2**32
        if self.side != p.source and len(p.payload) >= 6 and hellos.starts(p.payload):
            self.move(p.source, first, seq)
        distance = ahead(seq, (first + self.moved.get(p.source, 0)) % 2**32)
        known = min(self.ready // 64, 255) * 64 if self.side == p.source else 0
        if distance + p.payload_bytes <= known:
            return None
        if distance >= LIMIT_BYTES:
            self.pass_over(p.payload_bytes)
            return None
        if self.side == p.source or distance > 0:
            return self.piece(p, first, seq)
        return self.at_start(p, first, seq, p.payload[-distance:], p.payload_bytes + distance)

    def at_start(self, p: Any, first: int, seq: int, content: bytes, behind: int) -> str | None:
        start = (first + self.moved.get(p.source, 0)) % 2**32
        found = hellos.find(content)
        at = 0
        if found is not None and found >= len(content):
            behind = max(behind, found)
        elif found is not None:
            hello = hellos.NEED_MORE if found < 0 else hellos.first_record(content[found:])
            at = max(found, 0)
            if hello.status is Status.FOUND:
                self.done = True
                return hello.name
            if hello.status is Status.NEED_MORE and len(p.payload) < p.payload_bytes:
                self.done = True
                return None
            if hello.status is Status.NEED_MORE:
                self.move(p.source, first, start + at)
                return self.piece(p, first, seq)
        self.move(p.source, first, start + behind)
        self.pass_over(behind - at)
        return None

    def piece(self, p: Any, first: int, seq: int) -> str | None:
        start = (first + self.moved.get(p.source, 0)) % 2**32
        if (self.side, self.start) != (p.source, start):
            self.others[self.side] = self.start, self.pieces, self.places, self.cut
            self.side, self.start = p.source, start
            known, *before = self.others.get(p.source, (None,))
            self.pieces, self.places, self.cut = before if known == start else ({}, set(), False)
        self.cut |= len(p.payload) < p.payload_bytes
        self.places.add(seq)
        before = len(self.prefix())
        for i, byte in enumerate(p.payload):
            if 0 <= ahead(seq + i, start) < LIMIT_BYTES:
                self.pieces.setdefault(ahead(seq + i, start), byte)
        name = self.read(p.source, first) if len(self.prefix()) > before else None
        self.ready = len(self.prefix())
        return name

    def read(self, end: Any, first: int) -> str | None:
        while stream := self.prefix():
            hello = hellos.in_stream(stream)
            if hello.status in (Status.FOUND, Status.NOT_FOUND):
                self.done = True
                return hello.name
            if hello.status is Status.NEED_MORE:
                self.done |= self.cut or len(stream) >= LIMIT_BYTES
                return None
            places = [ahead(place, self.start) for place in self.places]
            count = min([place for place in places if 0 < place < len(stream)], default=len(stream))
            self.pieces = {i - count: byte for i, byte in self.pieces.items() if i >= count}
            self.start = (self.start + count) % 2**32
            self.moved[end] = min(self.moved.get(end, 0) + count, FARTHEST)
            self.passed_bytes += count
        if not self.pieces:
            self.side = None
            self.done |= self.passed_bytes >= LIMIT_BYTES
        return None

    # QUIC

    def udp(self, p: Any) -> str | None:
        if not may_be_initial(p):
            self.passed_bytes += p.payload_bytes
            return None
        if self.side not in (None, p.source):
            return None
        if len(p.payload) < p.payload_bytes:
            self.passed_bytes += p.payload_bytes
            return None
        found = initial_crypto(p.payload)
        if found is None:
            return None
        self.side = p.source
        before = len(self.prefix())
        for i, byte in enumerate(found[1]):
            self.pieces.setdefault(found[0] + i, byte)
        if len(self.prefix()) == before:
            return None
        self.done, name = hello_name(self.prefix())
        return name
