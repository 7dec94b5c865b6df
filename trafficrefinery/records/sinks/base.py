"""What the daemon's sinks have in common: what they are given, what they tell, how they fail."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import orjson

from trafficrefinery.records.batches import Batch

from .files import json_slices

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)
_FEW_RECORDS = 1 << 13


class Inferences(NamedTuple):
    """What models say of the sessions of one interval.

    Args:
        table: with the columns of `stream.inference_schema`.
        lines: the same as JSON lines.
    """

    table: pa.Table
    lines: bytes


@dataclass(frozen=True)
class Interval:
    """What became complete at one tick of the aggregator. Each sink takes it as a whole, or drops and counts it.

    Args:
        end_ns: the end of the latest interval in it.
        batches: records, of one service and interval each.
        summaries: `interval` records.
        inferences: these come later than the records that they were made from, as an interval of their own.
    """

    end_ns: int
    batches: Sequence[Batch]
    summaries: Sequence[dict[str, Any]]  # Any: JSON values
    inferences: Inferences | None = None

    @cached_property
    def records(self) -> int:
        """Number of records, of flows and inferences: what sinks count as written or dropped."""
        flows = sum(len(batch.flow["flow_id"]) for batch in self.batches)
        return flows + (0 if self.inferences is None else len(self.inferences.table))

    @property
    def inference_lines(self) -> list[bytes]:
        """The inference records as JSON lines."""
        return [] if self.inferences is None else [self.inferences.lines]

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


class DaemonSink(Protocol):
    """Where the daemon's records go. What the system refuses is counted, never raised, and tried again.

    Attributes:
        name: one of `status.SINKS`.
        records_total: records of flows and inferences written; by NATS: acknowledged.
        dropped_total: such records lost here.
        waiting_bytes: accepted, but not yet where they belong.
        failing: the last attempt failed.
    """

    @property
    def name(self) -> str: ...

    @property
    def records_total(self) -> int: ...

    @property
    def dropped_total(self) -> int: ...

    @property
    def waiting_bytes(self) -> int: ...

    @property
    def failing(self) -> bool: ...

    def write(self, interval: Interval) -> None:
        """Take an interval."""

    def rotate(self) -> None:
        """Sync and rotate the files, if any."""

    def tick(self, now_ns: int) -> None:
        """About once a second: rotation by time, retention, another try. `now_ns` is the time of day."""

    def close(self) -> None:
        """Complete everything."""


class Health:
    """Whether one thing works; a change is logged, what stays the same is not."""

    def __init__(self, what: str) -> None:
        self._what, self.failing = what, False

    def fails(self, reason: object) -> None:
        """It did not work."""
        if not self.failing:
            _log.warning("%s: %s", self._what, reason)
        self.failing = True

    def works(self) -> None:
        """It worked."""
        if self.failing:
            _log.warning("%s: works again", self._what)
        self.failing = False
