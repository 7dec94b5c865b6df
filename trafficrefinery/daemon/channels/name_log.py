"""What DNS answers taught, as a log in shared memory: one process writes, all workers read, without locks.

The memory has two halves. Entries are appended to one; when it is full, what still holds goes to the other half and
the generation moves on, so a reader that is not a whole generation behind always reads from memory that stays.
"""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trafficrefinery.daemon import logs
from trafficrefinery.jit.shared_memory import Shared
from trafficrefinery.system.writing import Whole

_HEADER = np.dtype([("generation", "i8"), ("used", "i8", (2,))])
_ENTRY = struct.Struct("<IQQQQqqBH")  # checksum of the rest, client, server, expires, learnt, is_asked, bytes of name
_MAGIC = b"trafficrefinery names 2\n"
_BYTES_PER_ADDRESS = 96
_MAX_HALF_BYTES = 16 << 20  # some 200,000 answers: more would take a reader that begins seconds
_STILL_LONG = 0.9  # of its time that is left to an answer
_REMEMBERED = 1 << 16  # answers that are not written again when they are repeated


class Learned(NamedTuple):
    """An address that a DNS answer gave to a client ((0, 0): not known), and the name that matched a service.

    Unless it `is_asked`, that is its query was seen, it holds for that client alone.
    """

    client: tuple[int, int]
    server: tuple[int, int]
    expires_ns: int
    learnt_ns: int
    name: str
    is_asked: bool = True


def encode(entry: Learned) -> bytes:
    """One entry as bytes; their checksum comes first."""
    name = entry.name.encode()[:0xFFFF]
    numbers = (*entry.client, *entry.server, entry.expires_ns, entry.learnt_ns, entry.is_asked, len(name))
    rest = _ENTRY.pack(0, *numbers)[4:] + name
    return struct.pack("<I", zlib.crc32(rest)) + rest


def decode(data: bytes) -> Iterator[tuple[Learned, int]]:
    """Entries, and where each ends; up to the first that is damaged or cut."""
    at = 0
    while at + _ENTRY.size <= len(data):
        checksum, client_hi, client_lo, server_hi, server_lo, expires_ns, learnt_ns, is_asked, length = (
            _ENTRY.unpack_from(data, at)
        )
        end = at + _ENTRY.size + length
        if end > len(data) or zlib.crc32(memoryview(data)[at + 4 : end]) != checksum:
            return
        name = data[at + _ENTRY.size : end].decode(errors="replace")
        at = end
        yield Learned((client_hi, client_lo), (server_hi, server_lo), expires_ns, learnt_ns, name, bool(is_asked)), end


class NameLog:
    """The memory; `max_addresses` bounds it."""

    def __init__(self, max_addresses: int) -> None:
        self.half_bytes = min(max(max_addresses * _BYTES_PER_ADDRESS, 1 << 20), _MAX_HALF_BYTES)
        self._shared_header = Shared(1, _HEADER)
        self._shared_entries = Shared(2 * self.half_bytes, np.dtype("u1"))

    @property
    def header(self) -> Any:
        """Generation, and bytes used in each half: a record."""
        return self._shared_header.array[0]

    def half(self, generation: int) -> np.ndarray:
        """The half that a generation's entries are in."""
        start = generation % 2 * self.half_bytes
        return self._shared_entries.array[start : start + self.half_bytes]

    def close(self) -> None:
        """Give the descriptors back."""
        self._shared_header.close()
        self._shared_entries.close()


class LogWriter:
    """The DNS process's end. One that follows a killed one goes on where that stopped."""

    def __init__(self, log: NameLog) -> None:
        self._log = log
        self._last: OrderedDict[tuple[Any, ...], int] = OrderedDict()  # client, server, name: expires_ns as written
        self.forgotten_total = 0

    @property
    def content(self) -> bytes:
        """All entries of the current generation."""
        header = self._log.header
        generation = int(header["generation"])
        return self._log.half(generation)[: int(header["used"][generation % 2])].tobytes()

    def append(self, entry: Learned) -> None:
        """Add an entry, unless it says little that is new; a full half may forget the older half of what holds."""
        key = (entry.client, entry.server, entry.name)
        left_ns = self._last.get(key, 0) - entry.learnt_ns
        if left_ns > (entry.expires_ns - entry.learnt_ns) * _STILL_LONG:
            return
        self._last[key] = entry.expires_ns
        self._last.move_to_end(key)
        if len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)
        self._write(entry)

    def _write(self, entry: Learned) -> None:
        data = encode(entry)
        header = self._log.header
        generation = int(header["generation"])
        used = int(header["used"][generation % 2])
        if used + len(data) > self._log.half_bytes:
            self._begin_generation(entry.learnt_ns)
            self._write(entry)
            return
        self._log.half(generation)[used : used + len(data)] = np.frombuffer(data, np.uint8)
        header["used"][generation % 2] = used + len(data)

    def _begin_generation(self, now_ns: int) -> None:
        latest: dict[tuple[tuple[int, int], tuple[int, int]], bytes] = {}
        for entry, _ in decode(self.content):
            latest.pop((entry.client, entry.server), None)
            if entry.expires_ns >= now_ns:
                latest[entry.client, entry.server] = encode(entry)
        kept, total = [], 0
        for data in reversed(latest.values()):
            total += len(data)
            if total > self._log.half_bytes // 2:
                break
            kept.append(data)
        self.forgotten_total += len(latest) - len(kept)
        data = b"".join(reversed(kept))
        header = self._log.header
        generation = int(header["generation"]) + 1
        self._log.half(generation)[: len(data)] = np.frombuffer(data, np.uint8)
        header["used"][generation % 2] = len(data)
        header["generation"] = generation

    def save(self, path: Path) -> None:
        """Keep the entries in a file, which is whole or as it was before. OSError when that fails."""
        with Whole(path) as draft, open(draft, "xb", opener=_for_owner) as file:
            file.write(_MAGIC + self.content)
            file.flush()
            os.fsync(file.fileno())


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def load(path: Path, now_ns: int) -> list[Learned]:
    """The entries of a file that still hold; none when there is no file, or another kind of one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    if not data.startswith(_MAGIC):
        logs.warning("the saved names have an older format; starting without them", file=path)
        return []
    return [entry for entry, _ in decode(data[len(_MAGIC) :]) if entry.expires_ns >= now_ns]


class LogReader:
    """A worker's end."""

    def __init__(self, log: NameLog) -> None:
        self._log = log
        self._generation, self._position = -1, 0

    def new(self, limit: int | None = None) -> list[Learned]:
        """What was learnt since the last call, the oldest `limit` at most; of a new generation, all of it."""
        header = self._log.header
        while True:
            generation = int(header["generation"])
            start = self._position if generation == self._generation else 0
            used = int(header["used"][generation % 2])
            if used == start and generation == self._generation:
                return []
            data = self._log.half(generation)[start:used].tobytes()
            if int(header["generation"]) <= generation + 1:
                break
        found = list(itertools.islice(decode(data), limit))
        self._generation, self._position = generation, start + (found[-1][1] if found else 0)
        return [entry for entry, _ in found]
