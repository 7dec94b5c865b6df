"""What a run of the daemon has counted since it began: over all its configurations, and restarts of its processes."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from trafficrefinery.jit.shared_memory import Shared
from trafficrefinery.records.aggregate import ServiceTotals

from .status import Board, counted

if TYPE_CHECKING:
    from trafficrefinery.records.aggregate import Aggregator

_LIMIT_BYTES = 1 << 24  # of which pages are taken as they are written; some 100 bytes are those of a service
_SLOT = np.dtype([("used_bytes", "i8"), ("data", "u1", (_LIMIT_BYTES,))])
_NEWEST = np.dtype([("number", "i8")])


@dataclass
class Totals:
    """Numbers that add up.

    Args:
        counted: packets by reason, and other counters of those who read packets.
        numbers: of the aggregator, and of what was lost on the way to it.
        services: by name.
    """

    counted: Counter[str] = field(default_factory=Counter)
    numbers: Counter[str] = field(default_factory=Counter)
    services: dict[str, ServiceTotals] = field(default_factory=dict)

    @classmethod
    def of(cls, board: Board, aggregator: Aggregator) -> Totals:
        """Those of a board, and of an aggregator since it was started."""
        total = cls(services=aggregator.totals)
        for record in (*board.workers, *([board.names] if board.names["pid"] else [])):
            total.counted.update(counted(record))
        workers, own = board.workers, board.aggregator
        total.numbers.update({
            "kernel_drops": int(workers["kernel_drops_total"].sum()),
            "received": int(workers["received_total"].sum()),
            "duplicates": int(workers["duplicates_total"].sum()),
            "dropped_rows": int(workers["dropped_rows_total"].sum() + workers["refused_rows_total"].sum()),
            "restarts": int(workers["restarts_total"].sum() + own["restarts_total"]),
            "sink_drops": int(own["sinks"]["dropped_total"].sum()),
            "incomplete_intervals": int(own["incomplete_total"]),
            "intervals": int(own["intervals_total"]),
            "records": aggregator.records,
            "infinite_values": aggregator.infinite_values,
        })  # fmt: skip
        return total

    def of_aggregator(self) -> Totals:
        """What no board has, and goes with the process."""
        kept = {name: self.numbers[name] for name in ("records", "infinite_values")}
        return Totals(numbers=Counter(kept), services=self.services)

    def __add__(self, other: Self) -> Totals:
        services: dict[str, ServiceTotals] = {}
        for part in (other.services, self.services):  # the order of services is that of the newer configuration
            for name, totals in part.items():
                services.setdefault(name, ServiceTotals()).add(totals)
        return Totals(_sum(self.counted, other.counted), _sum(self.numbers, other.numbers), services)


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> Counter[str]:
    """With names whose number is 0, which `Counter.__add__` leaves out."""
    total = Counter(one)
    total.update(other)
    return total


class _Kept(NamedTuple):
    generation: int
    before: Totals
    since: Totals


class RunTotals:
    """Shared memory that outlives the aggregators of a run, of which one at a time writes.

    What is written is in one of two slots, and read only when it is complete.
    """

    def __init__(self) -> None:
        self._slots, self._newest = Shared(2, _SLOT), Shared(1, _NEWEST)

    def load(self, generation: int) -> tuple[Totals, Totals]:
        """What was counted before a configuration, and of what is on no board, since: by a killed predecessor."""
        slot = self._slots.array[int(self._newest.array[0]["number"]) % 2]
        if not slot["used_bytes"]:
            return Totals(), Totals()
        kept: _Kept = pickle.loads(slot["data"][: slot["used_bytes"]].tobytes())  # of a process of our own
        if kept.generation == generation:
            return kept.before, kept.since.of_aggregator()
        return kept.before + kept.since, Totals()

    def save(self, generation: int, before: Totals, since: Totals) -> None:
        """Keep what was counted before a configuration, and since."""
        data = np.frombuffer(pickle.dumps(_Kept(generation, before, since)), np.uint8)
        if len(data) > _LIMIT_BYTES:
            return
        number = int(self._newest.array[0]["number"]) + 1
        slot = self._slots.array[number % 2]
        slot["data"][: len(data)] = data
        slot["used_bytes"] = len(data)
        self._newest.array[0]["number"] = number

    def close(self) -> None:
        """Give the descriptors back."""
        self._slots.close()
        self._newest.close()
