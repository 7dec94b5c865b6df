"""Files of the daemon that are written, rotated, completed and removed again: what JSON lines and Parquet share."""

from __future__ import annotations

import contextlib
import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import ClassVar

from pydantic import Field, StrictBool

from trafficrefinery.config.fields import Duration, PositiveDuration, Size, SizeOrShare
from trafficrefinery.config.sinks import SinkSettings
from trafficrefinery.config.units import NS_PER_UNIT, Share
from trafficrefinery.records.sinks.base import Health, Interval, Place, Sink

from .appending import AppendedFile, append_all
from .folder import remove_old, unused_stamp

_log = logging.getLogger(__name__)

RETRY_NS = 10 * 10**9
"""How often completing a file is tried again."""
_RETENTION_NS = 60 * 10**9


class FileSettings(SinkSettings):
    """Files in OutFolder."""

    enabled: StrictBool = Field(default=False, alias="Enabled", description="Write such files.")
    rotate_after_ns: PositiveDuration = Field(
        default=NS_PER_UNIT["h"], alias="RotateAfter", description="A file is closed after this time."
    )
    rotate_bytes: Size = Field(default=1 << 30, alias="RotateSize", description="A file is closed at this size.")
    keep_ns: Duration = Field(
        default=0, alias="KeepFor", description="Closed files older than this are deleted; 0s: never."
    )
    keep_size: SizeOrShare = Field(
        default=Share(0.4),
        alias="KeepSize",
        description="The oldest files are deleted when all files exceed this size, or this share of the file system; "
        "0B: never.",
    )

    def keep_bytes(self, folder: Path) -> int | None:
        """How much may be kept in a folder; None for all. Raises OSError when nothing can be known of it."""
        kept = self.keep_size
        return int(kept * shutil.disk_usage(folder).total) if isinstance(kept, Share) else kept or None


class RecordFiles(Sink, ABC):
    """A `Sink` into files of one folder, one for each kind of records; see `Place` for whether they rotate."""

    forms: ClassVar[tuple[str, ...]]
    """Endings of the complete files that are this sink's own."""

    def __init__(self, settings: FileSettings, place: Place) -> None:
        super().__init__(settings, place)
        folder, now_ns = place.out_folder, place.now_ns
        self._folder, self._settings, self._now_ns, self._fixed = folder, settings, now_ns, place.files
        self._lock = place.locked_folder() if place.files is None else None
        self._files: dict[str, AppendedFile] = {}  # by kind: records, intervals, inferences
        self._stamp, self._opened_ns = "", 0
        self._unfinished: list[Path] = []
        self._tried_ns, self._cleaned_ns = now_ns, 0
        self._writing = Health(f"{self.name}: cannot write to {folder}")
        self._completing = Health(f"{self.name}: cannot complete a file in {folder}")
        self._cleaning = Health(f"{self.name}: cannot remove old files in {folder}")
        try:
            for kind in place.files or ():
                self._file(kind)
        except OSError:
            self.abandon()
            raise

    @property
    def error(self) -> Exception | None:
        """Why the last attempt to write, to complete a file, or to remove old ones failed, if it did."""
        return self._writing.error or self._completing.error or self._cleaning.error

    @abstractmethod
    def _encode(self, interval: Interval) -> dict[str, Iterable[bytes]]:
        """What goes to the file of each kind, if anything does; made while it is written."""

    def _head(self, kind: str, interval: Interval | None) -> bytes:  # noqa: ARG002 (files of lines have none)
        """What a new file begins with; without an interval, one that does not rotate."""
        return b""

    @abstractmethod
    def _partial_name(self, stem: str) -> str:
        """What a file is called while it is written."""

    @abstractmethod
    def _complete(self, path: Path) -> None:
        """Give a file, which is not written any more, its name; raise OSError."""

    @abstractmethod
    def _keep(self, path: Path) -> Path | None:
        """Make what is whole in a file of a run that failed readable, under its partial name; raise OSError."""

    def take(self, interval: Interval) -> int:
        """See `Sink`: on the disk when this returns, if files rotate."""
        parts = {kind: lines for kind, lines in self._encode(interval).items() if self._is_wanted(kind)}
        append_all({file: lines if file.accepted_bytes else chain([self._head(kind, interval)], lines)
                    for kind, lines in parts.items() for file in [self._file(kind)]})  # fmt: skip
        return interval.records

    def _is_wanted(self, kind: str) -> bool:
        return kind in self._files if self._fixed is not None else kind != "sessions"

    def write(self, interval: Interval) -> None:
        """See `Sink`; a file that is large enough is complete."""
        super().write(interval)
        if sum(file.accepted_bytes for file in self._files.values()) >= self._settings.rotate_bytes:
            self.rotate()

    def _file(self, kind: str) -> AppendedFile:
        if kind in self._files:
            return self._files[kind]
        if self._fixed is not None:
            path = self._folder / self._partial_name(self._fixed[kind].stem)
            self._files[kind] = AppendedFile(path, survives=False)
            append_all({self._files[kind]: [self._head(kind, None)]})
            return self._files[kind]
        if not self._files:
            self._stamp, self._opened_ns = unused_stamp(self._folder, self._now_ns), self._now_ns
        self._files[kind] = AppendedFile(self._folder / self._partial_name(f"{kind}-{self._stamp}"))
        return self._files[kind]

    def rotate(self) -> None:
        """See `Sink`."""
        if self._fixed is None:
            self._end_files()

    def _end_files(self) -> None:
        files, self._files = self._files, {}
        for file in files.values():
            try:
                file.close()
                if file.accepted_bytes or self._fixed is not None:
                    self._unfinished.append(file.path)
                else:
                    file.path.unlink(missing_ok=True)
            except OSError as error:  # it may end in a torn line: the next start recovers it
                self._completing.fails(error)
        self._finish()
        self._remove_old()

    def _finish(self) -> None:
        """Complete `_unfinished` as far as the system lets."""
        for path in list(self._unfinished):
            try:
                self._complete(path)
            except OSError as error:
                self._completing.fails(_named(error, path))
                return
            self._unfinished.remove(path)
        self._completing.works()

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
        keep_ns = self._settings.keep_ns
        older_than_ns = self._now_ns - keep_ns if keep_ns else None
        try:
            keep_bytes = self._settings.keep_bytes(self._folder)
            if older_than_ns is not None or keep_bytes is not None:
                removed = remove_old(self._folder, self.forms, older_than_ns=older_than_ns, keep_bytes=keep_bytes)
                if removed:
                    _log.info("%s: %d old files removed from %s (KeepFor, KeepSize)", self.name, removed, self._folder)
        except FileNotFoundError:
            pass  # the folder is away, which writing reports
        except OSError as error:
            self._cleaning.fails(error)
        else:
            self._cleaning.works()

    def close(self) -> None:
        """See `Sink`."""
        self._end_files()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def abandon(self) -> Path | None:
        """See `Sink`: whole records stay under the partial name; nothing stays where there are none."""
        if self._fixed is None:
            return super().abandon()
        files, self._files = self._files, {}
        for file in files.values():
            with contextlib.suppress(OSError):
                file.close()
        kept: dict[Path, Path | None] = {}
        for path in (*(file.path for file in files.values()), *self._unfinished):
            with contextlib.suppress(OSError):
                kept[path] = self._keep(path)
            if kept.get(path) is None:
                path.unlink(missing_ok=True)
        return kept.get(files["records"].path) if "records" in files else None


def _named(error: OSError, path: Path) -> OSError:
    """An error of the system with the name of the file that it is about."""
    return OSError(error.errno, error.strerror, str(path)) if error.errno and not error.filename else error
