"""Files of the daemon that are written, rotated, completed and removed again: what JSON lines and Parquet share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import ClassVar

from pydantic import Field, StrictBool

from trafficrefinery.config.parts import Duration, PositiveDuration, Size
from trafficrefinery.config.sinks import SinkSettings
from trafficrefinery.config.units import NS_PER_UNIT
from trafficrefinery.records.sinks.base import Health, Interval, Place, Sink

from .appending import AppendedFile, append_all
from .folder import remove_old, unused_stamp

RETRY_NS = 10 * 10**9
"""How often completing a file is tried again."""
_RETENTION_NS = 60 * 10**9


class FileSettings(SinkSettings):
    """Files in OutFolder."""

    enabled: StrictBool = Field(default=False, alias="Enabled", description="Write such files.")
    rotate_after_ns: PositiveDuration = Field(
        default=NS_PER_UNIT["h"], alias="RotateAfter", description="A file is complete after this time."
    )
    rotate_bytes: Size = Field(default=1 << 30, alias="RotateSize", description="A file is complete at this size.")
    keep_ns: Duration = Field(
        default=0, alias="KeepFor", description="Complete files that are older are removed; 0s: never."
    )
    keep_bytes: Size = Field(
        default=0, alias="KeepSize", description="The oldest files are removed when all take more than this; 0B: never."
    )


class RotatingFiles(Sink, ABC):
    """A `Sink` into files of one folder."""

    forms: ClassVar[tuple[str, ...]]
    """Endings of the complete files that are this sink's own."""

    def __init__(self, settings: FileSettings, place: Place) -> None:
        super().__init__(settings, place)
        folder, now_ns = place.out_folder, place.now_ns
        self._folder, self._settings, self._now_ns = folder, settings, now_ns
        self._lock = place.locked_folder()
        self._files: dict[str, AppendedFile] = {}  # by kind: records, intervals, inferences
        self._stamp, self._opened_ns = "", 0
        self._unfinished: list[Path] = []
        self._tried_ns, self._cleaned_ns = now_ns, 0
        self._writing = Health(f"{self.name}: cannot write to {folder}")
        self._completing = Health(f"{self.name}: cannot complete a file in {folder}")
        self._cleaning = Health(f"{self.name}: cannot remove old files in {folder}")

    @property
    def failing(self) -> bool:
        """The last attempt to write, to complete a file, or to remove old ones failed."""
        return self._writing.failing or self._completing.failing or self._cleaning.failing

    @abstractmethod
    def _encode(self, interval: Interval) -> dict[str, Iterable[bytes]]:
        """What goes to the file of each kind, if anything does; made while it is written."""

    def _head(self, kind: str, interval: Interval) -> bytes:  # noqa: ARG002 (files of lines have none)
        """What a new file begins with."""
        return b""

    @abstractmethod
    def _partial_path(self, kind: str, stamp: str) -> Path:
        """Where a file is while it is written."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete `_unfinished` as far as the system lets."""

    def take(self, interval: Interval) -> int:
        """See `Sink`: on the disk when this returns."""
        parts = self._encode(interval)
        append_all({file: lines if file.accepted_bytes else chain([self._head(kind, interval)], lines)
                    for kind, lines in parts.items() for file in [self._file(kind)]})  # fmt: skip
        return interval.records

    def write(self, interval: Interval) -> None:
        """See `Sink`; a file that is large enough is complete."""
        super().write(interval)
        if sum(file.accepted_bytes for file in self._files.values()) >= self._settings.rotate_bytes:
            self.rotate()

    def _file(self, kind: str) -> AppendedFile:
        if not self._files:
            self._stamp, self._opened_ns = unused_stamp(self._folder, self._now_ns), self._now_ns
        if kind not in self._files:
            self._files[kind] = AppendedFile(self._partial_path(kind, self._stamp))
        return self._files[kind]

    def rotate(self) -> None:
        """See `Sink`."""
        files, self._files = self._files, {}
        for file in files.values():
            try:
                file.close()
                if file.accepted_bytes:
                    self._unfinished.append(file.path)
                else:
                    file.path.unlink(missing_ok=True)
            except OSError as error:  # it may end in a torn line: the next start recovers it
                self._completing.fails(error.strerror or error)
        self._finish()
        self._remove_old()

    def tick(self, now_ns: int) -> None:
        """See `Sink`."""
        if now_ns < self._now_ns:  # the clock was set back
            self._opened_ns = self._tried_ns = self._cleaned_ns = now_ns
        self._now_ns = now_ns
        if self._files and now_ns - self._opened_ns >= self._settings.rotate_after_ns:
            self.rotate()
        elif self._unfinished and now_ns - self._tried_ns >= RETRY_NS:
            self._tried_ns = now_ns
            self._finish()
        if now_ns - self._cleaned_ns >= _RETENTION_NS:
            self._remove_old()

    def _remove_old(self) -> None:
        self._cleaned_ns = self._now_ns
        keep_ns, keep_bytes = self._settings.keep_ns, self._settings.keep_bytes
        if keep_ns or keep_bytes:
            older_than_ns = self._now_ns - keep_ns if keep_ns else None
            try:
                remove_old(self._folder, self.forms, older_than_ns=older_than_ns, keep_bytes=keep_bytes or None)
            except OSError as error:
                self._cleaning.fails(error.strerror or error)
            else:
                self._cleaning.works()

    def close(self) -> None:
        """See `Sink`."""
        self.rotate()
        self._lock.release()
