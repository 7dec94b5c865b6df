"""One target in a predictor: the models that answer it, and what goes over the intervals of a session."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trafficrefinery.models.targets import UNITS, Target
from trafficrefinery.models.targets.units import END, INTERVAL, PACKETS

from .bundle import Bundle


def smooth(belief: NDArray[np.float64], seen: NDArray[np.float64], stay: float, weight: float) -> NDArray[np.float64]:
    """One step of the forward algorithm (Rabiner, Proc. IEEE 77(2), 1989) for many sessions at once.

    Args:
        belief: (sessions, labels), after the interval before.
        seen: (sessions, labels), what this interval alone tells.
        stay: probability that the label is the same as in the interval before.
        weight: exponent of what this interval tells; below 1, because neighbouring intervals tell much the same.
    """
    n = belief.shape[1]
    if n == 1:
        return np.ones_like(belief)
    now = belief * stay + (1 - belief) * ((1 - stay) / (n - 1))
    now = now * np.maximum(seen, 1e-4) ** weight
    smoothed: NDArray[np.float64] = now / now.sum(axis=1, keepdims=True)
    return smoothed


def flags(table: pa.Table, name: str) -> NDArray[np.bool_]:
    """A column of true and false; false where there is none."""
    if name not in table.column_names:
        return np.zeros(len(table), np.bool_)
    found: NDArray[np.bool_] = table.column(name).fill_null(False).to_numpy().astype(np.bool_)
    return found


class Asked:
    """One target: the models that answer it, and what goes over intervals, of each unit's slot."""

    def __init__(self, target: Target, models: Mapping[str, Bundle]) -> None:
        self.target, self._models = target, models
        self.labels = target.ordered(label for bundle in models.values() for label in bundle.labels)
        self._at = {label: number for number, label in enumerate(self.labels)}
        self.belief = np.zeros((0, len(self.labels)))
        self.answered = np.zeros(0, np.bool_)
        self.packets = np.zeros(0, np.int64)

    def grow(self, more: int) -> None:
        """Have so many slots more."""
        self.belief = np.concatenate((self.belief, np.zeros((more, len(self.labels)))))
        self.answered = np.concatenate((self.answered, np.zeros(more, np.bool_)))
        self.packets = np.concatenate((self.packets, np.zeros(more, np.int64)))

    def clear(self, slot: int) -> None:
        """Begin anew, for another unit."""
        self.belief[slot], self.answered[slot], self.packets[slot] = 0.0, False, 0

    def due(self, table: pa.Table, slots: NDArray[np.intp]) -> NDArray[np.intp]:
        """The rows of units for which the target is to be answered now, see `Target.when`."""
        when = self.target.when
        is_last = flags(table, "is_last")
        if when.at == INTERVAL:
            return np.flatnonzero(~is_last)
        if when.at == END:
            now = first = is_last
        elif when.at == PACKETS:
            packets = np.where(is_last, 0, table.column("packets").fill_null(0).to_numpy())
            np.add.at(self.packets, slots, packets)
            now = self.packets[slots] >= when.after
            first = ~is_last
        else:
            names = ("ts_start", "ts_end", UNITS[self.target.unit].start)
            begin, end, start = (table.column(name).to_numpy() for name in names)
            now = end - start >= when.after
            first = (begin - start < when.after) & ~is_last
        due = now & first & ~self.answered[slots]
        self.answered[slots] |= now
        rows = np.flatnonzero(due)
        parts = [at for _, at in self.shared_out(table.column("service").take(pa.array(rows)))]
        return rows[np.sort(np.concatenate(parts))] if parts else rows[:0]

    def shared_out(self, services: pa.ChunkedArray) -> list[tuple[Bundle, NDArray[np.intp]]]:
        """Which rows each model is for, in their order."""
        encoded = services.combine_chunks().dictionary_encode()
        index = encoded.indices.to_numpy(zero_copy_only=False)
        rows_of: dict[int, tuple[Bundle, list[NDArray[np.intp]]]] = {}
        for number, service in enumerate(encoded.dictionary.to_pylist()):
            bundle = self._models.get(service) or self._models.get("")
            if bundle is not None:
                rows_of.setdefault(id(bundle), (bundle, []))[1].append(np.flatnonzero(index == number))
        return [(bundle, np.sort(np.concatenate(parts))) for bundle, parts in rows_of.values()]

    def outputs(
        self, bundle: Bundle, x: NDArray[np.float32], slots: NDArray[np.intp], *, smoothing: bool
    ) -> NDArray[np.float64]:
        """Probabilities over all labels, those that the model does not know have none; or quantiles."""
        seen = bundle.outputs(x)
        if not self.labels:
            return seen if self.target.least is None else np.maximum(seen, self.target.least)
        at = np.array([self._at[label] for label in bundle.labels])
        if smoothing:
            before = self.belief[np.ix_(slots, at)]
            new = before.sum(axis=1) == 0
            before[new] = 1 / len(at)
            seen = smooth(before, seen, bundle.calibration.stay, bundle.calibration.weight)
            self.belief[np.ix_(slots, at)] = seen
        wide = np.zeros((len(x), len(self.labels)))
        wide[:, at] = seen
        return wide
