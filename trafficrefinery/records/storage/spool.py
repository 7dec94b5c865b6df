"""Messages on the disk, in order, until they are acknowledged. Survives restarts; bounded: the oldest go first.

A folder of segments, each a file of entries: a header, then the message. Torn entries end their segment.
"""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
import struct
import zlib
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from threading import RLock
from typing import BinaryIO, NamedTuple

from trafficrefinery.errors import FolderError

from .appending import AppendedFile, append_all
from .folder import FolderLock

_HEADER = struct.Struct("<IIQQI")  # message bytes, CRC-32 of the rest, run, sequence, records
_CURSOR = struct.Struct("<QI")  # next sequence to send, its CRC-32
_CRC_AT, _CHECKED_AT = 4, 8
_SEGMENT = re.compile(r"(\d{20})\.segment")
_CURSOR_NAME = "cursor"


class SpooledMessage(NamedTuple):
    """What to send.

    Args:
        run: random number of the run that made it; with `sequence` it tells a message from all others.
        records: flow records in it.
    """

    run: int
    sequence: int
    records: int
    payload: bytes

    @property
    def entry_bytes(self) -> int:
        """What it takes in a segment."""
        return _HEADER.size + len(self.payload)


class _Segment:
    """Entries of one file. `sent_*` are acknowledged ones."""

    def __init__(self, path: Path, first: int) -> None:
        self.path, self.first, self.next = path, first, first
        self.bytes = self.records = self.sent_bytes = self.sent_records = 0

    def add(self, message: SpooledMessage) -> None:
        self.next = message.sequence + 1
        self.bytes += message.entry_bytes
        self.records += message.records

    def sent(self, message: SpooledMessage) -> None:
        self.sent_bytes += message.entry_bytes
        self.sent_records += message.records


