"""Rows of sessions, flows or clients on their way from the aggregator to the inference worker, and what that says.

The views are in the aggregator, whose sessions outlive an inference worker. What is sent has a number; of two
messages with the same one, the second is not taken, and one that never comes is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trafficrefinery.daemon import logs
from trafficrefinery.daemon.status import Answers, Board
from trafficrefinery.engine.plan import Plan
from trafficrefinery.jit.lazy import Late
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.sinks.base import Interval

from .channel import Channel, Message, Reader, Writer

if TYPE_CHECKING:
    import pyarrow as pa

    from trafficrefinery.models.units.views import Wanted
else:
    pa = Late("pyarrow")

SESSIONS, END, INFERENCES = 1, 2, 3
_INT64 = np.dtype("i8")
_HEAD_BYTES = 16
_COUNTERS = ("sessions_started", "sessions_ended", "sessions_refused")


class Models(NamedTuple):
    """What the daemon has to know of its models.

    Args:
        answers: what they can say.
        wanted: of which kinds of units they need which columns.
    """

    answers: Answers
    wanted: Mapping[str, Wanted]


class InferenceChannels(NamedTuple):
    """The two ways, one writer each."""

    there: Channel
    back: Channel

    @classmethod
    def of(cls, plan: Plan) -> InferenceChannels:
        """Room for an eighth of what may wait, each: sessions are fewer than flows."""
        limit_bytes = max(plan.config.daemon.max_waiting_bytes // 8, 16 << 20)
        return cls(Channel(limit_bytes), Channel(limit_bytes))

    def close(self) -> None:
        """Give the descriptors back."""
        self.there.close()
        self.back.close()


class Parcel(NamedTuple):
    """One interval, either way.

    Args:
        number: counts up from 1.
        end_ns: of the interval.
        tables: one of each kind of units, which its metadata say, with the columns that models need; or the one with
            what was inferred.
    """

    number: int
    end_ns: int
    tables: tuple[pa.Table, ...]

    def parts(self) -> list[Any]:
        """The body of a message."""
        stream = pa.BufferOutputStream()
        for table in self.tables:
            with pa.ipc.new_stream(stream, table.schema) as writer:
                writer.write_table(table)
        return [np.array([self.number, self.end_ns], _INT64), memoryview(stream.getvalue())]

    @classmethod
    def of(cls, message: Message) -> Parcel:
        """What a message holds, copied."""
        number, end_ns = message.body[:_HEAD_BYTES].view(_INT64).tolist()
        stream = pa.BufferReader(message.body[_HEAD_BYTES:].tobytes())
        tables = []
        while stream.tell() < stream.size():
            with pa.ipc.open_stream(stream) as reader:
                tables.append(reader.read_all())
        return cls(number, end_ns, tuple(tables))


class SessionFeed:
    """The aggregator's end. Nothing here waits for the inference worker."""

    def __init__(self, plan: Plan, board: Board, channels: InferenceChannels, models: Models) -> None:
        from trafficrefinery.models.units.flow_columns import bare  # the supervisor, which makes the channels, needs
        from trafficrefinery.models.units.views import Views  # neither these nor tables

        self._views, self._board = Views(plan, models.wanted), board
        self._nothing = {unit: bare(schema, unit).empty_table() for unit, schema in self._views.schemas.items()}
        self._writer = Writer(channels.there, board.to_inference, int(board.aggregator["pid"]))
        self._reader = Reader(channels.back, board.from_inference)
        self._every_ns = max(one.interval_ns for one in plan.config.services if one.name in self._views.services)
        self._before = {name: int(board.aggregator[f"{name}_total"]) for name in _COUNTERS}
        self._refused, self._end_ns = False, 0

    def send(self, interval: Interval) -> None:
        """Sessions of what was closed, one interval after the other; intervals without any too."""
        batches: dict[int, list[Batch]] = {}
        for summary in interval.summaries:  # one may come after the records of its interval
            end_ns = round(summary["ts_end"] * 1e9)
            if end_ns % self._every_ns == 0 and end_ns > self._end_ns:
                batches[end_ns] = []
        for batch in interval.batches:
            batches.setdefault(round(float(batch.flow["ts_end"][0]) * 1e9), []).append(batch)
        for end_ns in sorted(batches):
            self._end_ns = end_ns
            try:
                tables = self._tables([self._views.add(batch) for batch in batches[end_ns]])
            except Exception as error:  # noqa: BLE001 (session features may be anybody's; records come first)
                logs.error(f"session features failed, an interval is dropped: {type(error).__name__}: {error}", error)
                self._board.aggregator["inference_dropped_total"] += 1
            else:
                self._send(end_ns, tables)
        for name, before in self._before.items():
            self._board.aggregator[f"{name}_total"] = before + self._views.counters.get(name, 0)
        self._board.aggregator["sessions_open"] = self._views.counters.get("sessions_open", 0)

    def _tables(self, made: Sequence[Mapping[str, pa.Table]]) -> tuple[pa.Table, ...]:
        return tuple(
            pa.concat_tables([nothing, *(one[unit].cast(nothing.schema) for one in made if unit in one)])
            for unit, nothing in self._nothing.items()
        )

    def finish(self) -> None:
        """Send what is left after the last interval."""
        tables = self._tables([self._views.finish()])
        if any(map(len, tables)):
            self._send(self._end_ns, tables)

    def _send(self, end_ns: int, tables: tuple[pa.Table, ...]) -> None:
        record = self._board.aggregator
        number = int(record["inference_sent"]) + 1
        record["inference_sent"] = number  # first: one that is killed here then leaves a gap, which is counted
        sent = self._writer.send(SESSIONS, Parcel(number, end_ns, tables).parts())
        if not sent:
            record["inference_sent"] = number - 1
            record["inference_dropped_total"] += 1
            if not self._refused:
                logs.warning("inference is behind: intervals are dropped", units=sum(map(len, tables)))
        self._refused = not sent

    def take(self) -> Iterator[Interval]:
        """What came back, to be written."""
        record = self._board.aggregator
        for message in self._reader.messages():
            parcel = Parcel.of(message)
            missing = parcel.number - int(record["inference_answered"]) - 1
            if missing < 0:  # it was taken by an aggregator that was killed, or sent by a worker that was
                continue
            self._count_missing(missing)
            record["inference_answered"] = parcel.number
            (table,) = parcel.tables
            if len(table):
                yield Interval(parcel.end_ns, [], [], table)

    def _count_missing(self, intervals: int) -> None:
        if intervals:
            logs.warning("intervals have no inferences", intervals=intervals)
            self._board.aggregator["inference_dropped_total"] += intervals

    @property
    def waiting(self) -> int:
        """Intervals that were sent and have not come back."""
        return int(self._board.aggregator["inference_sent"]) - int(self._board.aggregator["inference_answered"])

    def end(self) -> bool:
        """Tell that no more comes; False: there is no room for that yet."""
        return self._writer.send(END, [])

    def give_up(self) -> None:
        """What has not come back will not."""
        self._count_missing(self.waiting)
        self._board.aggregator["inference_answered"] = self._board.aggregator["inference_sent"]
