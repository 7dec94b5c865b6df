"""Pieces of a byte stream put in order, within bounds."""

from __future__ import annotations

from bisect import bisect_left


def seq_offset(seq: int, start_seq: int) -> int:
    """Distance of two TCP sequence numbers, modulo 2^32, between -2^31 and 2^31 - 1."""
    distance = (seq - start_seq) & 0xFFFFFFFF
    return distance - 0x1_0000_0000 if distance >= 0x8000_0000 else distance


class ByteAssembly:
    """The first `limit_bytes` of a stream, from pieces in any order. What came first stays; the rest is cut off.

    >>> stream = ByteAssembly(100)
    >>> stream.add(5, b"world")
    >>> stream.add(0, b"hello")
    >>> stream.prefix()
    b'helloworld'
    """

    MAX_RANGES = 64  # more holes than that are not a network's doing

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()
        self._ranges: list[tuple[int, int]] = []  # sorted, disjoint, not touching: the bytes that are there

    def add(self, offset: int, piece: bytes) -> None:
        """Put `piece` at `offset` from the start of the stream; a negative offset is of bytes already past."""
        if offset < 0:
            piece, offset = piece[-offset:], 0
        end = min(offset + len(piece), self._limit_bytes)
        if offset >= end:
            return
        first = bisect_left(self._ranges, offset, key=lambda known: known[1])
        last = first
        while last < len(self._ranges) and self._ranges[last][0] <= end:
            last += 1
        if first == last and len(self._ranges) >= self.MAX_RANGES:
            return
        if len(self._data) < end:
            self._data.extend(bytes(end - len(self._data)))
        hole = offset
        touching = self._ranges[first:last]
        for known_start, known_end in [*touching, (end, end)]:
            if hole < known_start:
                self._data[hole:known_start] = piece[hole - offset : known_start - offset]
            hole = known_end
        if touching:
            offset, end = min(offset, touching[0][0]), max(end, touching[-1][1])
        self._ranges[first:last] = [(offset, end)]

    @property
    def ready_bytes(self) -> int:
        """How many bytes are there without a hole from the start."""
        return self._ranges[0][1] if self._ranges and self._ranges[0][0] == 0 else 0

    def prefix(self, limit_bytes: int | None = None) -> bytes:
        """The bytes that are there without a hole from the start, or the first `limit_bytes` of them."""
        ready_bytes = self.ready_bytes
        return bytes(self._data[: ready_bytes if limit_bytes is None else min(ready_bytes, limit_bytes)])

    def take(self, count: int) -> bytes:
        """Remove and return the first `count` bytes, which must be ready; the stream then starts behind them."""
        taken = bytes(self._data[:count])
        del self._data[:count]
        self._ranges = [(max(0, start - count), end - count) for start, end in self._ranges if end > count]
        return taken