class Spool:
    """See the module. One thread appends, another one takes `first` and acknowledges.

    Args:
        folder: made when missing.
        max_bytes: of all segments; for a message beyond it, whole old segments are dropped.
        key: the key of the configuration that names the folder, for errors.

    Attributes:
        lost_records: flow records that had to go for newer ones, or could not be read back.

    Raises:
        FolderError: the folder belongs to another daemon, or cannot be written to.
    """

    def __init__(self, folder: Path, max_bytes: int, key: str) -> None:
        self._folder_lock = made_and_locked(folder, key)
        self._folder, self._max_bytes = folder, max_bytes
        self._segment_bytes = max(min(max_bytes // 16, 16 << 20), 1 << 12)
        self._run, self._lock = secrets.randbits(64), RLock()
        self.lost_records = 0
        self._segments: deque[_Segment] = deque()
        self._written: AppendedFile | None = None  # the last segment, from the first `append` on
        self._read: tuple[_Segment, BinaryIO] | None = None  # the first segment, behind what was read of it
        self._current: SpooledMessage | None = None
        self._next_to_send = self._read_cursor()
        for path, first in self._found():
            self._read_segment(path, first)
        self._next = max([self._next_to_send, *(segment.next for segment in self._segments)])
        self._forget()

    @property
    def waiting_bytes(self) -> int:
        """Of messages that are not acknowledged."""
        with self._lock:
            return sum(segment.bytes - segment.sent_bytes for segment in self._segments)

    def _found(self) -> list[tuple[Path, int]]:
        named = ((path, _SEGMENT.fullmatch(path.name)) for path in self._folder.iterdir())
        return sorted((path, int(match[1])) for path, match in named if match)

    def _read_cursor(self) -> int:
        with contextlib.suppress(OSError, struct.error):
            sequence, check = _CURSOR.unpack((self._folder / _CURSOR_NAME).read_bytes())
            if zlib.crc32(b"%d" % sequence) == check:
                return int(sequence)
        return 0  # all is sent again: the server knows what it has by the messages' ids

    def _read_segment(self, path: Path, first: int) -> None:
        segment = _Segment(path, first)
        with path.open("rb") as opened:
            while (message := _read_message(opened)) is not None and message.sequence == segment.next:
                segment.add(message)
                if message.sequence < self._next_to_send:
                    segment.sent(message)
        if segment.bytes:
            self._segments.append(segment)
        else:
            path.unlink()

    # The writer's side

    def append(self, messages: Iterable[tuple[int, bytes]]) -> None:
        """Keep messages, each with its number of records; all of them are on the disk then, or none is kept.

        Raises:
            OSError: the system refused, or all together they are larger than the spool.
        """
        made = [
            SpooledMessage(self._run, self._next + number, records, payload)
            for number, (records, payload) in enumerate(messages)
        ]
        if not made:
            return
        size_bytes = sum(message.entry_bytes for message in made)
        if size_bytes > self._max_bytes:
            raise OSError(errno.EFBIG, f"an interval of {size_bytes} bytes is larger than the spool")
        self._make_room(size_bytes)
        file = self._file()
        append_all({file: (_entry(message) for message in made)})
        with self._lock:
            for message in made:
                self._segments[-1].add(message)
            self._next = self._segments[-1].next

    def _make_room(self, size_bytes: int) -> None:
        with self._lock:
            while self._segments and sum(seg.bytes for seg in self._segments) + size_bytes > self._max_bytes:
                if len(self._segments) == 1:
                    self._close_file()
                oldest = self._segments.popleft()
                self.lost_records += oldest.records - oldest.sent_records
                self._next_to_send = max(self._next_to_send, oldest.next)
                oldest.path.unlink(missing_ok=True)

    def _file(self) -> AppendedFile:
        if self._written is not None and self._written.accepted_bytes < self._segment_bytes:
            return self._written
        self._close_file()
        path = self._folder / f"{self._next:020}.segment"
        path.unlink(missing_ok=True)  # nothing whole was in it
        written = AppendedFile(path)
        with self._lock:
            self._written = written
            self._segments.append(_Segment(path, self._next))
        return written

    def _close_file(self) -> None:
        file, self._written = self._written, None
        if file is not None:
            with contextlib.suppress(OSError):  # a torn entry ends the segment
                file.close()

    # The sender's side

    def first(self) -> SpooledMessage | None:
        """The oldest message that is not acknowledged."""
        with self._lock:
            while self._current is None or self._current.sequence < self._next_to_send:
                self._forget()
                if not self._segments or self._segments[0].next <= self._next_to_send:
                    return None
                self._current = self._read_next(self._segments[0])
            return self._current

    def _read_next(self, segment: _Segment) -> SpooledMessage | None:
        if self._read is None or self._read[0] is not segment:
            self._stop_reading()
            self._read = segment, segment.path.open("rb")
        message = _read_message(self._read[1])
        if message is None:  # it was whole when it was written, or at the start
            self.lost_records += segment.records - segment.sent_records
            self._next_to_send = segment.next
        return message

    def _stop_reading(self) -> None:
        if self._read is not None:
            self._read[1].close()
        self._read = None

    def acknowledge(self, message: SpooledMessage) -> bool:
        """The server has the first message. False: it had been dropped meanwhile."""
        with self._lock:
            if message.sequence < self._next_to_send:
                return False
            self._segments[0].sent(message)
            self._next_to_send = message.sequence + 1
            self._forget()
            self._write_cursor()
        return True

    def _forget(self) -> None:
        """Remove segments whose messages are all acknowledged; the one that is written stays."""
        while self._segments and self._segments[0].next <= self._next_to_send:
            if self._written is not None and len(self._segments) == 1:
                return
            self._segments.popleft().path.unlink(missing_ok=True)

    def _write_cursor(self) -> None:
        with contextlib.suppress(OSError):  # an old one makes repeats, which the server drops
            check = zlib.crc32(b"%d" % self._next_to_send)
            (self._folder / _CURSOR_NAME).write_bytes(_CURSOR.pack(self._next_to_send, check))

    def close(self) -> None:
        """What is not acknowledged stays for the next start."""
        with self._lock:
            self._close_file()
            self._stop_reading()
        self._folder_lock.release()


def made_and_locked(folder: Path, key: str) -> FolderLock:
    """The lock of a folder that is made when missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{folder}: cannot be made: {error.strerror}; see {key}") from error
    return FolderLock(folder, key)


def _entry(message: SpooledMessage) -> bytes:
    header = _HEADER.pack(len(message.payload), 0, message.run, message.sequence, message.records)
    check = zlib.crc32(message.payload, zlib.crc32(header[_CHECKED_AT:]))
    return header[:_CRC_AT] + check.to_bytes(4, "little") + header[_CHECKED_AT:] + message.payload


def _read_message(file: BinaryIO) -> SpooledMessage | None:
    """The next entry; None at the end, and where it is torn or damaged."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    size_bytes, check, run, sequence, records = _HEADER.unpack(header)
    payload = file.read(size_bytes)
    if len(payload) < size_bytes or zlib.crc32(payload, zlib.crc32(header[_CHECKED_AT:])) != check:
        return None
    return SpooledMessage(run, sequence, records, payload)
