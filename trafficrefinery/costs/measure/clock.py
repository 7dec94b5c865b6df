"""The clock, and what repeated measurements say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

cpu_ns = time.thread_time_ns
"""CPU time of this thread: what others on the machine take does not count."""
_PERCENTILES = (5, 25, 50, 75, 95, 99)


class Distribution(NamedTuple):
    """What some measured values say. Without any, all are NaN."""

    mean: float
    min: float
    max: float
    p5: float
    p25: float
    median: float
    p75: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: NDArray[Any], weights: NDArray[Any] | None = None) -> Distribution:
        """Of values; `weights` are how often each occurs."""
        if not len(values):
            return cls(*[float("nan")] * len(cls._fields))
        order = np.argsort(values)
        heavy = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
        reached = np.cumsum(heavy[order]) / heavy.sum()
        at = np.searchsorted(reached, np.array(_PERCENTILES) / 100 - 1e-12).clip(max=len(values) - 1)
        ordered = np.asarray(values, np.float64)[order]
        return cls(
            float(np.average(values, weights=heavy)), float(ordered[0]), float(ordered[-1]), *ordered[at].tolist()
        )


class Repeated(NamedTuple):
    """One figure, measured several times."""

    value: float
    values: tuple[float, ...]

    @property
    def noise(self) -> float:
        """How far the repetitions lie apart, as a share of the value: half of the range between the quartiles."""
        if not self.value or not self.values:
            return 0.0
        low, high = np.percentile(self.values, (25, 75))
        return float((high - low) / 2 / abs(self.value))

    @classmethod
    def of(cls, values: NDArray[np.float64] | Sequence[float]) -> Repeated:
        """The median counts."""
        return cls(float(np.median(values)), tuple(float(value) for value in values))

    @classmethod
    def of_parts(cls, parts: NDArray[np.float64], units: float) -> Repeated:
        """Of something that was measured in parts: of each part, the least of all repetitions counts.

        What disturbs a measurement only adds to it, and seldom disturbs the same part each time.

        Args:
            parts: (repetitions, parts).
            units: packets or rows in all, of which the figure is.
        """
        return cls(float(parts.min(axis=0).sum()) / units, tuple((parts.sum(axis=1) / units).tolist()))
