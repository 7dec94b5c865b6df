"""What a run that was killed left behind becomes complete files again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from trafficrefinery.jit.lazy import Late
from trafficrefinery.records.sinks.files import whole_lines_bytes

from .conversion import convert
from .folder import SPOOL, FolderLock, OwnFile, own_files, publish

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = Late("pyarrow")

_CHUNK_BYTES = 1 << 17


def recover(folder: Path, key: str = "OutFolder") -> list[str]:
    """Complete what a killed run left in a folder: cut at the last whole line, zstd frame, or Arrow batch.

    To be called before `open_sinks`. Files that are complete already, and files that no sink named, are not touched.

    Returns:
        For each file, what became of it.

    Raises:
        FolderError: there is no such folder, it cannot be written to, or a daemon that runs writes there.
    """
    lock = FolderLock(folder, key)
    try:
        return [f"{file.path}: {_recover(file)}" for file in own_files(folder) if file.state]
    finally:
        lock.release()


def _recover(file: OwnFile) -> str:
    try:
        if file.state == SPOOL:
            return _recover_spool(file.path)
        if file.form == "parquet":
            file.path.unlink()
            return "an unfinished conversion, removed"
        return _recover_lines(file)
    except (OSError, pa.ArrowException) as error:
        return f"cannot be recovered, left as it is: {getattr(error, 'strerror', None) or error}"


def _recover_spool(path: Path) -> str:
    if path.with_name(path.name.removesuffix(SPOOL)).exists():
        path.unlink()
        return "was converted already, removed"
    converted = convert(path)
    if converted.path is None:
        return f"nothing whole in its {converted.lost_bytes} bytes, removed"
    return f"recovered as {converted.path.name}, {converted.rows} records{_cut(converted.lost_bytes)}"


def _recover_lines(file: OwnFile) -> str:
    path, size_bytes = file.path, file.path.stat().st_size
    whole_bytes = whole_frames_bytes(path) if file.form == "jsonl.zst" else whole_lines_bytes(path)
    if not whole_bytes:
        path.unlink()
        return f"nothing whole in its {size_bytes} bytes, removed"
    with path.open("r+b") as opened:
        opened.truncate(whole_bytes)
        os.fsync(opened.fileno())
    return f"recovered as {publish(path).name}{_cut(size_bytes - whole_bytes)}"


def _cut(lost_bytes: int) -> str:
    return f"; {lost_bytes} bytes of an unfinished interval were cut off" if lost_bytes else ""


def whole_frames_bytes(path: Path) -> int:
    """Where the last whole zstd frame ends; each has a checksum."""
    whole_bytes = read_bytes = 0
    frame = None
    with path.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            read_bytes += len(chunk)
            while chunk:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    frame.decompress(chunk)
                except zstandard.ZstdError:
                    return whole_bytes
                chunk = frame.unused_data
                if frame.eof:
                    whole_bytes, frame = read_bytes - len(chunk), None
    return whole_bytes
