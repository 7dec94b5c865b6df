"""Which of the files that a user names are traces, told by their content, and which are left out, and why."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from trafficrefinery.errors import TraceError

from .reader import STANDARD_INPUT, TraceReader

TRACE_SUFFIXES = (".pcap", ".pcapng", ".cap")
PACKED_SUFFIXES = (".gz", ".zst")


class LeftOut(NamedTuple):
    """A file that is not read, and why."""

    file: str
    why: str


class Found(NamedTuple):
    """A trace in a directory.

    Args:
        first_ns: time of its first packet; None where it has none that can be read.
    """

    path: Path
    first_ns: int | None


def is_named_as_trace(path: Path) -> bool:
    """Whether a file has the name of a trace, as capture tools give it: `x.pcap`, `x.cap.gz`, `x.pcap1`, `x.pcap.3`."""
    name = path.name.lower()
    for suffix in PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.rstrip("0123456789").rstrip(".").endswith(TRACE_SUFFIXES)


def each_once(paths: Sequence[str]) -> tuple[list[str], list[LeftOut]]:
    """The files that are named, each once, in their order; another name, a link or a hard link of one is left out."""
    kept: list[str] = []
    left_out: list[LeftOut] = []
    known: dict[tuple[int, int], str] = {}
    for path in paths:
        identity = _identity(path)
        if identity in known:
            left_out.append(LeftOut(path, f"is the same file as {known[identity]}, which is read once"))
            continue
        if identity is not None:
            known[identity] = path
        kept.append(path)
    return kept, left_out


_PIECES = (
    re.compile(r"(?P<stem>.+)_\d{5}_\d{14}(\..+)?"),  # dumpcap -b
    re.compile(r"(?P<stem>.+\.(pcap|pcapng|cap))(\.?\d+)?(\.gz|\.zst)?", re.IGNORECASE),  # tcpdump -C, logrotate
)


def pieces(paths: Iterable[str]) -> dict[str, list[str]]:
    """Traces that look like the pieces of one capture, by what their paths begin with: `x.pcap`, `x.pcap1`."""
    found: dict[str, list[str]] = {}
    for path in paths:
        match = next(filter(None, (pattern.fullmatch(path) for pattern in _PIECES)), None)
        if match is not None:
            found.setdefault(match["stem"], []).append(path)
    return {stem: some for stem, some in found.items() if len(some) > 1}


def _identity(path: str) -> tuple[int, int] | None:
    """Of a regular file, also where it is the standard input; None for all else."""
    try:
        status = os.fstat(sys.stdin.fileno()) if path == STANDARD_INPUT else Path(path).stat()
    except (OSError, ValueError):  # found, with its name, when it is opened
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def traces_among(paths: Iterable[Path], left_out: list[LeftOut]) -> Iterator[Found]:
    """The traces among files, told by their content; the others are appended to `left_out`.

    One that has the name of a trace but cannot be read as one is a trace: its packets are missing.
    """
    for path in paths:
        first_ns, why = look_at(path)
        if why and not (is_named_as_trace(path) and path.is_file() and not path.name.startswith(".")):
            left_out.append(LeftOut(str(path), why))
        else:
            yield Found(path, first_ns)


def files_below(directory: Path, without: Sequence[Path], left_out: list[LeftOut]) -> Iterator[Path]:
    """The files in a directory and all below it; those of `without`, hidden ones and links are not looked into."""
    excluded = {path.resolve() for path in without}

    def cannot_be_listed(error: OSError) -> None:
        left_out.append(LeftOut(str(error.filename), f"cannot be listed ({error.strerror})"))

    for folder, folders, files in os.walk(directory, onerror=cannot_be_listed):
        folders.sort()
        for name in list(folders):
            path = Path(folder, name)
            why = "is a hidden directory" if name.startswith(".") else "is a link to a directory"
            if path.resolve() in excluded:
                why = "is where results are written"
            elif not (name.startswith(".") or path.is_symlink()):
                continue
            folders.remove(name)
            left_out.append(LeftOut(str(path), why))
        yield from (Path(folder, name) for name in sorted(files))


def look_at(path: Path) -> tuple[int | None, str]:
    """The time of the first packet; or None, and why the file is not a trace or cannot be read."""
    if path.name.startswith("."):
        return None, "a hidden file"
    if path.name.endswith((".part", ".partial")):
        return None, "incomplete: still being written, or its writer was stopped"
    if not path.is_file():
        return None, "a broken link" if path.is_symlink() else "not a regular file"
    try:
        with TraceReader([path], frames_per_block=1) as reader:
            return reader.first_ns, ""
    except TraceError as error:
        return None, error.message
