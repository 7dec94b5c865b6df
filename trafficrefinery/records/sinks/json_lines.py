"""JSON lines in files of the daemon, and the summaries of intervals beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import zstandard
from pydantic import Field, StrictBool

from trafficrefinery.records.storage.folder import publish
from trafficrefinery.records.storage.rotating import FileSettings, RecordFiles
from trafficrefinery.system.writing import PARTIAL

from .base import Interval, Place

_LEVEL = 3
_LINES = {
    "records": "record_lines", "intervals": "summary_lines", "sessions": "session_lines",
    "inferences": "inference_lines",
}  # fmt: skip
"""Kind of records: where an `Interval` has them as JSON lines."""


class JsonLinesSettings(FileSettings):
    """JSON lines in OutFolder, with interval summaries beside them."""

    enabled: StrictBool = Field(default=True, alias="Enabled", description="Write such files.")
    compress: StrictBool = Field(
        default=False, alias="Compress", description="Compress with zstd, one frame per interval."
    )


class JsonLinesSink(RecordFiles):
    """`records-TIME.jsonl`, and `intervals` and `inferences` beside it; compressed: `.jsonl.zst`, a zstd frame each
    interval."""

    name = "jsonl"
    Settings = JsonLinesSettings
    forms: ClassVar[tuple[str, ...]] = ("jsonl", "jsonl.zst")

    def __init__(self, settings: JsonLinesSettings, place: Place) -> None:
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True) if settings.compress else None
        super().__init__(settings, place)

    def _encode(self, interval: Interval) -> dict[str, Iterable[bytes]]:
        there = {
            "records": len(interval.batches) > 0, "intervals": len(interval.summaries) > 0,
            "sessions": interval.sessions is not None, "inferences": interval.inferences is not None,
        }  # fmt: skip
        return {kind: self._compressed(interval, kind) for kind, is_there in there.items() if is_there}

    def _compressed(self, interval: Interval, kind: str) -> Iterator[bytes]:
        """Lines are made when they are written: of a kind that has no file here, never."""
        lines: Iterable[bytes] = getattr(interval, _LINES[kind])
        if self._compressor is None:
            yield from lines
            return
        frame = self._compressor.compressobj()
        for part in lines:
            yield frame.compress(part)
        yield frame.flush()

    def _partial_name(self, stem: str) -> str:
        return f"{stem}.{self.forms[self._compressor is not None]}{PARTIAL}"

    def _complete(self, path: Path) -> None:
        publish(path)

    def _keep(self, path: Path) -> Path | None:
        return path if path.stat().st_size else None
