"""Records as JSON lines on standard output."""

from __future__ import annotations

import os
import time
from collections import deque
from threading import Condition, Thread
from typing import NamedTuple

from trafficrefinery.config.sinks import SinkSettings

from .base import Health, Interval, Place, Sink

MAX_WAITING_BYTES = 64 << 20
"""What may wait for a slow reader; one interval always may."""
_CLOSE_WAIT_S = 2.0


class _Lines(NamedTuple):
    records: int
    lines: list[bytes]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.lines))


class StandardOutputSettings(SinkSettings):
    """Records as JSON lines on standard output."""


class StandardOutput(Sink):
    """A `Sink` into a pipe, terminal or file: records, then the summaries, of each interval.

    A thread of its own writes, so that a slow reader holds up nothing; what it does not take in time is dropped.
    """

    name = "stdout"
    Settings = StandardOutputSettings

    def __init__(
        self, settings: SinkSettings, place: Place, descriptor: int = 1, max_waiting_bytes: int = MAX_WAITING_BYTES
    ) -> None:
        super().__init__(settings, place)
        self._waiting_bytes, self._sending = 0, Health(self.name)
        self._descriptor, self._max_waiting_bytes = descriptor, max_waiting_bytes
        self._waiting: deque[_Lines] = deque()
        self._changed = Condition()
        self._closing = self._torn = False
        self._thread = Thread(target=self._run, name="stdout", daemon=True)  # a reader may block it for ever
        self._thread.start()

    @property
    def waiting_bytes(self) -> int:
        """What the thread has not written yet."""
        return self._waiting_bytes

    @property
    def error(self) -> Exception | None:
        """Why the last interval was dropped, if it was."""
        return self._writing.error or self._sending.error

    def take(self, interval: Interval) -> int:
        """See `Sink`: the thread has it when this returns."""
        lines = _Lines(interval.records, _lines(interval))
        with self._changed:
            if self._waiting and self._waiting_bytes + lines.size_bytes > self._max_waiting_bytes:
                raise OSError("the reader is too slow; records are dropped")
            self._waiting.append(lines)
            self._waiting_bytes += lines.size_bytes
            self._changed.notify_all()
        return 0

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                interval = self._waiting[0]
            error = self._write(interval)
            with self._changed:
                if not self._waiting:  # `close` gave it up
                    return
                self._waiting.popleft()
                self._waiting_bytes -= interval.size_bytes
                if error is None:
                    self.records_total += interval.records
                    self._writing.works()
                    self._sending.works()
                else:
                    self._dropped_here += interval.records
                    self._sending.fails(error)
                self._changed.notify_all()

    def _write(self, interval: _Lines) -> OSError | None:
        """Returns: why it could not be written."""
        try:
            if self._torn:  # a full disk may have cut a line, which must not spoil the next one
                self._write_all(b"\n")
            for lines in interval.lines:
                self._write_all(lines)
        except OSError as error:
            return error
        return None

    def _write_all(self, lines: bytes) -> None:
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
            self._torn = bool(rest)

    def close(self) -> None:
        """See `Sink`; a reader that does not read for two seconds does not get the rest."""
        deadline_s = time.monotonic() + _CLOSE_WAIT_S
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting, deadline_s - time.monotonic())
            self._dropped_here += sum(interval.records for interval in self._waiting)
            self._waiting.clear()


def _lines(interval: Interval) -> list[bytes]:
    return [*interval.record_lines, *interval.inference_lines, *interval.summary_lines]
