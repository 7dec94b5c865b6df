"""From a capture worker to the aggregator: a ring of messages in shared memory, one writer and one reader.

Positions count bytes since the start and are published after what they cover, so neither side waits for the other, and
either may be killed and replaced: its successor goes on from the positions. On a machine that reorders stores a
message could be seen before its bytes; its checksum tells, and the reader looks again later.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit.shared_memory import Shared

_HEAD = struct.Struct("<qqIi")  # bytes of the body, process, checksum of the head's rest and the body's start, kind
_KIND_OFFSET = _HEAD.size - 4
_ALIGN = 64
_CHECKED = 4096  # bytes of a body that the checksum covers: torn writes show at a message's ends
_SKIP, _TAKEN = 0, -1
_KEPT_RESIDENT = 64 << 20  # of the ring's start: where messages go while the reader keeps up


class Message(NamedTuple):
    """What `Reader.messages` yields. The body is valid until the next message."""

    kind: int
    process: int
    body: NDArray[np.uint8]


class Channel:
    """The ring's memory; `limit_bytes` is reserved as address space, and what is not in use is given back."""

    def __init__(self, limit_bytes: int) -> None:
        size = -(-limit_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = Shared(size, np.dtype("u1"))

    def close(self) -> None:
        """Give the descriptor back."""
        self.memory.close()


class Writer:
    """The worker's end.

    Args:
        positions: the worker's record in `status.Board`, with `sent_bytes` and `taken_bytes`.
        process: tells messages of a restarted worker from those of the one before.
    """

    def __init__(self, channel: Channel, positions: Any, process: int) -> None:
        self._bytes, self._positions, self._process = channel.memory.array, positions, process

    @property
    def waiting_bytes(self) -> int:
        """What the reader has still to take."""
        return int(self._positions["sent_bytes"]) - int(self._positions["taken_bytes"])

    def send(self, kind: int, parts: Sequence[bytes | memoryview | NDArray[Any]]) -> bool:
        """Write a message, or nothing when there is no room; whether it was written. `kind` is above 0."""
        views = [np.frombuffer(part, np.uint8) if len(part) else np.zeros(0, np.uint8) for part in parts]
        length = sum(map(len, views))
        total = _total(length)
        size = len(self._bytes)
        at = int(self._positions["sent_bytes"])
        offset = at % size
        waiting = self.waiting_bytes
        skipped = size - offset if offset + total > size or (offset >= _KEPT_RESIDENT and not waiting) else 0
        if total > size or (waiting and skipped + total > size - waiting):
            return False
        if skipped:
            self._put_head(offset, 0, _SKIP)
            offset = 0
        end = offset + _HEAD.size
        for view in views:
            self._bytes[end : end + len(view)] = view
            end += len(view)
        self._put_head(offset, length, kind)
        self._positions["sent_bytes"] = at + skipped + total
        return True

    def _put_head(self, offset: int, length: int, kind: int) -> None:
        checksum = _checksum(self._bytes, offset, length, kind)
        self._bytes[offset : offset + _HEAD.size] = np.frombuffer(
            _HEAD.pack(length, self._process, checksum, kind), np.uint8
        )


class Reader:
    """The aggregator's end."""

    def __init__(self, channel: Channel, positions: Any) -> None:
        self._shared, self._bytes, self._positions = channel.memory, channel.memory.array, positions

    def messages(self) -> Iterator[Message]:
        """What has come; each is taken when the next is asked for."""
        size = len(self._bytes)
        while (at := int(self._positions["taken_bytes"])) < int(self._positions["sent_bytes"]):
            offset = at % size
            length, process, checksum, kind = _HEAD.unpack(self._bytes[offset : offset + _HEAD.size].tobytes())
            if kind == _TAKEN:  # by a reader that was killed before it could say so
                self._positions["taken_bytes"] = at + _total(length)
                continue
            if not 0 <= length <= size or checksum != _checksum(self._bytes, offset, length, kind):
                return
            if kind == _SKIP:
                self._positions["taken_bytes"] = at + size - offset
                continue
            start = offset + _HEAD.size
            yield Message(kind, process, self._bytes[start : start + length])
            self._give_back(offset, _total(length))
            self._positions["taken_bytes"] = at + _total(length)

    def _give_back(self, offset: int, length: int) -> None:
        start = max(-(-(offset + _HEAD.size) // mmap.PAGESIZE) * mmap.PAGESIZE, _KEPT_RESIDENT)
        end = (offset + length) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            self._bytes[offset + _KIND_OFFSET : offset + _HEAD.size].view("<i4")[0] = _TAKEN
            self._shared.give_back(start, end - start)


def _total(length: int) -> int:
    """What a message with a body of `length` bytes takes."""
    return -(-(_HEAD.size + length) // _ALIGN) * _ALIGN


def _checksum(memory: NDArray[np.uint8], offset: int, length: int, kind: int) -> int:
    start, end = offset + _HEAD.size, offset + _HEAD.size + length
    value = zlib.crc32(struct.pack("<qi", length, kind))
    value = zlib.crc32(memory[start : min(start + _CHECKED, end)].data, value)
    return zlib.crc32(memory[max(end - _CHECKED, start) : end].data, value)
