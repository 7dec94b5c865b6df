"""Rows and summaries of capture workers on their way to the aggregator."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import IntervalCounts
from trafficrefinery.packets.parser import PACKET
from trafficrefinery.records.aggregate import Aggregator

from .channel import Channel, Message, Reader, Writer

if TYPE_CHECKING:
    from trafficrefinery.daemon.end_of_run import Reported
    from trafficrefinery.daemon.workers.costs import CostSampler

ROWS, SUMMARY, DONE, SAMPLE, REPORT = 1, 2, 3, 4, 5
_REPORT_WAIT_S, _TRY_AGAIN_S = 10.0, 0.01
_INT64 = np.dtype("i8")
_ROWS_HEAD_BYTES = 24


class Sender:
    """A worker's `Receiver`. It never waits: when too much waits for the aggregator, rows are dropped and counted.

    What is dropped are the rows of a whole interval, unless there is no room for the rest of one that has begun.

    Args:
        record: the worker's in `status.Board`.
    """

    def __init__(self, channel: Channel, record: Any) -> None:
        self._writer = Writer(channel, record, int(record["pid"]))
        self._half_bytes = len(channel.memory.array) // 2
        self._record = record
        self._dropping: bool | None = None  # None: no row of the interval has come

    def rows(self, worker: int, profile: int, rows: NDArray[Any], names: Sequence[str]) -> None:  # noqa: ARG002
        """Receiver."""
        if self._dropping is None:
            self._dropping = self._writer.waiting_bytes > self._half_bytes
        used = _used_names(rows, names)
        head = np.array([profile, len(rows), len(used)], _INT64)
        if self._dropping or not self._writer.send(ROWS, [head, used, rows.view(np.uint8)]):
            self._dropping = True
            self._record["dropped_rows_total"] += len(rows)

    def summary(self, worker: int, start_ns: int, summary: IntervalCounts) -> None:  # noqa: ARG002
        """Receiver."""
        self._writer.send(SUMMARY, [orjson.dumps([start_ns, *summary])])

    def done_until(self, worker: int, until_ns: int) -> None:  # noqa: ARG002
        """Receiver."""
        self._dropping = None
        self._writer.send(DONE, [np.array([until_ns], _INT64)])

    def restart(self, worker: int) -> None:
        """Receiver: the aggregator goes by the clock of the machine."""

    def sample(self, packets: NDArray[Any]) -> None:
        """PACKET records of some packets, to learn from them what classes cost."""
        self._writer.send(SAMPLE, [packets.view(np.uint8)])

    def report(self, reported: Reported) -> None:
        """What there is to know of traces, at their end: it waits for room, as nothing else tells of their damage."""
        until_s, message = time.monotonic() + _REPORT_WAIT_S, pickle.dumps(reported)
        while not self._writer.send(REPORT, [message]) and time.monotonic() < until_s:
            time.sleep(_TRY_AGAIN_S)


def _used_names(rows: NDArray[Any], names: Sequence[str]) -> bytes:
    """The names of these rows, whose `name_id` counts in them from now on: so each message says all that its reader,
    which may have been restarted, needs."""
    ids = rows["flow"]["name_id"]
    known = ids >= 0
    is_used = np.zeros(len(names), np.bool_)
    is_used[ids[known]] = True
    ids[known] = (np.cumsum(is_used) - 1)[ids[known]]
    return "\n".join(names[index] for index in np.flatnonzero(is_used).tolist()).encode()


class Reception:
    """The aggregator's side of one worker.

    Args:
        costs: called when the first sample has come.
    """

    def __init__(
        self, worker: int, channel: Channel, record: Any, aggregator: Aggregator, costs: Callable[[], CostSampler]
    ) -> None:
        self._worker, self._aggregator, self._costs, self._record = worker, aggregator, costs, record
        self._reader = Reader(channel, record)
        self.reported: Reported | None = None
        self._dtypes = [profile.row_dtype() for profile in aggregator.plan.profiles]

    def take(self) -> int:
        """Give the aggregator what has come; the number of messages."""
        count = 0
        for message in self._reader.messages():
            count += 1
            if message.kind == ROWS:
                self._take_rows(message)
            elif message.kind == SUMMARY:
                start_ns, *values = orjson.loads(message.body.tobytes())
                self._aggregator.summary(self._worker, start_ns, IntervalCounts(*values))
            elif message.kind == REPORT:
                self.reported = pickle.loads(message.body.tobytes())  # of a process of our own
            elif message.kind == SAMPLE:
                self._record["class_ns"] = self._costs().sample(message.body.view(PACKET))
            else:
                self._aggregator.done_until(self._worker, int(message.body.view(_INT64)[0]))
        return count

    def _take_rows(self, message: Message) -> None:
        profile, count, names_bytes = message.body[:_ROWS_HEAD_BYTES].view(_INT64).tolist()
        end = _ROWS_HEAD_BYTES + names_bytes
        names = message.body[_ROWS_HEAD_BYTES:end].tobytes().decode()
        if not self._aggregator.has_room(message.body[end:]):
            self._record["refused_rows_total"] += count
            return
        rows = np.frombuffer(bytearray(message.body[end:]), self._dtypes[profile], count)
        self._aggregator.rows(self._worker, profile, rows, names.split("\n") if names else [])


_LEAST_BYTES = 16 << 20
_HELD_TIMES = 3
"""What a row takes in the aggregator: once as it came, half of that again as the columns that all records have, and
once more as a row of the table that is kept for queries."""


def channel_bytes(plan: Plan, workers: int) -> int:
    """The size of each worker's channel: of half of what may wait."""
    return max(plan.config.daemon.max_waiting_bytes // 2 // workers, _LEAST_BYTES)


def held_bytes(plan: Plan) -> int:
    """Rows that the aggregator may hold: of the other half."""
    return max(plan.config.daemon.max_waiting_bytes // 2 // _HELD_TIMES, _LEAST_BYTES)
