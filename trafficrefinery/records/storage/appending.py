"""A file to which whole intervals are appended: after any failure it ends where the last whole one does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from .folder import sync_folder


class AppendedFile:
    """A new file. `append`, then `sync`, then `accept`; or `cut`, after which the file is as before.

    Raises OSError, with the name of the file, as the system does.

    Args:
        survives: what is synced, and the name, survive a loss of power; else a file of that name is overwritten.

    Attributes:
        path: where it is.
        accepted_bytes: its length, without what is not yet accepted.
    """

    def __init__(self, path: Path, *, survives: bool = True) -> None:
        self.path, self.accepted_bytes, self._survives = path, 0, survives
        self._end_bytes, self._changed = 0, False
        flags = os.O_EXCL if survives else os.O_TRUNC
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o644)
        try:
            if survives:
                sync_folder(path.parent)
        except OSError:
            os.close(self._descriptor)
            path.unlink(missing_ok=True)
            raise

    def append(self, parts: Iterable[bytes]) -> None:
        """Write behind what is accepted."""
        self.cut()
        self._changed = True
        for part in parts:
            rest = memoryview(part)
            while rest:
                try:
                    written_bytes = os.pwrite(self._descriptor, rest, self._end_bytes)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, os.fspath(self.path)) from error
                self._end_bytes += written_bytes
                rest = rest[written_bytes:]

    def sync(self) -> None:
        """What was appended is on the disk."""
        if self._survives:
            os.fdatasync(self._descriptor)

    def accept(self) -> None:
        """What was appended stays."""
        self.accepted_bytes, self._changed = self._end_bytes, False

    def cut(self) -> None:
        """What was appended and not accepted goes."""
        if self._changed:
            os.ftruncate(self._descriptor, self.accepted_bytes)
            self._end_bytes, self._changed = self.accepted_bytes, False

    def close(self) -> None:
        """Cut and close."""
        try:
            self.cut()
        finally:
            os.close(self._descriptor)


def append_all(parts: Mapping[AppendedFile, Iterable[bytes]]) -> None:
    """Append to several files: to all of them, or to none.

    Raises:
        OSError: one of them refused; none has anything of it, or has it cut off before the next append.
    """
    try:
        for file, lines in parts.items():
            file.append(lines)
        for file in parts:
            file.sync()
    except OSError:
        for file in parts:
            _try_to_cut(file)
        raise
    for file in parts:
        file.accept()


def _try_to_cut(file: AppendedFile) -> None:
    try:
        file.cut()
    except OSError:
        return  # the next `append` or `close` cuts first
