"""What one side of a TCP connection says first, put together from several segments, and the name in it."""

from __future__ import annotations

import numpy as np

from trafficrefinery.services.source_readers import read_assembled
from trafficrefinery.services.sources import ALL_WANTED

from . import Status
from .assembly import ByteAssembly, seq_offset

LIMIT_BYTES = 16 * 1024
"""Bytes of a stream from the start of a hello, or of CRYPTO frames, that a hello is looked for in."""
_PASS_UNITS = 4  # each takes 40 µs at most
_MAX_PLACES = 256  # where a hello may begin in what has not arrived in order


class StreamReader:
    """Puts the start of one side of a TCP connection together, from segments in any order.

    The name is reported as soon as it is there, even when the hello goes on; its absence only at the hello's end.
    Only distinct bytes count towards the limit, never segments.

    Args:
        start_seq: sequence number at which the hello may begin. When something else is there, it may also begin where
            a later segment does.
        wanted: the sources that are read, see `source_readers`.

    Attributes:
        by: number of the source of the name.
        start_seq: where the hello begins or may begin now.
        ech: what the hello says of Encrypted Client Hello, see `names`.
        has_begun: what has a name begins at the start; else what is there is behind a hole.
        passed_bytes: of something else, that `start_seq` has moved over.
    """

    def __init__(self, start_seq: int, wanted: int = ALL_WANTED) -> None:
        self.name: str | None = None
        self.by = 0
        self.ech = 0
        self.status = Status.NEED_MORE
        self.has_begun = False
        self.passed_bytes = 0
        self.start_seq = start_seq
        self._wanted = wanted
        self._stream = ByteAssembly(LIMIT_BYTES)
        self._places: set[int] = set()  # sequence numbers
        self._passes = 0  # over something else, in the last segment
        self._truncated = False

    @property
    def ready_bytes(self) -> int:
        """Bytes that are there without a hole from where the hello begins or may begin."""
        return self._stream.ready_bytes

    @property
    def memory_bytes(self) -> int:
        """What the reader takes of memory, beside a constant."""
        return self._stream.memory_bytes + 64 * len(self._places)

    @property
    def extra_units(self) -> int:
        """Work that the last segment made, beyond that of a usual one; a unit is 10 µs."""
        return max(self._passes - 1, 0) * _PASS_UNITS

    def feed(self, seq: int, payload: bytes, truncated: bool = False) -> Status:
        """Take the payload of a segment; `truncated` when the capture cut it off.

        `seq` is of the first payload byte (of a SYN with data: the initial sequence number plus one).

        Returns:
            OTHER when all that is there is something else, and nothing is behind a hole.
        """
        self._passes = 0
        if self.status is not Status.NEED_MORE or not payload:
            return self.status
        self._truncated |= truncated
        if len(self._places) < _MAX_PLACES:
            self._places.add(seq)
        ready_bytes = self._stream.ready_bytes
        self._stream.add(seq_offset(seq, self.start_seq), payload)
        if self._stream.ready_bytes > ready_bytes:
            self._read()
        return self.status

    def _read(self) -> None:
        while self._stream.ready_bytes:
            stream = bytearray(self._stream.prefix())
            read = read_assembled(np.frombuffer(stream, np.uint8), self._wanted)
            self.by, found, _, name_at, name_bytes, self.ech = read
            self.name = stream[name_at : name_at + name_bytes].decode("ascii").lower() or None
            self.has_begun = found == Status.NEED_MORE
            if found in (Status.FOUND, Status.NOT_FOUND):
                self.status = Status(found)
                return
            if found != Status.OTHER:
                if self._truncated or self._stream.is_full:
                    self.status = Status.NOT_FOUND
                return
            self._pass()
        if not self._stream.has_holes:
            self.status = Status.OTHER

    def _pass(self) -> None:
        """Something else is at the start: look behind it, where the next segment begins."""
        ready_bytes = self._stream.ready_bytes
        starts = [seq_offset(place, self.start_seq) for place in self._places]
        count = min((start for start in starts if 0 < start < ready_bytes), default=ready_bytes)
        self._passes += 1
        self._stream.take(count)
        self.passed_bytes += count
        self.start_seq = (self.start_seq + count) & 0xFFFFFFFF
