"""What all sinks have in common: what they are given, what they report, how they fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import orjson

from trafficrefinery.config import Config
from trafficrefinery.config.sinks import SinkSettings
from trafficrefinery.records.inferences import inference_lines
from trafficrefinery.records.storage.folder import FolderLock

from .files import json_slices

if TYPE_CHECKING:
    import pyarrow as pa

    from trafficrefinery.engine.plan import Plan
    from trafficrefinery.records.batches import Batch

__all__ = ["Encoded", "File", "Health", "Interval", "Place", "Sink", "SinkSettings"]

_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())  # a replay raises what the daemon logs
_FEW_RECORDS = 1 << 13


@dataclass(frozen=True)
class Interval:
    """What became complete at one tick of the aggregator. Each sink takes it as a whole, or drops and counts it.

    Args:
        end_ns: the end of the latest interval in it.
        batches: records, of one service and interval each.
        summaries: `interval` records.
        inferences: with the columns of `inference_schema`. In the daemon they come later than the records that they
            were made from, as an interval of their own.
        sessions: session-intervals, of a replay that is asked for them.
    """

    end_ns: int
    batches: Sequence[Batch]
    summaries: Sequence[dict[str, Any]]  # Any: JSON values
    inferences: pa.Table | None = None
    sessions: Encoded | None = None

    @cached_property
    def records(self) -> int:
        """Number of records, of flows and inferences: what sinks count as written or dropped."""
        flows = sum(len(batch.flow["flow_id"]) for batch in self.batches)
        return flows + (0 if self.inferences is None else len(self.inferences))

    @cached_property
    def inference_lines(self) -> list[bytes]:
        """The inference records as JSON lines."""
        return [] if self.inferences is None else [inference_lines(self.inferences)]

    @property
    def session_lines(self) -> list[bytes]:
        """The session-intervals as JSON lines."""
        return [] if self.sessions is None else [self.sessions.encode(self.sessions.table)]

    @property
    def record_lines(self) -> Iterable[bytes]:
        """The flow records as JSON lines, some at a time. Those of few records are encoded once for all sinks; of many,
        each time that they are asked for, as they take thrice the memory of rows."""
        if self.records <= _FEW_RECORDS:
            return self._few_lines
        return (lines for batch in self.batches for lines in json_slices(batch))

    @cached_property
    def _few_lines(self) -> list[bytes]:
        return [lines for batch in self.batches for lines in json_slices(batch)]

    @cached_property
    def summary_lines(self) -> list[bytes]:
        """The summaries as JSON lines."""
        return [orjson.dumps(summary, option=orjson.OPT_APPEND_NEWLINE) for summary in self.summaries]


class Encoded(NamedTuple):
    """Rows, and what makes JSON lines of them where these are wanted."""

    table: pa.Table
    encode: Callable[[pa.Table], bytes]


class File(NamedTuple):
    """A file of a run that does not rotate.

    Args:
        stem: of its name.
        schema: gives that of its columns, when it is needed; None: it is of JSON lines only.
    """

    stem: str
    schema: Callable[[], pa.Schema] | None


class Place:
    """Where the sinks of a run work.

    Args:
        out_folder: of files; has to exist when there are such sinks.
        state_folder: of what waits until it is sent.
        files: kind of records and its file, of a run whose files do not rotate: they have their names when all is
            complete. None: of the daemon, which rotates them, locks the folder, and syncs each interval.
    """

    def __init__(
        self, plan: Plan | None, out_folder: Path, state_folder: Path, files: Mapping[str, File] | None = None
    ) -> None:
        self._plan, self.out_folder, self.state_folder, self.files = plan, out_folder, state_folder, files
        self.now_ns = time.time_ns()
        self._lock: FolderLock | None = None

    @property
    def plan(self) -> Plan:
        """What is collected; inferences of tables of sessions are written without one."""
        assert self._plan is not None
        return self._plan

    def with_columns(self) -> Place:
        """The same, without files that are of JSON lines only."""
        return self.only(*(kind for kind, one in (self.files or {}).items() if one.schema is not None))

    def only(self, *kinds: str) -> Place:
        """The same, for some kinds of records, if files do not rotate."""
        if self.files is None:
            return self
        files = {kind: one for kind, one in self.files.items() if kind in kinds}
        return Place(self._plan, self.out_folder, self.state_folder, files)

    def locked_folder(self) -> FolderLock:
        """The right to write to `out_folder`, for one more sink, which releases it when it is closed.

        Raises:
            FolderError: it is missing, cannot be written to, or another daemon writes there.
        """
        if self._lock is None:
            self._lock = FolderLock(self.out_folder, "OutFolder")
        return self._lock.share()

    def release(self) -> None:
        """All sinks are open: from here on, the folder is locked as long as one of them is."""
        if self._lock is not None:
            self._lock.release()
        self._lock = None


class Sink:
    """Where records go.

    A sink either has an interval when `write` returns, where it survives the process and a loss of power, or it has
    dropped and counted it. What sends to a server does so later, at least once and in order, from a spool on the disk
    that is bounded: of what finds no room there, the oldest is dropped and counted (see `storage.spool`). Nothing is
    raised after the start: records of other sinks do not wait for one that fails, which tries again by itself.

    A replay drives the same sinks. It raises what a sink refused, as `error` has it, and its files do not rotate.

    A sink is used by one thread, and closed by another. A process that is killed closes nothing.

    Args:
        settings: its section of the configuration, of its class `Settings`.
        place: where it works.

    Raises:
        OSError, FolderError: it cannot be opened.

    Attributes:
        name: by which metrics and the log call it.
        Settings: what its section of the configuration may say.
        records_total: records of flows and inferences that are where they belong.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[SinkSettings]] = SinkSettings

    def __init__(self, settings: Any, place: Place) -> None:  # noqa: ARG002 (of the sink's own class)
        self.records_total = self._dropped_here = 0
        self._writing = Health(self.name)

    @classmethod
    def check(cls, settings: Any, config: Config, key: str) -> None:
        """See, before anything starts, that what the sink needs is there.

        Args:
            key: of its section, for errors.

        Raises:
            ConfigError: it is not.
        """

    @property
    def dropped_total(self) -> int:
        """Records of flows and inferences that were lost here."""
        return self._dropped_here

    @property
    def waiting_bytes(self) -> int:
        """What was accepted, and is not yet where it belongs."""
        return 0

    @property
    def error(self) -> Exception | None:
        """Why the last attempt failed, if it did."""
        return self._writing.error

    @property
    def failing(self) -> bool:
        """Whether the last attempt failed."""
        return self.error is not None

    def write(self, interval: Interval) -> None:
        """Take an interval, or drop and count it."""
        try:
            written = self.take(interval)
        except Exception as error:  # noqa: BLE001 (a mistake in one sink does not end the others)
            self._dropped_here += interval.records
            self._writing.fails(error)
        else:
            self.records_total += written
            self._writing.works()

    def attempt(self, action: Callable[[], None]) -> None:
        """Do one of `rotate`, `tick` and `close`, for a run that goes on when it fails."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 (as `write`)
            self._writing.fails(error)

    def take(self, interval: Interval) -> int:
        """Write a whole interval, or keep it until it can be sent.

        Returns:
            How many records are where they belong. What is sent later counts as soon as it is there.

        Raises:
            OSError: it could not be written, and is dropped as a whole.
        """
        raise NotImplementedError

    def rotate(self) -> None:
        """Begin new files, if there are any; on SIGUSR1."""

    def tick(self, now_ns: int) -> None:
        """About once a second: rotation by time, retention, another attempt. `now_ns` is the time of day."""

    def close(self) -> None:
        """Complete everything, within a few seconds."""

    def abandon(self) -> Path | None:
        """Close after a failure of the run: what is whole stays, but is not called complete.

        Returns:
            Where the records so far are, if they are in a file.
        """
        self.close()
        return None


class Health:
    """Whether one thing works; a change is logged, what stays the same is not."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.error: Exception | None = None

    def fails(self, error: Exception) -> None:
        """It did not work."""
        if self.error is None:
            expected = isinstance(error, OSError)
            reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
            _log.warning("%s: %s", self._what, reason, exc_info=None if expected else error)
        self.error = error

    def works(self) -> None:
        """It worked."""
        if self.error is not None:
            _log.warning("%s: works again", self._what)
        self.error = None
