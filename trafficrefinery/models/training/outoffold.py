"""Scores of out-of-fold outputs: each fold is calibrated and smoothed by what is best for the others."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.models.targets import ORDINAL

from .calibrate import Sequences, calibrate, calibrated
from .dataset import Dataset
from .estimators import Problem
from .scores import Known, brief, classification_scores, quantity_scores

_SIZED = re.compile(r"(segment|pending|last10|all)_bytes|kbps|^network\.(bytes|packets)_")
"""Columns that grow with the size of the content, such as the bitrate of a video."""


def problem_of(dataset: Dataset, columns: tuple[str, ...], seed: int) -> Problem:
    """What is to be learnt from a dataset."""
    sized = np.array([bool(_SIZED.search(name)) for name in columns])
    return Problem(dataset.matrix(columns), dataset.truth, sized, dataset.groups, dataset.sessions, seed)


def score(dataset: Dataset, problem: Problem, outputs: NDArray[np.float64], fold: NDArray[np.int64]) -> dict[str, Any]:
    """Scores of out-of-fold outputs, as a predictor tells them: each fold calibrated and smoothed by the others."""
    if not dataset.target.has_labels:
        told = _conformal_of_others(dataset, outputs, fold)
        return {"out_of_fold": True, **quantity_scores(dataset.truth, told, dataset.groups)} | sizes(dataset)
    known = Known(problem.classes, dataset.labels, dataset.target.kind == ORDINAL)
    shares, alone, least = smoothed_by_others(problem, dataset.table.column("ts_start").to_numpy(), outputs, fold)
    scores = classification_scores(dataset.truth, shares, known, dataset.groups, least)
    single = classification_scores(dataset.truth, alone, known, dataset.groups)
    return {"out_of_fold": True, **scores, "without_smoothing": brief(single)} | sizes(dataset)


def sizes(dataset: Dataset) -> dict[str, Any]:
    """How many sessions the figures are of, and the groups that their intervals are by."""
    return {"sessions": len(np.unique(dataset.sessions)), "group": ", ".join(dataset.by)}


def smoothed_by_others(
    problem: Problem, ts_start: NDArray[np.float64], outputs: NDArray[np.float64], fold: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Probabilities as a predictor tells them, those of each interval alone, and the least confidence.

    Each fold is calibrated and smoothed by what is best for the others.
    """
    truth = np.searchsorted(problem.classes, problem.y)
    shares, alone = np.zeros_like(outputs), np.zeros_like(outputs)
    least = 0.0
    for one in np.unique(fold):
        test, others = np.flatnonzero(fold == one), np.flatnonzero(fold != one)
        made = calibrate(outputs[others], truth[others], problem.sessions[others], ts_start[others], "logits")
        alone[test] = calibrated(outputs[test], made.temperature)
        sequences = Sequences(problem.sessions[test], ts_start[test])
        shares[test] = sequences.smoothed(alone[test], made.stay, made.weight)
        least = made.least_confidence
    return shares, alone, least


def _conformal_of_others(
    dataset: Dataset, outputs: NDArray[np.float64], fold: NDArray[np.int64]
) -> NDArray[np.float64]:
    made = outputs.copy()
    for one in np.unique(fold):
        others = fold != one
        made[fold == one] += conformal(outputs[others], dataset.truth[others])
    return made


def conformal(outputs: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """What to add to quantiles so that they hold (conformalised quantile regression, Romano et al., NeurIPS 2019)."""
    away = truth[:, None] - outputs
    return np.array([np.quantile(away[:, 0], 0.1), 0.0, np.quantile(away[:, 2], 0.9)])
