"""Rows of all workers to the records of each interval, complete and in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trafficrefinery.outputs import OutputField, output_fields
from trafficrefinery.records import SCHEMA, Infinities, feature_column, flow_columns
from trafficrefinery.worker import Plan, Summary

_MATCHED_BY = ("nothing", "prefix", "dns", "quic_sni", "sni")


class Batch(NamedTuple):
    """The records of one service and interval, ordered by `flow_id`.

    Args:
        flow: the columns that all records have.
        features: class name → its output columns.
    """

    service: str
    flow: dict[str, pl.Series]
    features: dict[str, list[pl.Series]]


class ServiceTotals:
    """What the summary table says of a service."""

    def __init__(self) -> None:
        self.flows = 0
        self.records = 0
        self.packets = 0
        self.bytes = 0
        self.segments: int | None = None
        self.matched_by: dict[str, int] = defaultdict(int)


class Aggregator:
    """A `Receiver` for all workers. `ready` yields what is complete, in the order in which it is written."""

    def __init__(self, plan: Plan, workers: int) -> None:
        self._plan = plan
        self._services = [service.name for service in plan.config.services]
        self._by_name = sorted(range(len(self._services)), key=lambda i: self._services[i])
        self._fields: list[dict[str, list[OutputField]]] = [
            {cls.__name__: output_fields(cls) for cls in profile.classes} for profile in plan.profiles
        ]
        self._until = [-(1 << 62)] * workers
        self._rows: dict[int, list[tuple[int, NDArray[Any], Sequence[str]]]] = defaultdict(list)  # by end
        self._summaries: dict[int, dict[int, Summary]] = defaultdict(dict)
        self._infinities = Infinities()
        self.totals = {name: ServiceTotals() for name in self._services}
        self.records = 0

    @property
    def infinite_values(self) -> int:
        """Output values that were infinite and became null."""
        return self._infinities.count

    def rows(self, worker: int, profile: int, rows: NDArray[Any], names: Sequence[str]) -> None:  # noqa: ARG002
        """Receiver: keep rows until their interval is complete."""
        length = self._plan.profiles[profile].interval_ns
        starts = rows["flow"]["start_ns"]
        for start in np.unique(starts).tolist():
            self._rows[start + length].append((profile, rows[starts == start], names))

    def summary(self, worker: int, start_ns: int, summary: Summary) -> None:
        """Receiver."""
        self._summaries[start_ns][worker] = summary
        for name, packets, octets in zip(
            self._services, summary.service_packets, summary.service_bytes, strict=True
        ):
            self.totals[name].packets += packets
            self.totals[name].bytes += octets

    def done_until(self, worker: int, until_ns: int) -> None:
        """Receiver."""
        self._until[worker] = until_ns

    def ready(self) -> Iterator[Batch]:
        """The records of intervals that all workers are done with: by end, service, flow_id."""
        for end_ns in sorted(end for end in self._rows if end <= min(self._until)):
            parts = self._rows.pop(end_ns)
            for service in self._by_name:
                profile = self._plan.service_profile[service]
                yield from self._batch(service, profile, parts)

    def _batch(self, service: int, profile: int, parts: list[tuple[int, NDArray[Any], Sequence[str]]]) -> Iterator[Batch]:
        interval_ns, sensor = self._plan.profiles[profile].interval_ns, self._plan.config.sensor
        chosen = [
            (rows[rows["flow"]["service"] == service], names) for number, rows, names in parts if number == profile
        ]
        chosen = [(rows, names) for rows, names in chosen if len(rows)]
        if not chosen:
            return
        columns = [flow_columns(rows, interval_ns, names, self._services, sensor) for rows, names in chosen]
        flow = {name: pl.concat([part[name] for part in columns]).alias(name) for name in columns[0]}
        rows = np.concatenate([rows for rows, _ in chosen])
        order = np.argsort(flow["flow_id"].to_numpy(), kind="stable")
        self._count(service, rows)
        rows = rows[order]
        yield Batch(
            self._services[service],
            {name: column.gather(order) for name, column in flow.items()},
            {
                name: [feature_column(rows[name][field.name], field, self._infinities) for field in fields]
                for name, fields in self._fields[profile].items()
            },
        )

    def _count(self, service: int, rows: NDArray[Any]) -> None:
        totals = self.totals[self._services[service]]
        totals.records += len(rows)
        self.records += len(rows)
        first = rows["flow"]["is_first"] != 0
        totals.flows += int(first.sum())
        for by, count in zip(*np.unique(rows["flow"]["matched_by"][first], return_counts=True), strict=True):
            totals.matched_by[_MATCHED_BY[by]] += int(count)
        if "VideoSegments" in (rows.dtype.names or ()) and "segments" in (rows["VideoSegments"].dtype.names or ()):
            totals.segments = (totals.segments or 0) + int(rows["VideoSegments"]["segments"].sum())

    def ready_summaries(self) -> Iterator[dict[str, Any]]:
        """`interval` records of intervals that have ended in all workers."""
        complete = sorted(start for start, parts in self._summaries.items() if len(parts) == len(self._until))
        if min(self._until) < 1 << 62:
            complete = [start for start in complete if start + self._plan.config.interval_ns <= min(self._until)]
        else:
            complete = sorted(self._summaries)
        for start in complete:
            yield self._summary_record(start, self._summaries.pop(start))

    def _summary_record(self, start_ns: int, parts: dict[int, Summary]) -> dict[str, Any]:
        length = self._plan.config.interval_ns
        workers = [
            {"worker": worker, **part.counters, "flows_active": part.flows_active}
            for worker, part in sorted(parts.items())
        ]
        totals = {key: sum(worker[key] for worker in workers) for key in workers[0] if key != "worker"}
        return {
            "schema": SCHEMA, "kind": "interval", "sensor": self._plan.config.sensor, "ts_start": start_ns / 1e9,
            "ts_end": (start_ns + length) / 1e9, **totals, "workers": workers,
        }  # fmt: skip
