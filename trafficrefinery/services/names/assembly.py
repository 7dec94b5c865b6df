"""Pieces of a byte stream put in order, within bounds."""

from __future__ import annotations


def seq_offset(seq: int, start_seq: int) -> int:
    """Distance of two TCP sequence numbers, modulo 2^32, between -2^31 and 2^31 - 1."""
    distance = (seq - start_seq) & 0xFFFFFFFF
    return distance - 0x1_0000_0000 if distance >= 0x8000_0000 else distance


class ByteAssembly:
    """The first `limit_bytes` of a stream, from pieces in any order. What came first stays; the rest is cut off.

    It takes at most twice `limit_bytes` of memory, however many holes there are.

    >>> stream = ByteAssembly(100)
    >>> stream.add(5, b"world")
    5
    >>> stream.add(0, b"hello")
    5
    >>> stream.prefix()
    b'helloworld'
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()
        self._known = bytearray()  # 1 where a byte is there
        self._ready_bytes = 0

    def add(self, offset: int, piece: bytes) -> int:
        """Put `piece` at `offset` from the start of the stream; a negative offset is of bytes already past.

        Returns:
            How many of its bytes were not there yet.
        """
        if offset < 0:
            piece, offset = piece[-offset:], 0
        end = min(offset + len(piece), self._limit_bytes)
        if offset >= end:
            return 0
        if len(self._data) < end:
            more = bytes(end - len(self._data))
            self._data += more
            self._known += more
        known, new_bytes, position = self._known, 0, offset
        while (start := known.find(0, position, end)) >= 0:
            position = known.find(1, start, end)
            position = end if position < 0 else position
            self._data[start:position] = piece[start - offset : position - offset]
            known[start:position] = b"\x01" * (position - start)
            new_bytes += position - start
        hole = known.find(0, self._ready_bytes)
        self._ready_bytes = len(known) if hole < 0 else hole
        return new_bytes

    @property
    def ready_bytes(self) -> int:
        """How many bytes are there without a hole from the start."""
        return self._ready_bytes

    @property
    def has_holes(self) -> bool:
        """Whether bytes are there behind a hole."""
        return self._ready_bytes < len(self._known)

    @property
    def is_full(self) -> bool:
        """Whether all bytes are there, up to the limit."""
        return self._ready_bytes >= self._limit_bytes

    @property
    def memory_bytes(self) -> int:
        """What it takes of memory."""
        return 2 * len(self._data)

    def prefix(self, limit_bytes: int | None = None) -> bytes:
        """The bytes that are there without a hole from the start, or the first `limit_bytes` of them."""
        ready_bytes = self.ready_bytes
        return bytes(self._data[: ready_bytes if limit_bytes is None else min(ready_bytes, limit_bytes)])

    def take(self, count: int) -> bytes:
        """Remove and return the first `count` bytes, which must be ready; the stream then starts behind them."""
        taken = bytes(self._data[:count])
        del self._data[:count]
        del self._known[:count]
        self._ready_bytes -= count
        return taken
