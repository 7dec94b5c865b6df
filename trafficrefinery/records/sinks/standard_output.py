"""Records as JSON lines on standard output."""

from __future__ import annotations

import os
import time
from collections import deque
from threading import Condition, Thread
from typing import NamedTuple

from .base import Health, Interval

MAX_WAITING_BYTES = 64 << 20
"""What may wait for a slow reader; one interval always may."""
_CLOSE_WAIT_S = 2.0


class _Lines(NamedTuple):
    records: int
    lines: list[bytes]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.lines))


class StandardOutput:
    """A `DaemonSink` into a pipe, terminal or file: records, then the summaries, of each interval.

    A thread of its own writes, so that a slow reader holds up nothing; what it does not take in time is dropped.
    """

    name = "stdout"

    def __init__(self, descriptor: int = 1, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self.records_total = self.dropped_total = self.waiting_bytes = 0
        self._descriptor, self._max_waiting_bytes = descriptor, max_waiting_bytes
        self._waiting: deque[_Lines] = deque()
        self._changed = Condition()
        self._closing = self._torn = False
        self._health = Health("stdout")
        self._thread = Thread(target=self._run, name="stdout", daemon=True)  # a reader may block it for ever
        self._thread.start()

    @property
    def failing(self) -> bool:
        """The last interval was dropped."""
        return self._health.failing

    def write(self, interval: Interval) -> None:
        """See `DaemonSink`: the thread has it when this returns, or it was dropped."""
        lines = _Lines(interval.records, _lines(interval))
        with self._changed:
            if self._waiting and self.waiting_bytes + lines.size_bytes > self._max_waiting_bytes:
                self.dropped_total += interval.records
                self._health.fails("the reader is too slow; records are dropped")
                return
            self._waiting.append(lines)
            self.waiting_bytes += lines.size_bytes
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                interval = self._waiting[0]
            reason = self._write(interval)
            with self._changed:
                if not self._waiting:  # `close` gave it up
                    return
                self._waiting.popleft()
                self.waiting_bytes -= interval.size_bytes
                if reason is None:
                    self.records_total += interval.records
                    self._health.works()
                else:
                    self.dropped_total += interval.records
                    self._health.fails(reason)
                self._changed.notify_all()

    def _write(self, interval: _Lines) -> str | None:
        """Returns: why it could not be written."""
        try:
            if self._torn:  # a full disk may have cut a line, which must not spoil the next one
                self._write_all(b"\n")
            for lines in interval.lines:
                self._write_all(lines)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _write_all(self, lines: bytes) -> None:
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
            self._torn = bool(rest)

    def rotate(self) -> None:
        """See `DaemonSink`: there is nothing to rotate."""

    def tick(self, now_ns: int) -> None:
        """See `DaemonSink`: the thread goes on by itself."""

    def close(self) -> None:
        """See `DaemonSink`; a reader that does not read for two seconds does not get the rest."""
        deadline_s = time.monotonic() + _CLOSE_WAIT_S
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting, deadline_s - time.monotonic())
            self.dropped_total += sum(interval.records for interval in self._waiting)
            self._waiting.clear()


def _lines(interval: Interval) -> list[bytes]:
    return [*interval.record_lines, *interval.inference_lines, *interval.summary_lines]
