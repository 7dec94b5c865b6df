"""An Arrow IPC stream, whole or torn, to the Parquet file of its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from trafficrefinery.jit.lazy import Late
from trafficrefinery.system.writing import PARTIAL

from .folder import SPOOL, publish, sync_folder

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
else:
    pa, pq = Late("pyarrow"), Late("pyarrow.parquet")

ROW_GROUP = 1 << 15
"""Rows of a Parquet row group at least; they are held in memory."""


class Converted(NamedTuple):
    """What became of a spool: its Parquet file, or None when nothing whole was in it."""

    path: Path | None
    rows: int
    lost_bytes: int  # behind the last whole batch


class StoppedError(OSError):
    """A conversion was stopped; the spool is as it was."""


class _Spool:
    """The whole batches of a stream; what cannot be read ends it."""

    def __init__(self, source: Any, is_own: bool) -> None:  # Any: pyarrow has no types
        self._source, self._is_own, self._reader, self.whole_bytes = source, is_own, None, 0
        try:
            self._reader = pa.ipc.open_stream(source)
            self.schema = self._reader.schema
        except (pa.ArrowException, OSError, EOFError) as error:
            _raise_if_refused(error)

    def __bool__(self) -> bool:
        return self._reader is not None

    def __iter__(self) -> Iterator[Any]:
        while self._reader is not None:
            try:
                batch = self._reader.read_next_batch()
                if not self._is_own:
                    batch.validate(full=True)
            except StopIteration:
                return
            except (pa.ArrowException, OSError, EOFError) as error:
                _raise_if_refused(error)
                return
            self.whole_bytes = self._source.tell()
            yield batch


def _raise_if_refused(error: Exception) -> None:
    """Damage has no error number; what the system refuses has one, and is another matter."""
    if isinstance(error, OSError) and error.errno:
        raise error


def convert(spool_path: Path, stop: Event | None = None, *, is_own: bool = False, publishes: bool = True) -> Converted:
    """Make the Parquet file of a spool, give it its name, remove the spool.

    Args:
        is_own: of a run that goes on: what is in it is whole, and if that is nothing, it makes a file without rows.
        publishes: else the file keeps its partial name.

    Raises:
        OSError: the system refused, or `stop` was set; the spool is as it was.
    """
    complete = spool_path.with_name(spool_path.name.removesuffix(SPOOL))
    partial = complete.with_name(complete.name + PARTIAL)
    partial.unlink(missing_ok=True)
    try:
        with pa.OSFile(str(spool_path)) as source:
            spool = _Spool(source, is_own)
            rows = _write_groups(spool, partial, stop) if spool else 0
        lost_bytes = spool_path.stat().st_size - spool.whole_bytes
        path = None
        if rows or (is_own and publishes and spool):
            _sync(partial)
            path = publish(partial) if publishes else partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if path is None:
        partial.unlink(missing_ok=True)
    spool_path.unlink()
    sync_folder(spool_path.parent)
    return Converted(path, rows, lost_bytes)


def _write_groups(spool: _Spool, partial: Path, stop: Event | None) -> int:
    rows, waiting = 0, []
    with pq.ParquetWriter(partial, spool.schema, compression="zstd") as writer:
        for batch in spool:
            if stop is not None and stop.is_set():
                raise StoppedError("stopped")
            rows += len(batch)
            waiting.append(batch)
            if sum(map(len, waiting)) >= ROW_GROUP:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    return rows


def _sync(partial: Path) -> None:
    descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
