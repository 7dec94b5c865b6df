"""How good inferred labels and quantities are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score, roc_curve

_BOOTSTRAPS = 500
_BINS = 10
_POINTS = 101


class Known(NamedTuple):
    """The labels that a model knows.

    Args:
        numbers: places in `labels`, one for each column of its probabilities.
        labels: all that there are, in their order.
        ordered: whether neighbours in that order are nearer to each other than others.
    """

    numbers: NDArray[np.int64]
    labels: Sequence[str]
    ordered: bool


def classification_scores(
    truth: NDArray[np.int64], shares: NDArray[np.float64], known: Known, groups: NDArray[np.int64],
    least_confidence: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Scores of probabilities (rows, labels) against the truth; intervals by bootstrap over groups.

    Labels that the model does not know count as errors.
    """
    numbers, names = known.numbers, known.labels
    levels = sorted(set(numbers.tolist()) | set(truth.tolist()))
    told, confidence = numbers[shares.argmax(axis=1)], shares.max(axis=1)
    right = told == truth
    precision, recall, f1, support = precision_recall_fscore_support(truth, told, labels=levels, zero_division=0)
    distance = np.abs(np.searchsorted(levels, told) - np.searchsorted(levels, truth))
    kept = confidence >= least_confidence

    counts = _confusions(np.searchsorted(levels, truth), np.searchsorted(levels, told), groups, len(levels))
    (accuracy, macro_f1, level_error), between = _by_group(counts)
    return {
        "accuracy": accuracy, "accuracy_ci95": between[0],
        "macro_f1": macro_f1, "macro_f1_ci95": between[1],
        "per_class": {
            names[level]: {"precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]),
                         "support": int(support[i])}
            for i, level in enumerate(levels)
        },
        "confusion": {"labels": [names[level] for level in levels], "matrix": counts.sum(axis=0).astype(int).tolist()},
        **({"mean_level_error": level_error, "mean_level_error_ci95": between[2],
            "within_one_level": float((distance <= 1).mean())} if known.ordered else {}),
        "ece": calibration_error(right, confidence),
        "reliability": reliability(right, confidence),
        "auc": _auc(truth, shares, known), "roc": _roc(truth, shares, known),
        "coverage": float(kept.mean()), "accuracy_when_told": float(right[kept].mean()) if kept.any() else None,
        "rows": len(truth), "groups": len(counts),
    }  # fmt: skip


_BRIEF = ("accuracy", "macro_f1", "mean_level_error", "ece", "median_absolute_error", "mean_absolute_error")


def brief(scores: dict[str, Any]) -> dict[str, float]:
    """The scores by which models are compared."""
    return {name: scores[name] for name in _BRIEF if name in scores}


def quantity_scores(
    truth: NDArray[np.float64], quantiles: NDArray[np.float64], groups: NDArray[np.int64]
) -> dict[str, Any]:
    """Scores of quantities, in their unit; `quantiles` (rows, 3) are the 10th, 50th and 90th percentile.

    Intervals are by bootstrap over groups.
    """
    error = np.abs(quantiles[:, 1] - truth)
    number = np.unique(groups, return_inverse=True)[1]
    rows = np.split(np.argsort(number, kind="stable"), np.flatnonzero(np.diff(np.sort(number))) + 1)
    drawn = [
        error[np.concatenate([rows[one] for one in picked])]
        for picked in np.random.default_rng(0).integers(0, len(rows), (_BOOTSTRAPS, len(rows)))
    ]
    figures = [[np.median(one) for one in drawn], [one.mean() for one in drawn]]
    low, high = np.quantile(figures, [0.025, 0.975], axis=1).tolist()
    between = [None, None] if len(rows) == 1 else list(map(list, zip(low, high, strict=True)))
    inside = (truth >= quantiles[:, 0]) & (truth <= quantiles[:, 2])
    return {
        "median_absolute_error": float(np.median(error)), "median_absolute_error_ci95": between[0],
        "mean_absolute_error": float(error.mean()), "mean_absolute_error_ci95": between[1],
        "p90_absolute_error": float(np.quantile(error, 0.9)), "within_10_to_90": float(inside.mean()),
        "rows": len(truth), "groups": len(rows),
    }  # fmt: skip


