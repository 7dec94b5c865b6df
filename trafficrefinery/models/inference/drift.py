"""How far what a model sees is from what it was trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle

_SAMPLE = 500
_MEMORY = 20_000.0
"""About `_SAMPLE` rows of each interval count for the drift score; `_MEMORY` rows later, they count half."""


class Drift:
    """How far the features of late are from the training data: population stability index."""

    def __init__(self, bundle: Bundle) -> None:
        columns, edges = bundle.bins.shape
        self._edges = bundle.bins
        self._counts = np.zeros((columns, edges - 1))
        # Values that many rows have are several quantiles at once.
        self._expected = np.array([
            np.bincount(np.searchsorted(row[1:-1], row[1:]), minlength=edges - 1) for row in bundle.bins
        ]) / (edges - 1)  # fmt: skip

    def add(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Count some of the rows, and tell of each the share of its features outside the training data's range."""
        sample = rows[:: max(len(rows) // _SAMPLE, 1)]
        self._counts *= 0.5 ** (len(sample) / _MEMORY)
        for column, edges in enumerate(self._edges):
            values = sample[:, column]
            places = np.searchsorted(edges[1:-1], values[~np.isnan(values)])
            self._counts[column] += np.bincount(places, minlength=len(edges) - 1)
        low, high = self._edges[:, 0], self._edges[:, -1]
        with np.errstate(invalid="ignore"):
            outside: NDArray[np.float64] = ((rows < low) | (rows > high)).mean(axis=1)
        return outside

    def score(self) -> float:
        """Mean index over the features; above 0.25 is usually called a major shift. NaN before 100 rows."""
        totals = self._counts.sum(axis=1, keepdims=True)
        used = totals[:, 0] >= 100
        if not used.any():
            return float("nan")
        found = np.maximum(self._counts[used] / totals[used], 1e-4)
        expected = np.maximum(self._expected[used], 1e-4)
        return float(((found - expected) * np.log(found / expected)).sum(axis=1).mean())
