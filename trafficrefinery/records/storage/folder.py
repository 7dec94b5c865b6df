"""A folder of files that one daemon writes: who owns it, how its files are named, which ones are kept."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from trafficrefinery.errors import FolderError
from trafficrefinery.system.writing import PARTIAL

LOCK = ".trafficrefinery.lock"
SPOOL = ".spool"
"""Suffix of an Arrow IPC stream that becomes the Parquet file of that name."""
_NAME = re.compile(
    r"(?P<kind>records|intervals|inferences)-(?P<stamp>\d{8}T\d{6}\.\d{6}Z)\.(?P<form>jsonl|jsonl\.zst|parquet)"
    rf"(?P<state>{re.escape(PARTIAL)}|{re.escape(SPOOL)}|)"
)


class OwnFile(NamedTuple):
    """A file with a name that a sink gave.

    Args:
        stamp: UTC time at which it was opened; sorts by time.
        form: jsonl, jsonl.zst or parquet.
        state: PARTIAL, SPOOL, or empty: complete.
    """

    path: Path
    stamp: str
    form: str
    state: str


class FolderLock:
    """The right to write files in a folder, until `release` or the end of the process.

    Args:
        key: the key of the configuration that names another folder, for the error.
    """

    def __init__(self, folder: Path, key: str) -> None:
        try:
            self._descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            raise FolderError(f"{folder}: no such folder; make it, or name another with {key}") from None
        except NotADirectoryError:
            raise FolderError(f"{folder}: is a file; name a folder with {key}") from None
        except OSError as error:
            raise FolderError(f"{folder}: cannot be written to: {error.strerror}; see {key}") from error
        self._users, self._counting = 1, Lock()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            if not isinstance(error, BlockingIOError):
                raise FolderError(f"{folder}: cannot be locked: {error.strerror}; see {key}") from error
            raise FolderError(
                f"{folder}: another daemon (pid {owner}) writes there; stop it, or name another folder with {key}"
            ) from None
        with contextlib.suppress(OSError):  # a full disk has no room for the number; the lock is held all the same
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def share(self) -> FolderLock:
        """The same lock for one more user."""
        with self._counting:
            self._users += 1
        return self

    def release(self) -> None:
        """A user is done; the last one gives the folder back."""
        with self._counting:
            self._users -= 1
            if self._users == 0:
                os.close(self._descriptor)


def sync_folder(folder: Path) -> None:
    """Names in a folder survive a power loss from here on."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stamp_of(now_ns: int) -> str:
    """A time of day in names of files, to the microsecond."""
    whole_s, rest_ns = divmod(now_ns, 10**9)
    return f"{datetime.fromtimestamp(whole_s, UTC):%Y%m%dT%H%M%S}.{rest_ns // 1000:06}Z"


def unused_stamp(folder: Path, now_ns: int) -> str:
    """The stamp of a time, or of the next microsecond that no file of ours has."""
    taken = {file.stamp for file in own_files(folder)}
    while (stamp := stamp_of(now_ns)) in taken:
        now_ns += 1000
    return stamp


def own_files(folder: Path) -> list[OwnFile]:
    """The files in a folder that sinks named, oldest first."""
    matches = ((path, _NAME.fullmatch(path.name)) for path in folder.iterdir())
    found = [OwnFile(path, match["stamp"], match["form"], match["state"]) for path, match in matches if match]
    return sorted(found, key=lambda file: (file.stamp, file.path.name))


def publish(partial: Path) -> Path:
    """Give a file that is complete its name: the one without PARTIAL. One with a stamp takes the next that is free;
    any other replaces the file of its name."""
    if not _NAME.fullmatch(partial.name):
        return partial.replace(partial.with_name(partial.name.removesuffix(PARTIAL)))
    kind, stamp, form = re.split(r"-|(?<=Z)\.", partial.name.removesuffix(PARTIAL), maxsplit=2)
    path = partial.with_name(f"{kind}-{stamp}.{form}")
    while path.exists():
        second, _, micros = stamp.removesuffix("Z").partition(".")
        stamp = f"{second}.{(int(micros) + 1) % 1_000_000:06}Z"
        path = partial.with_name(f"{kind}-{stamp}.{form}")
    partial.rename(path)
    sync_folder(path.parent)
    return path


def remove_old(folder: Path, forms: Iterable[str], *, older_than_ns: int | None, keep_bytes: int | None) -> int:
    """Remove complete files, oldest first: those last written before a time, and those beyond a total size.

    The files of one stamp (records, and what lies beside them) go together.

    Returns:
        How many files were removed.
    """
    wanted = set(forms)
    groups: dict[str, list[tuple[Path, os.stat_result]]] = defaultdict(list)
    for file in own_files(folder):
        if not file.state and file.form in wanted:
            with contextlib.suppress(FileNotFoundError):
                groups[file.stamp].append((file.path, file.path.stat()))
    total_bytes = sum(status.st_size for group in groups.values() for _, status in group)
    removed = 0
    for stamp in sorted(groups):
        group = groups[stamp]
        too_old = older_than_ns is not None and all(status.st_mtime_ns < older_than_ns for _, status in group)
        if too_old or (keep_bytes is not None and total_bytes > keep_bytes):
            for path, status in group:
                path.unlink(missing_ok=True)
                total_bytes -= status.st_size
                removed += 1
    return removed