def clustered_mean(values: NDArray[np.float64], groups: NDArray[np.int64]) -> tuple[float, list[float] | None]:
    """A mean and its 95 % interval by bootstrap over groups; no interval where there is one group only."""
    number = np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(number, values), np.bincount(number)
    times = _draws(len(sizes))
    drawn = (times @ sums) / (times @ sizes)
    return float(values.mean()), None if len(sizes) == 1 else np.quantile(drawn, [0.025, 0.975]).tolist()


def calibration_error(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Expected calibration error over ten bins of confidence (Guo et al., ICML 2017)."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    gap = np.bincount(bins, right.astype(float) - confidence, _BINS)
    return float(np.abs(gap).sum() / max(counts.sum(), 1))


def reliability(right: NDArray[np.bool_], confidence: NDArray[np.float64]) -> list[dict[str, float]]:
    """Mean confidence and accuracy of each bin that has rows."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        {"confidence": float(confidence[bins == one].mean()), "accuracy": float(right[bins == one].mean()),
         "rows": int((bins == one).sum())}
        for one in range(_BINS) if (bins == one).any()
    ]  # fmt: skip


def _auc(truth: NDArray[np.int64], shares: NDArray[np.float64], known: Known) -> dict[str, float]:
    """Area under the curve of each label against the others."""
    found = {}
    for column, level in enumerate(known.numbers.tolist()):
        positive = truth == level
        if positive.any() and not positive.all():
            found[known.labels[level]] = float(roc_auc_score(positive, shares[:, column]))
    return found


def _roc(truth: NDArray[np.int64], shares: NDArray[np.float64], known: Known) -> dict[str, dict[str, list[float]]]:
    """The curve of each label against the others, at most 101 points of it: false and true positive rates."""
    found = {}
    for column, level in enumerate(known.numbers.tolist()):
        positive = truth == level
        if positive.any() and not positive.all():
            false, true, _ = roc_curve(positive, shares[:, column])
            at = np.unique(np.searchsorted(false + true, np.linspace(0, 2, _POINTS)).clip(0, len(false) - 1))
            found[known.labels[level]] = {"false": false[at].round(4).tolist(), "true": true[at].round(4).tolist()}
    return found


def _confusions(
    truth: NDArray[np.intp], told: NDArray[np.intp], groups: NDArray[np.int64], levels: int
) -> NDArray[np.float64]:
    """The confusion matrix of each group: (groups, true, told)."""
    number = np.unique(groups, return_inverse=True)[1]
    counts = np.zeros((int(number.max()) + 1, levels, levels))
    np.add.at(counts, (number, truth, told), 1)
    return counts


def _figures(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Accuracy, macro-F1 over the labels that there were, and mean level error of confusion matrices."""
    total = np.maximum(counts.sum(axis=(1, 2)), 1)
    right = np.diagonal(counts, axis1=1, axis2=2)
    there, told = counts.sum(axis=2), counts.sum(axis=1)
    f1 = 2 * right / np.maximum(there + told, 1)
    levels = np.arange(counts.shape[1])
    distance = (counts * np.abs(levels[:, None] - levels)).sum(axis=(1, 2))
    macro = (f1 * (there > 0)).sum(axis=1) / np.maximum((there > 0).sum(axis=1), 1)
    return np.stack([right.sum(axis=1) / total, macro, distance / total], axis=1)


def _by_group(counts: NDArray[np.float64]) -> tuple[list[float], list[list[float] | None]]:
    """Figures and their 95 % intervals, by drawing groups with replacement: rows of one are not independent.

    A single group has no interval.
    """
    figures: list[float] = _figures(counts.sum(axis=0, keepdims=True))[0].tolist()
    if len(counts) == 1:
        return figures, [None] * len(figures)
    times = _draws(len(counts))
    drawn = _figures((times @ counts.reshape(len(counts), -1)).reshape(-1, *counts.shape[1:]))
    return figures, np.quantile(drawn, [0.025, 0.975], axis=0).T.tolist()


def _draws(groups: int) -> NDArray[np.float64]:
    """How often each group is drawn: (bootstraps, groups)."""
    return np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), _BOOTSTRAPS).astype(float)
