"""Models of scikit-learn as flat forests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.models.inference.forest import LEAF, Forest


class _Tree(NamedTuple):
    """One tree as its library numbers its nodes; `values` (nodes, outputs) counts in leaves only."""

    feature: NDArray[Any]
    threshold: NDArray[np.float64]
    left: NDArray[Any]
    right: NDArray[Any]
    nan_left: NDArray[np.bool_]
    leaf: NDArray[np.bool_]
    values: NDArray[np.float64]


def flatten_forest(model: Any) -> Forest:
    """A random forest, classifier or regressor; its sums are shares of the classes, or the mean."""
    count = len(model.estimators_)
    trees = []
    for estimator in model.estimators_:
        tree = estimator.tree_
        trees.append(_Tree(
            tree.feature, tree.threshold, tree.children_left, tree.children_right,
            tree.missing_go_to_left.astype(np.bool_), tree.children_left < 0, tree.value[:, 0, :] / count,
        ))  # fmt: skip
    return _join(trees, np.zeros(trees[0].values.shape[1]))


def flatten_boosted(model: Any) -> Forest:
    """A histogram gradient boosting classifier or regressor; its sums are logits, or the value itself."""
    start = np.ravel(model._baseline_prediction)  # noqa: SLF001 (nothing public tells; the parity is tested at export)
    stages = model._predictors  # noqa: SLF001
    binary = hasattr(model, "classes_") and len(model.classes_) == 2
    outputs = 2 if binary else len(start)
    trees = []
    for stage in stages:
        for output, predictor in enumerate(stage):
            nodes = predictor.nodes
            values = np.zeros((len(nodes), outputs))
            values[:, 1 if binary else output] = nodes["value"]
            trees.append(_Tree(
                nodes["feature_idx"], nodes["num_threshold"], nodes["left"], nodes["right"],
                nodes["missing_go_to_left"].astype(np.bool_), nodes["is_leaf"].astype(np.bool_), values,
            ))  # fmt: skip
    return _join(trees, np.array([0.0, start[0]]) if binary else start)


def side_by_side(forests: Sequence[Forest]) -> Forest:
    """Forests with one output each as one forest with as many outputs."""
    roots, left, values = [], [], []
    nodes = leaves = 0
    for output, forest in enumerate(forests):
        wide = np.zeros((len(forest.values), len(forests)), np.float32)
        wide[:, output] = forest.values[:, 0]
        roots.append(forest.roots + nodes)
        left.append(forest.left + np.where(forest.feature == LEAF, leaves, nodes).astype(np.int32))
        values.append(wide)
        nodes += len(forest.feature)
        leaves += len(forest.values)
    feature, threshold, nan_left, start = (
        np.concatenate([getattr(forest, name) for forest in forests])
        for name in ("feature", "threshold", "nan_left", "start")
    )
    return Forest(
        np.concatenate(roots), feature, threshold, np.concatenate(left), nan_left, np.concatenate(values), start
    )


def _join(trees: Sequence[_Tree], start: NDArray[np.float64]) -> Forest:
    roots: list[int] = []
    feature: list[int] = []
    threshold: list[float] = []
    left: list[int] = []
    nan_left: list[bool] = []
    values: list[NDArray[np.float64]] = []
    for tree in trees:
        base = len(feature)
        roots.append(base)
        order = [0]  # breadth first: the children of a node lie side by side, and behind it
        for old in order:  # grows meanwhile
            if tree.leaf[old]:
                feature.append(LEAF)
                threshold.append(0.0)
                left.append(len(values))
                nan_left.append(False)
                values.append(tree.values[old])
            else:
                feature.append(int(tree.feature[old]))
                threshold.append(float(tree.threshold[old]))
                left.append(base + len(order))
                nan_left.append(bool(tree.nan_left[old]))
                order += [int(tree.left[old]), int(tree.right[old])]
    return Forest(
        np.array(roots, np.int64), np.array(feature, np.int32), _below(np.array(threshold)),
        np.array(left, np.int32), np.array(nan_left, np.uint8), np.array(values, np.float32),
        np.asarray(start, np.float64),
    )  # fmt: skip


def _below(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not greater, so that the same float32 rows go left."""
    with np.errstate(over="ignore"):
        rounded = threshold.astype(np.float32)
    lower = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded.astype(np.float64) > threshold, lower, rounded)
