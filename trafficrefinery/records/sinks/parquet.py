"""Parquet files of the daemon: spooled as Arrow IPC while they are written, converted when they are complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, ClassVar

from trafficrefinery.jit.lazy import Late
from trafficrefinery.records.storage.conversion import Converted, convert
from trafficrefinery.records.storage.folder import SPOOL
from trafficrefinery.records.storage.rotating import FileSettings, RecordFiles

from .base import Interval, Place
from .files import parquet_schema, reader_of

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = Late("pyarrow")

_CLOSE_WAIT_S = 3.0
"""How long `close` waits for conversions; the next start does the rest."""
_END_OF_STREAM_BYTES = 8


class ParquetSettings(FileSettings):
    """Parquet files in OutFolder."""


class ParquetSink(RecordFiles):
    """`records-TIME.parquet` with the columns of `parquet_schema`, features as `Class.field`; `inferences-TIME.parquet`
    with those of `inference_schema`."""

    name = "parquet"
    Settings = ParquetSettings
    forms: ClassVar[tuple[str, ...]] = ("parquet",)

    def __init__(self, settings: FileSettings, place: Place) -> None:
        self._place = place
        self._thread = ThreadPoolExecutor(1, "parquet")
        self._stop = Event()
        self._conversions: dict[Path, Future[Converted]] = {}
        super().__init__(settings, place.with_columns())

    @property
    def waiting_bytes(self) -> int:
        """Spools that are not yet converted."""
        return sum(path.stat().st_size for path in self._unfinished if path.exists())

    def _encode(self, interval: Interval) -> dict[str, Iterable[bytes]]:
        parts: dict[str, Iterable[bytes]] = {}
        if interval.batches:
            parts["records"] = _messages(reader_of(interval.batches, self._place.plan))
        tables = {"inferences": interval.inferences, "sessions": interval.sessions and interval.sessions.table}
        parts |= {
            kind: _messages(table.combine_chunks().to_reader()) for kind, table in tables.items() if table is not None
        }
        return parts

    def _head(self, kind: str, interval: Interval | None) -> bytes:
        if self._fixed is not None:
            schema = self._fixed[kind].schema
            assert schema is not None, "see `Place.with_columns`"
            return _stream(schema(), [])
        if kind == "inferences" and interval is not None and interval.inferences is not None:
            return _stream(interval.inferences.schema, [])
        return _stream(parquet_schema(self._place.plan), [])

    def _partial_name(self, stem: str) -> str:
        return f"{stem}.parquet{SPOOL}"

    def _complete(self, path: Path) -> None:
        try:
            convert(path, is_own=True)
        except pa.ArrowException as error:
            raise OSError(str(error)) from error

    def _keep(self, path: Path) -> Path | None:
        return convert(path, publishes=False).path

    def tick(self, now_ns: int) -> None:
        """See `Sink`."""
        super().tick(now_ns)
        self._reap()

    def _finish(self) -> None:
        if self._fixed is not None:
            super()._finish()
            return
        self._reap()
        for path in self._unfinished:
            if path not in self._conversions:
                self._conversions[path] = self._thread.submit(convert, path, self._stop)

    def _reap(self) -> None:
        for path, conversion in list(self._conversions.items()):
            if not conversion.done():
                continue
            del self._conversions[path]
            try:
                conversion.result()
            except (OSError, pa.ArrowException) as error:
                self._completing.fails(error)
            else:
                self._unfinished.remove(path)
                self._completing.works()
                self._remove_old()

    def close(self) -> None:
        """See `Sink`; a conversion that takes too long is left to the next start."""
        self._end_files()
        wait(self._conversions.values(), timeout=_CLOSE_WAIT_S)
        self._stop.set()
        self._thread.shutdown(cancel_futures=True)
        self._conversions = {path: done for path, done in self._conversions.items() if not done.cancelled()}
        self._reap()
        self._release()


def _messages(reader: pa.RecordBatchReader) -> Iterator[bytes]:
    """Rows, as they stand in a stream behind its schema."""
    head = _stream(reader.schema, [])
    return (_stream(reader.schema, [batch])[len(head) :] for batch in reader if len(batch))


def _stream(schema: Any, batches: list[Any]) -> bytes:
    """An Arrow IPC stream without its end: the schema, then messages that do not depend on what came before."""
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for batch in batches:
            writer.write_batch(batch)
    whole: bytes = buffer.getvalue().to_pybytes()
    return whole[:-_END_OF_STREAM_BYTES]
