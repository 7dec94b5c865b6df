"""Files that somebody else made: opened without waiting, read within limits, and trusted only where nobody else writes.

A path may name a pipe that nobody writes to, a device that never ends, or a few bytes that unpack to gigabytes.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import io
import json
import os
import pwd
import resource
import select
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

MAX_TEXT_BYTES = 64 << 20
"""Of a file of text that is read as a whole: configurations, labels, manifests."""
_WRITER_WAIT_S = 1.0
"""For somebody to write to a pipe."""
_SILENCE_S = 30.0
"""The longest that a writer of a pipe may take for its next bytes."""


def open_regular(path: str | os.PathLike[str], flags: int) -> int:
    """An `opener` for `open`: only of a regular file, and never waiting for one.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
        reason = os.strerror(number) if stat.S_ISDIR(kind) else "not a regular file"
        raise OSError(number, reason, os.fspath(path))
    return descriptor


def check_regular(path: str | os.PathLike[str]) -> None:
    """For libraries that open a path themselves.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    os.close(open_regular(path, os.O_RDONLY))


def read_bytes(path: str | os.PathLike[str], most_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """All of a regular file.

    Raises:
        OSError: it cannot be read, is not a regular file, or is larger than `most_bytes`.
    """
    with open(path, "rb", opener=open_regular) as opened:
        content = opened.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise _too_large(path, most_bytes)
    return content


def read_given(path: str | os.PathLike[str], most_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """All of a regular file, or of a pipe that somebody writes to, as `<(command)` of a shell is one.

    For what a user names and what is read once, as a whole.

    Raises:
        OSError: as of `read_bytes`; of a pipe also that nobody writes to it, or nothing more for 30 s.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return _read_pipe(descriptor, path, most_bytes)
    finally:
        os.close(descriptor)
    return read_bytes(path, most_bytes)


def _read_pipe(descriptor: int, path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """A pipe that nobody has written to since it was opened is at its end for read(2), but not for poll(2)."""
    content, events = bytearray(), select.poll()
    events.register(descriptor, select.POLLIN)
    wait_s = _WRITER_WAIT_S
    while len(content) <= most_bytes:
        is_ready = bool(events.poll(wait_s * 1000))
        try:
            piece = os.read(descriptor, 1 << 16)
        except BlockingIOError:  # there is a writer, and nothing of it yet
            if wait_s == _SILENCE_S:
                raise _not_given(path, f"nothing came through the pipe for {_SILENCE_S:.0f} s") from None
            piece = b""
        else:
            if not piece and not is_ready:
                raise _not_given(path, "nobody writes to the pipe")
            if not piece:
                return bytes(content)
        content += piece
        wait_s = _SILENCE_S
    raise _too_large(path, most_bytes)


def _not_given(path: str | os.PathLike[str], reason: str) -> OSError:
    return OSError(errno.EINVAL, f"not a regular file, and {reason}", os.fspath(path))


def open_text(path: str | os.PathLike[str], most_bytes: int = MAX_TEXT_BYTES, **options: Any) -> TextIO:
    """The text of a regular file or of a pipe, as `open` with these options gives it.

    Raises:
        OSError: as of `read_given`.
    """
    return io.TextIOWrapper(io.BytesIO(read_given(path, most_bytes)), **options)


def read_json(path: str | os.PathLike[str], most_bytes: int = 16 << 20) -> Any:
    """The value in a file of JSON.

    Raises:
        OSError: as of `read_bytes`.
        ValueError: it is not JSON.
    """
    try:
        return json.loads(read_bytes(path, most_bytes))
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Of a regular file's content, in hexadecimal digits.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with open(path, "rb", opener=open_regular) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _too_large(path: str | os.PathLike[str], most_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {most_bytes >> 20:,} MiB", os.fspath(path))


def owner_fault(status: os.stat_result) -> str:
    """Why somebody else than who runs this decides what is in a file or directory; empty when nobody does.

    Root may change everything, and whoever became root by sudo is who runs this. A group that has nobody in it but
    the owner, as many systems give each user, is the owner.
    """
    mine = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        mine.add(int(os.environ["SUDO_UID"]))
    if status.st_uid not in mine:
        return f"belongs to user {status.st_uid}, not to {os.geteuid()}, who runs this"
    mode = f"its mode is {stat.S_IMODE(status.st_mode):04o}"
    if status.st_mode & stat.S_IWOTH:
        return f"can be written by every user: {mode}"
    if status.st_mode & stat.S_IWGRP and not _is_own_group(status):
        return f"can be written by group {status.st_gid}: {mode}"
    return ""


def _is_own_group(status: os.stat_result) -> bool:
    if status.st_gid == 0:
        return True
    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return owner.pw_gid == group.gr_gid and owner.pw_name == group.gr_name and set(group.gr_mem) <= {owner.pw_name}


def write_fault(path: Path) -> str:
    """Why somebody else decides what is found at a path, directories above it included; empty when nobody does.

    In a directory with the sticky bit, as `/tmp` has it, only the owner of an entry can replace it.
    """
    path = path.resolve()
    for place in (path, *path.parents):
        try:
            status = place.stat()
        except OSError:
            continue  # what is to be made, or cannot be seen
        fault = owner_fault(status)
        if fault and not (place != path and status.st_mode & stat.S_ISVTX and status.st_uid in (0, os.geteuid())):
            return f"{place} {fault}" if place != path else fault
    return ""


@contextlib.contextmanager
def memory_limit(more_bytes: int) -> Iterator[None]:
    """Within it, this process gets only so much more memory; what needs more raises MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + more_bytes
    limits = [limit for limit in (wanted, before, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def available_bytes() -> int:
    """Memory that the machine can give without swapping; much where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 40
