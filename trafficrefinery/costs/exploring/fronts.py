"""Pareto fronts and their hypervolume, in two objectives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def front(costs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which points no other is better than: as good in both and better in one. Of equal points, the first.

    Args:
        costs: (points, 2), less is better; points with NaN are on no front.

    Returns:
        Their numbers, by the first cost.
    """
    best = np.inf
    found = []
    order = np.lexsort((np.arange(len(costs)), costs[:, 1], costs[:, 0]))
    for number in order[~np.isnan(costs[order]).any(axis=1)].tolist():
        if costs[number, 1] < best:
            best = costs[number, 1]
            found.append(number)
    return np.array(found, np.intp)


def hypervolume(gains: NDArray[np.float64]) -> float:
    """The share of the unit square that points dominate.

    Args:
        gains: (points, 2), more is better; what is below 0 counts as 0, above 1 as 1.
    """
    bounded = np.clip(gains, 0.0, 1.0)
    chosen = bounded[front(-bounded)]  # the first gain falls, the second grows
    if not len(chosen):
        return 0.0
    heights = np.diff(chosen[:, 1], prepend=0.0)
    return float((chosen[:, 0] * heights).sum())
