"""Cross-validation whose folds never share a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

from trafficrefinery.errors import UsageError
from trafficrefinery.records.inferences import QUANTILES
from trafficrefinery.system.tasks import HERE, Here, Tasks, results

from .estimators import Candidate, Problem, fit_classes, fit_quantity

CANNOT_BE_TRAINED = "a model cannot be trained"
FOLDS = 5
INNER_FOLDS = 3
MOST_CHOSEN_ON = 3_000
"""Rows on which candidates are compared with each other; the one that is taken sees all."""
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


class Fold(NamedTuple):
    """A task: train on some rows of a problem, and run the model on others.

    Args:
        threads: that it may use.
    """

    problem: Problem
    candidates: tuple[Candidate, ...]
    train: Rows
    test: Rows
    threads: int = 1

    @property
    def work(self) -> float:
        """How much there is to do, see `work_of`."""
        return work_of(len(self.train), self.problem.x.shape[1], self.candidates)


def work_of(rows: int, columns: int, candidates: Sequence[Candidate]) -> float:
    """What training takes beside other trainings: cells of the table, of each model that is fitted."""
    cells = float(rows * columns)
    if len(candidates) == 1:
        return cells
    inner = min(rows, MOST_CHOSEN_ON) * (INNER_FOLDS - 1) / INNER_FOLDS * columns
    return cells + len(candidates) * INNER_FOLDS * inner


def cross_outputs(
    problem: Problem, candidates: Sequence[Candidate], folds: Sequence[tuple[Rows, Rows]], jobs: Tasks = HERE
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Out-of-fold outputs of each row, and the number of its fold.

    Of several candidates, each fold takes the one that is best in a grouped cross-validation of its own training rows.
    Outputs are logarithms of probabilities (rows, classes), or the quantiles of a quantity (rows, 3).

    Raises:
        TrafficRefineryError: a fold cannot be trained.
    """
    width = len(problem.classes) or len(QUANTILES)
    out = np.full((len(problem.y), width), np.nan)
    number = np.full(len(problem.y), -1)
    wanted = [Fold(problem, tuple(candidates), train, test, jobs.threads) for train, test in folds]
    for fold, outputs in enumerate(results(jobs, _fold, wanted, CANNOT_BE_TRAINED)):
        test = folds[fold][1]
        out[test], number[test] = outputs, fold
    return out, number


def splits_of(fold: NDArray[np.int64]) -> list[tuple[Rows, Rows]]:
    """Training and test rows, from the number of the fold in which each row was tested."""
    return [(np.flatnonzero(fold != one), np.flatnonzero(fold == one)) for one in np.unique(fold)]


def _fold(one: Fold) -> NDArray[np.float64]:
    part = one.problem.take(one.train)
    candidate = choose(part, one.candidates, Here(one.threads))
    return outputs_of(candidate, part, one.problem.x[one.test], one.problem.classes, one.threads)


def outputs_of(
    candidate: Candidate, problem: Problem, x: NDArray[np.float32], classes: NDArray[np.int64], threads: int = 1
) -> NDArray[np.float64]:
    """Fit a candidate and run it on other rows; see `cross_outputs`."""
    if not len(classes):
        return fit_quantity(candidate, problem, threads).forest.sums(x)
    fitted = fit_classes(candidate, problem, threads)
    sums = fitted.forest.sums(x)
    logits = np.log(np.maximum(sums, 1e-6)) if candidate.kind == "forest" else sums - _logsumexp(sums)
    wide = np.full((len(x), len(classes)), np.log(1e-6))
    wide[:, np.searchsorted(classes, fitted.classes)] = logits
    return wide


def choose(problem: Problem, candidates: Sequence[Candidate], jobs: Tasks = HERE) -> Candidate:
    """The candidate with the least loss in a grouped cross-validation: logarithmic, or absolute error.

    Of a large problem, some sessions are enough for that.
    """
    if len(candidates) == 1:
        return candidates[0]
    problem = problem.take(some_sessions(problem, MOST_CHOSEN_ON))
    folds = grouped_folds(problem, INNER_FOLDS)
    wanted = [Fold(problem, (candidate,), *fold, jobs.threads) for candidate in candidates for fold in folds]
    outputs = results(jobs, _fold, wanted, CANNOT_BE_TRAINED)
    losses = []
    for begin in range(0, len(wanted), len(folds)):
        out = np.full((len(problem.y), outputs[0].shape[1]), np.nan)
        for (_, test), found in zip(folds, outputs[begin : begin + len(folds)], strict=True):
            out[test] = found
        losses.append(loss_of(problem, out))
    return candidates[int(np.argmin(losses))]


def some_sessions(problem: Problem, most_rows: int) -> Rows:
    """All rows, or whole sessions at random with at most so many rows; their order stays.

    Groups and labels stay as frequent as they are, but for chance.
    """
    if len(problem.y) <= most_rows:
        return np.arange(len(problem.y))
    names, number, sizes = np.unique(problem.sessions, return_inverse=True, return_counts=True)
    drawn = np.random.default_rng(problem.seed).permutation(len(names))
    count = max(int(np.searchsorted(np.cumsum(sizes[drawn]), most_rows, side="right")), 1)
    return np.flatnonzero(np.isin(number, drawn[:count]))


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
