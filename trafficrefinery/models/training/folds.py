"""Cross-validation whose folds never share a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from trafficrefinery.errors import UsageError
from trafficrefinery.records.inferences import QUANTILES

from .estimators import Candidate, Problem, fit_classes, fit_quantity

FOLDS = 5
INNER_FOLDS = 3
Rows = NDArray[np.intp]


def grouped_folds(problem: Problem, folds: int = FOLDS) -> list[tuple[Rows, Rows]]:
    """Training and test rows; labels are shared out evenly as far as the groups allow.

    Raises:
        UsageError: there are fewer than two groups.
    """
    there = len(np.unique(problem.groups))
    if there < 2:
        raise UsageError(
            "all rows are of one group: the columns of --group have one value, or join all rows by way of each other; "
            "folds need two groups at least; group by fewer columns, and see --leave-out for the others"
        )
    folds = min(folds, there)
    if len(problem.classes):
        splitter: Any = StratifiedGroupKFold(folds, shuffle=True, random_state=problem.seed)
    else:
        splitter = GroupKFold(folds, shuffle=True, random_state=problem.seed)
    found = [(train, test) for train, test in splitter.split(problem.x, problem.y, problem.groups) if len(test)]
    for train, _ in found:
        if len(problem.classes) and len(np.unique(problem.y[train])) < 2:
            raise UsageError(
                "a fold has one label only; give more groups of each label, or leave labels out with --only"
            )
    return found


def random_folds(problem: Problem, folds: int = FOLDS) -> list[tuple[Rows, Rows]]:
    """Rows at random, whatever they belong to: the split that misleads, because neighbours are much alike."""
    least = int(np.unique(problem.y, return_counts=True)[1].min())
    splitter = StratifiedKFold(min(folds, max(least, 2)), shuffle=True, random_state=problem.seed)
    return list(splitter.split(problem.x, problem.y))


def cross_outputs(
    problem: Problem, candidates: Sequence[Candidate], folds: Sequence[tuple[Rows, Rows]], jobs: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Out-of-fold outputs of each row, and the number of its fold.

    Of several candidates, each fold takes the one that is best in a grouped cross-validation of its own training rows.
    Outputs are logarithms of probabilities (rows, classes), or the quantiles of a quantity (rows, 3).
    """
    done = joblib.Parallel(n_jobs=jobs)(
        joblib.delayed(_fold)(problem, tuple(candidates), train, test) for train, test in folds
    )
    width = len(problem.classes) or len(QUANTILES)
    out = np.full((len(problem.y), width), np.nan)
    number = np.full(len(problem.y), -1)
    for fold, ((_, test), outputs) in enumerate(zip(folds, done, strict=True)):
        out[test], number[test] = outputs, fold
    return out, number


def splits_of(fold: NDArray[np.int64]) -> list[tuple[Rows, Rows]]:
    """Training and test rows, from the number of the fold in which each row was tested."""
    return [(np.flatnonzero(fold != one), np.flatnonzero(fold == one)) for one in np.unique(fold)]


def _fold(problem: Problem, candidates: tuple[Candidate, ...], train: Rows, test: Rows) -> NDArray[np.float64]:
    part = problem.take(train)
    return outputs_of(choose(part, candidates), part, problem.x[test], problem.classes)


def outputs_of(
    candidate: Candidate, problem: Problem, x: NDArray[np.float32], classes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Fit a candidate and run it on other rows; see `cross_outputs`."""
    with threadpool_limits(1):  # folds are what runs side by side
        if not len(classes):
            return fit_quantity(candidate, problem).forest.sums(x)
        fitted = fit_classes(candidate, problem)
    sums = fitted.forest.sums(x)
    logits = np.log(np.maximum(sums, 1e-6)) if candidate.kind == "forest" else sums - _logsumexp(sums)
    wide = np.full((len(x), len(classes)), np.log(1e-6))
    wide[:, np.searchsorted(classes, fitted.classes)] = logits
    return wide


def choose(problem: Problem, candidates: Sequence[Candidate], jobs: int = 1) -> Candidate:
    """The candidate with the least loss in a grouped cross-validation: logarithmic, or absolute error."""
    if len(candidates) == 1:
        return candidates[0]
    folds = grouped_folds(problem, INNER_FOLDS)
    losses = joblib.Parallel(n_jobs=jobs)(
        joblib.delayed(_loss)(problem, candidate, folds) for candidate in candidates
    )  # fmt: skip
    return candidates[int(np.argmin(losses))]


def _loss(problem: Problem, candidate: Candidate, folds: Sequence[tuple[Rows, Rows]]) -> float:
    return loss_of(problem, cross_outputs(problem, [candidate], folds)[0])


def loss_of(problem: Problem, out: NDArray[np.float64]) -> float:
    """Mean logarithmic loss, or absolute error, of outputs as `cross_outputs` gives them."""
    if len(problem.classes):
        chosen = out[np.arange(len(out)), np.searchsorted(problem.classes, problem.y)]
        return -float(chosen.mean())
    return float(np.abs(out[:, 1] - problem.y).mean())


def _logsumexp(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    top = sums.max(axis=1, keepdims=True)
    total: NDArray[np.float64] = top + np.log(np.exp(sums - top).sum(axis=1, keepdims=True))
    return total
