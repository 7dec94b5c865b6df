"""Probabilities that mean what they say, and how much one interval tells beside those before it."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.models.inference.asked import smooth
from trafficrefinery.models.inference.bundle import Calibration

_TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
_STAYS = (0.5, 0.7, 0.85, 0.93, 0.97, 0.99)
_WEIGHTS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
_ABSTAIN_BELOW = 0.4
"""Confidence; with five labels, twice what knowing nothing gives."""


class Sequences:
    """Rows of sessions in the order of time, as steps: the first row of each session, the second of each, ..."""

    def __init__(self, sessions: NDArray[np.int64], ts_start: NDArray[np.float64]) -> None:
        self.sessions = np.unique(sessions, return_inverse=True)[1]
        order = np.lexsort((ts_start, self.sessions))
        first = np.flatnonzero(np.diff(self.sessions[order], prepend=-1))
        position = np.empty(len(order), np.intp)
        position[order] = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
        self.steps = [np.flatnonzero(position == one) for one in range(int(position.max(initial=-1)) + 1)]

    def smoothed(self, shares: NDArray[np.float64], stay: float, weight: float) -> NDArray[np.float64]:
        """Probabilities (rows, labels) as a predictor tells them, interval by interval."""
        out = np.empty_like(shares)
        belief = np.full((int(self.sessions.max()) + 1, shares.shape[1]), 1 / shares.shape[1])
        for rows in self.steps:
            at = self.sessions[rows]
            belief[at] = out[rows] = smooth(belief[at], shares[rows], stay, weight)
        return out


def calibrated(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities of logarithms of probabilities."""
    return Calibration("logits", temperature).outputs(logits)


def calibrate(
    logits: NDArray[np.float64], truth: NDArray[np.intp], sessions: NDArray[np.int64], ts_start: NDArray[np.float64],
    link: str,
) -> Calibration:  # fmt: skip
    """Temperature, and what smoothing does, of least logarithmic loss on rows that the model was not trained on.

    Args:
        logits: (rows, labels), logarithms of probabilities.
        truth: column of the true label, of each row.
    """
    sequences, row = Sequences(sessions, ts_start), np.arange(len(truth))

    def loss(shares: NDArray[np.float64]) -> float:
        return -float(np.log(np.maximum(shares[row, truth], 1e-6)).mean())

    temperature = min(_TEMPERATURES, key=lambda one: loss(calibrated(logits, one)))
    shares = calibrated(logits, temperature)
    alone = (1 / shares.shape[1], 1.0)  # what an interval tells, and no more
    stay, weight = min(
        (alone, *itertools.product(_STAYS, _WEIGHTS)), key=lambda pair: loss(sequences.smoothed(shares, *pair))
    )  # fmt: skip
    return Calibration(link, temperature, stay, weight, _ABSTAIN_BELOW)
