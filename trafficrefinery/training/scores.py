"""How good inferred resolutions and startup delays are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_auc_score

_BOOTSTRAPS = 500
_BINS = 10


def classification_scores(
    truth: NDArray[np.int64], shares: NDArray[np.float64], resolutions: Sequence[int], sessions: NDArray[np.int64],
    least_confidence: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """Scores of probabilities (rows, resolutions) against what was played; intervals by bootstrap over sessions.

    Resolutions that were played but that the model does not know count as errors.
    """
    known = np.array(resolutions)
    levels = sorted(set(known.tolist()) | set(truth.tolist()))
    told, confidence = known[shares.argmax(axis=1)], shares.max(axis=1)
    right = told == truth
    seen = np.unique(truth)
    precision, recall, f1, support = precision_recall_fscore_support(truth, told, labels=levels, zero_division=0)
    distance = np.abs(np.searchsorted(levels, told) - np.searchsorted(levels, truth))
    kept = confidence >= least_confidence

    def figures(rows: NDArray[np.intp]) -> list[float]:
        return [right[rows].mean(), _macro_f1(truth[rows], told[rows], seen), distance[rows].mean()]

    low, high = _by_session(figures, sessions)
    return {
        "accuracy": float(right.mean()), "accuracy_ci95": [low[0], high[0]],
        "macro_f1": _macro_f1(truth, told, seen), "macro_f1_ci95": [low[1], high[1]],
        "per_class": {
            str(level): {"precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]),
                         "support": int(support[i])}
            for i, level in enumerate(levels)
        },
        "confusion": {"labels": levels, "matrix": confusion_matrix(truth, told, labels=levels).tolist()},
        "mean_level_error": float(distance.mean()), "mean_level_error_ci95": [low[2], high[2]],
        "within_one_level": float((distance <= 1).mean()),
        "ece": calibration_error(right, confidence),
        "reliability": reliability(right, confidence),
        "auc": _auc(truth, shares, known),
        "coverage": float(kept.mean()), "accuracy_when_told": float(right[kept].mean()) if kept.any() else None,
        "rows": len(truth), "sessions": len(np.unique(sessions)),
    }  # fmt: skip


def regression_scores(
    truth: NDArray[np.float64], quantiles: NDArray[np.float64], sessions: NDArray[np.int64]
) -> dict[str, Any]:
    """Scores of startup delays, in s; `quantiles` (sessions, 3) are the 10th, 50th and 90th percentile."""
    error = np.abs(quantiles[:, 1] - truth)
    low, high = _by_session(lambda rows: [float(np.median(error[rows])), error[rows].mean()], sessions)
    inside = (truth >= quantiles[:, 0]) & (truth <= quantiles[:, 2])
    return {
        "median_absolute_error_s": float(np.median(error)), "median_absolute_error_s_ci95": [low[0], high[0]],
        "mean_absolute_error_s": float(error.mean()), "mean_absolute_error_s_ci95": [low[1], high[1]],
        "p90_absolute_error_s": float(np.quantile(error, 0.9)), "within_10_to_90": float(inside.mean()),
        "sessions": len(truth),
    }  # fmt: skip


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


def _macro_f1(truth: NDArray[np.int64], told: NDArray[np.int64], levels: NDArray[np.int64]) -> float:
    """Mean F1 of the resolutions that were played."""
    present = levels[np.isin(levels, truth)]
    f1 = precision_recall_fscore_support(truth, told, labels=present, zero_division=0)[2]
    return float(np.mean(f1))


def _auc(truth: NDArray[np.int64], shares: NDArray[np.float64], known: NDArray[np.int64]) -> dict[str, float]:
    """Area under the curve of each resolution against the others."""
    found = {}
    for column, level in enumerate(known.tolist()):
        positive = truth == level
        if positive.any() and not positive.all():
            found[str(level)] = float(roc_auc_score(positive, shares[:, column]))
    return found


def _by_session(
    figures: Callable[[NDArray[np.intp]], list[float]], sessions: NDArray[np.int64]
) -> tuple[list[float], list[float]]:
    """95 % intervals of figures, by drawing sessions with replacement: rows of one are not independent."""
    rng = np.random.default_rng(0)
    rows_of = [np.flatnonzero(sessions == one) for one in np.unique(sessions)]
    drawn = []
    for _ in range(_BOOTSTRAPS):
        chosen = rng.integers(0, len(rows_of), len(rows_of))
        drawn.append(figures(np.concatenate([rows_of[one] for one in chosen])))
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    return low.tolist(), high.tolist()
