"""Loops over the flows of many sessions, compiled. Rows of a session lie side by side, from its element of `starts` on.

What NumPy has for groups of rows takes several passes over the data, and its reductions of short groups are slow.
Session features hand arrays of their own to these loops, so indices are checked in every mode.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import checked_kernel

from .outputs import MomentsOutput

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
_LARGEST = 2.0**62  # that is taken for what it is; infinity is no int64


@checked_kernel
def gather(values: Floats, valid_bits: NDArray[np.uint8], offset: int, rows: Indices, out: Floats) -> None:
    """Values of some rows; NaN where the bit of an Arrow array says that it is null."""
    for i in range(len(rows)):
        at = rows[i] + offset
        known = (np.int64(valid_bits[at >> 3]) >> (at & 7)) & 1
        out[i] = values[at] if known == 1 else math.nan


@checked_kernel
def sums(values: Floats, starts: Indices, out: Floats) -> None:
    """The sum of each session; NaN counts as nothing."""
    for session in range(len(starts)):
        end = starts[session + 1] if session + 1 < len(starts) else len(values)
        total = 0.0
        for row in range(starts[session], end):
            if values[row] == values[row]:
                total += values[row]
        out[session] = total


@checked_kernel
def extremes(values: Floats, sign: float, starts: Indices, out: Floats) -> None:
    """The least of each session for `sign` 1, the greatest for -1; NaN when all are."""
    for session in range(len(starts)):
        end = starts[session + 1] if session + 1 < len(starts) else len(values)
        best = math.nan
        for row in range(starts[session], end):
            if best != best or values[row] * sign < best * sign:
                best = values[row]
        out[session] = best


class Pooled(NamedTuple):
    """A series of each session, or of each flow; all but `n` NaN of an empty one. Any: see `sessions.Column`."""

    n: Any
    mean: Any
    std: Any
    low: Any
    high: Any

    def output(self) -> MomentsOutput:
        """All but the length."""
        return MomentsOutput(mean=self.mean, std=self.std, min=self.low, max=self.high)


@checked_kernel
def pool(flows: Pooled, starts: Indices, out: Floats) -> None:
    """The series of a session's flows as one, see `sessions.Flows.pooled`; `out` (5, sessions) is of NaN."""
    for session in range(len(starts)):
        end = starts[session + 1] if session + 1 < len(starts) else len(flows.n)
        total, weighted = 0.0, 0.0
        least, most = math.nan, math.nan
        for row in range(starts[session], end):
            if flows.n[row] > 0:
                total += flows.n[row]
                part = flows.n[row] * flows.mean[row]
                if part == part:
                    weighted += part
                if least != least or flows.low[row] < least:
                    least = flows.low[row]
                if most != most or flows.high[row] > most:
                    most = flows.high[row]
        out[0, session] = total
        if total > 0:
            average, squares = weighted / total, 0.0
            for row in range(starts[session], end):
                if flows.n[row] > 0:
                    away = flows.mean[row] - average
                    part = flows.n[row] * (flows.std[row] * flows.std[row] + away * away)
                    if part == part:
                        squares += part
            out[1, session] = average
            out[2, session] = math.sqrt(squares / total)
            out[3, session] = least
            out[4, session] = most


@checked_kernel
def add_to_bins(bins: NDArray[np.uint16], n: NDArray[np.uint64], sessions: Indices, values: Floats, full: int) -> None:
    """`api.Histogram.add` for each value but NaN; a bin counts to `full`."""
    for i in range(len(sessions)):
        if values[i] != values[i]:
            continue
        whole = np.int64(min(max(values[i], 0.0), _LARGEST))
        shift = 0
        while whole >> shift >= 8:
            shift += 1
        session, index = sessions[i], min(shift * 4 + (whole >> shift), bins.shape[1] - 1)
        if bins[session, index] < full:
            bins[session, index] += 1
            n[session] += 1


@checked_kernel
def bins_at(bins: NDArray[np.uint16], ranks: Floats, out: Indices) -> None:
    """Of each session the first bin up to which there are more values than `ranks` says; 0 when there is none."""
    for session in range(len(ranks)):
        seen, out[session] = 0, 0
        for index in range(bins.shape[1]):
            seen += bins[session, index]
            if seen > ranks[session]:
                out[session] = index
                break
