"""The files of a replay beside its records: session-intervals, and what models say of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from trafficrefinery.engine.worker import Plan
from trafficrefinery.models.stream import Inferring, Moment
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.inferences import inference_lines, inference_schema
from trafficrefinery.records.sinks.files import JsonLines, Parquet

from . import session_lines
from .timelines import Timelines


class SessionFiles:
    """Follows the records of a replay, batch by batch.

    Args:
        with_sessions: write session-intervals too.

    Raises:
        BundleError, UsageError: a model cannot be used, or no service has sessions.

    Attributes:
        timelines: what was inferred of the first sessions.
        paths: of the files.
    """

    def __init__(self, plan: Plan, models: Sequence[Path], with_sessions: bool) -> None:
        self._inferring = Inferring(plan, models)
        self._with_sessions = with_sessions
        self._sessions: JsonLines | Parquet | None = None
        self._inferences: JsonLines | Parquet | None = None
        self.timelines = Timelines()
        self.paths: list[Path] = []

    def open(self, directory: Path, form: str) -> None:
        """Begin the files.

        Raises:
            OutputError: one cannot be written.
        """
        if self._with_sessions:
            self._sessions = self._open(directory / f"sessions.{form}", self._inferring.view.schema)
        predictor = self._inferring.predictor
        if predictor is not None:
            self._inferences = self._open(directory / f"inferences.{form}", inference_schema(predictor.resolutions))

    def _open(self, path: Path, schema: pa.Schema) -> JsonLines | Parquet:
        self.paths.append(path)
        return open_table(path, schema)

    @property
    def started(self) -> dict[str, int]:
        """Service → sessions that started."""
        return self._inferring.view.started

    @property
    def counters(self) -> dict[str, int]:
        """Sessions started, ended, refused and open."""
        return self._inferring.view.counters

    def write(self, batch: Batch) -> None:
        """Take the next records."""
        self._write(self._inferring.add(batch))

    def _write(self, moments: Iterable[Moment]) -> None:
        for moment in moments:
            if isinstance(self._sessions, JsonLines):
                self._sessions.write_lines(session_lines(moment.sessions))
            elif self._sessions is not None:
                self._sessions.write_table(moment.sessions)
            if moment.inferences is not None and self._inferences is not None:
                write_inferences(self._inferences, moment.inferences)
                self.timelines.add(moment)

    def close(self) -> None:
        """All records were taken: the files get their names."""
        self._write(self._inferring.finish())
        for file in self._files():
            file.close()

    def abandon(self) -> None:
        """Keep what was written under the partial names."""
        for file in self._files():
            file.abandon()

    def _files(self) -> list[JsonLines | Parquet]:
        return [file for file in (self._sessions, self._inferences) if file is not None]


def open_table(path: Path, schema: pa.Schema) -> JsonLines | Parquet:
    """A file of the form that its name tells."""
    return Parquet(path, schema) if path.suffix == ".parquet" else JsonLines(path)


def write_inferences(file: JsonLines | Parquet, inferences: pa.Table) -> None:
    """Write what models say of an interval."""
    if isinstance(file, JsonLines):
        file.write_lines(inference_lines(inferences))
    else:
        file.write_table(inferences)
