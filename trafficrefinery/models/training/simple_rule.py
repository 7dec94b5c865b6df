"""The least that a model must beat: a rule on one column, thresholds that a small tree finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from .estimators import Problem
from .folds import Rows
from .scores import clustered_mean

_MOST_ROWS = 4_000
_LEAVES = 5  # of a quantity


def rule_of(train: Problem, x: NDArray[np.float32]) -> tuple[NDArray[Any], int]:
    """What the best rule on one column says of rows, and the column; it is chosen by the training data alone."""
    labelled = bool(len(train.classes))
    rows = np.random.default_rng(train.seed).permutation(len(train.y))[:_MOST_ROWS]
    leaves = max(len(train.classes), 2) if labelled else _LEAVES
    best: tuple[float, int, Any] | None = None
    for column in range(train.x.shape[1]):
        tree: Any = (DecisionTreeClassifier if labelled else DecisionTreeRegressor)(
            max_leaf_nodes=leaves, min_samples_leaf=max(len(rows) // 200, 1), random_state=0
        )
        given = train.x[rows, column, None]
        score = float(tree.fit(given, train.y[rows]).score(given, train.y[rows]))
        if best is None or score > best[0]:
            best = score, column, tree
    assert best is not None
    _, column, tree = best
    return tree.predict(x[:, column, None]), column


def simple_rule(problem: Problem, folds: Sequence[tuple[Rows, Rows]], columns: Sequence[str]) -> dict[str, Any]:
    """How good such a rule is on the rows that were held out, and the column that it most often reads."""
    told = np.zeros_like(problem.y)
    read: Counter[str] = Counter()
    for train, test in folds:
        told[test], column = rule_of(problem.take(train), problem.x[test])
        read[columns[column]] += 1
    return {"column": read.most_common(1)[0][0], **rule_scores(problem.y, told, problem.groups)}


def rule_scores(truth: NDArray[Any], told: NDArray[Any], groups: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy of labels, or mean absolute error of quantities, with its interval."""
    labelled = truth.dtype.kind == "i"
    name = "accuracy" if labelled else "mean_absolute_error"
    mean, between = clustered_mean((told == truth).astype(float) if labelled else np.abs(told - truth), groups)
    return {name: mean, f"{name}_ci95": between}
