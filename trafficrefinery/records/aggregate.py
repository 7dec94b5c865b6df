"""Rows of all workers to the records of each interval, complete and in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.engine.feature_classes.fields import OutputField, output_fields
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import IntervalCounts
from trafficrefinery.packets.parser import CLIENT_SEEN, SERVER_SEEN
from trafficrefinery.services.sources import MATCHED_BY

from .batches import Batch, Features
from .privacy import Anonymiser
from .schema import SCHEMA, Infinities, flow_columns

__all__ = ["Aggregator", "Batch", "ServiceTotals"]


class _Part(NamedTuple):
    """Rows of one worker, and the names that their `name_id` counts in."""

    rows: NDArray[Any]
    names: Sequence[str]


class ServiceTotals:
    """What the summary table says of a service."""

    def __init__(self) -> None:
        self.flows = 0
        self.records = 0
        self.packets = 0
        self.bytes = 0
        self.segments: int | None = None
        self.one_sided = 0  # flows of which one side only was seen in the interval of their first record
        self.matched_by: dict[str, int] = defaultdict(int)

    def add(self, other: ServiceTotals) -> None:
        """Add those of the same service at another time."""
        self.flows += other.flows
        self.records += other.records
        self.packets += other.packets
        self.bytes += other.bytes
        self.one_sided += other.one_sided
        if other.segments is not None:
            self.segments = (self.segments or 0) + other.segments
        for by, count in other.matched_by.items():
            self.matched_by[by] += count


class Aggregator:
    """A `Receiver` for all workers. `ready` yields what is complete, in the order in which it is written.

    Args:
        limit_bytes: of the rows that wait for the end of their interval; further ones are refused. None: no limit.

    Raises:
        ConfigError: there is a key for anonymised addresses, but not one to be used.

    Attributes:
        totals: service → its totals so far.
        records: records that `ready` gave.
        waiting: rows that wait for another worker.
    """

    def __init__(self, plan: Plan, workers: int, *, limit_bytes: int | None = None) -> None:
        self.plan = plan
        self._anonymiser = Anonymiser.of(plan.config.privacy.key_file, plan.config.file)
        self._services = [service.name for service in plan.config.services]
        self._fields: list[dict[str, list[OutputField]]] = [
            {cls.__name__: output_fields(cls) for cls in profile.classes} for profile in plan.profiles
        ]
        # How far each worker is: how often its clock was set back, and the time since then.
        self._until = [(0, -(1 << 62))] * workers
        self._rows: dict[tuple[int, int], list[_Part]] = defaultdict(list)  # by end
        self._summaries: dict[tuple[int, int], dict[int, IntervalCounts]] = defaultdict(dict)  # by start
        self._infinities = Infinities()
        self.totals = {name: ServiceTotals() for name in self._services}
        self.records = 0
        self.waiting = self._waiting_bytes = 0
        self._limit_bytes = limit_bytes

    @property
    def infinite_values(self) -> int:
        """Output values that were infinite and became null."""
        return self._infinities.count

    def has_room(self, rows: NDArray[Any]) -> bool:
        """Whether rows can be kept."""
        return self._limit_bytes is None or self._waiting_bytes + rows.nbytes <= self._limit_bytes

    def rows(self, worker: int, profile: int, rows: NDArray[Any], names: Sequence[str]) -> None:
        """Receiver: keep rows until their interval is complete."""
        length = self.plan.profiles[profile].interval_ns
        starts = rows["flow"]["start_ns"]
        era = self._until[worker][0]
        for start, part in _by_value(rows, starts):
            self._rows[era, start + length].append(_Part(part, names))
        self.waiting += len(rows)
        self._waiting_bytes += rows.nbytes

    def summary(self, worker: int, start_ns: int, summary: IntervalCounts) -> None:
        """Receiver."""
        self._summaries[self._until[worker][0], start_ns][worker] = summary
        for name, packets, octets in zip(self._services, summary.service_packets, summary.service_bytes, strict=True):
            self.totals[name].packets += packets
            self.totals[name].bytes += octets

    def done_until(self, worker: int, until_ns: int) -> None:
        """Receiver."""
        self._until[worker] = self._until[worker][0], until_ns

    def restart(self, worker: int) -> None:
        """Receiver: what comes now has another clock, and follows all that came before."""
        self._until[worker] = self._until[worker][0] + 1, -(1 << 62)

    def until(self, worker: int) -> int:
        """How far a worker is done."""
        return self._until[worker][1]

    def last_workers(self) -> list[int]:
        """The workers that the others' rows wait for."""
        return [worker for worker, until in enumerate(self._until) if until == min(self._until)]

    def ready(self) -> Iterator[Batch]:
        """The records of intervals that all workers are done with: by end, service, flow_id."""
        for end in sorted(end for end in self._rows if end <= min(self._until)):
            of_service: dict[int, list[_Part]] = defaultdict(list)
            parts = self._rows.pop(end)[::-1]
            while parts:  # each is given up before the next is copied
                rows, names = parts.pop()
                self.waiting -= len(rows)
                self._waiting_bytes -= rows.nbytes
                for service, part in _by_value(rows, rows["flow"]["service"]):
                    of_service[service].append(_Part(part, names))
            for service in sorted(of_service, key=lambda number: self._services[number]):
                yield self._batch(service, of_service[service])

    def _batch(self, service: int, parts: list[_Part]) -> Batch:
        profile = self.plan.service_profile[service]
        interval_ns, sensor = self.plan.profiles[profile].interval_ns, self.plan.config.sensor
        names: list[str] = []
        offsets: dict[int, int] = {}  # of each list of names
        for rows, known in parts:  # each worker numbers its names by itself
            if id(known) not in offsets:
                offsets[id(known)] = len(names)
                names += known
            rows["flow"]["name_id"] += np.where(rows["flow"]["name_id"] >= 0, offsets[id(known)], 0).astype(np.int32)
        arrays = [rows for rows, _ in parts]
        heads = np.concatenate([rows["flow"] for rows in arrays])
        self._count(service, arrays, heads)
        flow, order = flow_columns({"flow": heads}, interval_ns, names, self._services, sensor, self._anonymiser)
        features = Features(arrays, order, self._fields[profile], self._infinities)
        return Batch(self._services[service], flow, features)

    def _count(self, service: int, parts: Sequence[NDArray[Any]], heads: NDArray[Any]) -> None:
        totals = self.totals[self._services[service]]
        totals.records += len(heads)
        self.records += len(heads)
        first = heads["is_first"] != 0
        totals.flows += int(first.sum())
        totals.one_sided += int((heads["sides"][first] != CLIENT_SEEN | SERVER_SEEN).sum())
        for by, count in zip(*np.unique(heads["matched_by"][first], return_counts=True), strict=True):
            totals.matched_by[MATCHED_BY[by] or "nothing"] += int(count)
        for rows in parts:
            if "VideoSegments" in (rows.dtype.names or ()) and "segments" in (rows["VideoSegments"].dtype.names or ()):
                totals.segments = (totals.segments or 0) + int(rows["VideoSegments"]["segments"].sum())

    def ready_summaries(self) -> Iterator[dict[str, Any]]:
        """`interval` records of the intervals that have ended in all workers; one without packets has none.

        A packet counts in `packets` of the interval in which it was captured, and by reason where it was decided: one
        that waits for the service of its flow, perhaps in a later interval. So only the sums over all intervals agree.
        """
        length = self.plan.config.interval_ns
        until = min(self._until)
        for era, start_ns in sorted(start for start in self._summaries if (start[0], start[1] + length) <= until):
            yield self._summary_record(start_ns, self._summaries.pop((era, start_ns)))

    def _summary_record(self, start_ns: int, parts: dict[int, IntervalCounts]) -> dict[str, Any]:
        length = self.plan.config.interval_ns
        workers = [
            {"worker": worker, **part.counters, "flows_active": part.flows_active}
            for worker, part in sorted(parts.items())
        ]
        totals = {key: sum(worker[key] for worker in workers) for key in workers[0] if key != "worker"}
        return {
            "schema": SCHEMA, "kind": "interval", "sensor": self.plan.config.sensor, "ts_start": start_ns / 1e9,
            "ts_end": (start_ns + length) / 1e9, **totals, "workers": workers,
        }  # fmt: skip


def _by_value(rows: NDArray[Any], values: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Rows by a column of theirs; not copied when it is the same in all."""
    found = np.unique(values).tolist()
    for value in found:
        yield value, rows if len(found) == 1 else rows[values == value]
