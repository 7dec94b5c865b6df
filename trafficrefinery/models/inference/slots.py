"""What goes over the intervals of each unit of one kind, such as sessions: one slot a unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trafficrefinery.models.targets import Unit

from .asked import Asked

_KEPT_S = 600.0


class Slots:
    """The slots of the units of one kind; one is used again 10 minutes after its unit's last interval."""

    def __init__(self, unit: Unit, asked: Sequence[Asked]) -> None:
        self._unit, self.asked = unit, asked
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._latest_s = np.zeros(0)
        self._cleaned_s = 0.0

    def of(self, table: pa.Table) -> NDArray[np.intp]:
        """The slot of each row."""
        ids = table.column(self._unit.id).to_pylist()
        keys = self._unit.keys(table.column("service").to_pylist(), ids)
        slots = np.fromiter((self._slots.get(one, -1) for one in keys), np.intp, len(keys))
        for row in np.flatnonzero(slots < 0).tolist():
            slot = self._slots.get(keys[row], -1)  # of a row before
            if slot < 0:
                slot = self._taken(len(keys))
                self._slots[keys[row]] = slot
            slots[row] = slot
        self._latest_s[slots] = table.column("ts_end").to_numpy()
        return slots

    def _taken(self, rows: int) -> int:
        if not self._free:
            self._grow(rows)
        slot = self._free.pop()
        for asked in self.asked:
            asked.clear(slot)
        return slot

    def _grow(self, more: int) -> None:
        before = len(self._latest_s)
        more = max(more, before, 64)
        for asked in self.asked:
            asked.grow(more)
        self._latest_s = np.concatenate((self._latest_s, np.zeros(more)))
        self._free.extend(range(before + more - 1, before - 1, -1))

    def clean(self, now_s: float) -> None:
        """Forget the units without an interval for long."""
        if now_s - self._cleaned_s < _KEPT_S:
            return
        self._cleaned_s = now_s
        for one, slot in list(self._slots.items()):
            if self._latest_s[slot] < now_s - _KEPT_S:
                del self._slots[one]
                self._free.append(slot)
