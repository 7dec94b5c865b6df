"""Pictures of how good a model is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = {"forest": "#4C72B0", "boosted": "#DD8452"}
_KINDS = {"forest": "random forest", "boosted": "gradient boosting"}
_SETS = {"net": "Net", "transport": "Transport", "app": "App", "net+app": "Net+App", "all": "All"}


def of_metrics(metrics: Mapping[str, Any], out: Path, suffix: str = "png") -> list[Path]:
    """Draw what the metrics of a model have: confusion, reliability, scores by resolution, feature sets."""
    drawn: list[tuple[str, Figure]] = []
    if "confusion" in metrics:
        drawn += [("confusion", _confusion(metrics)), ("reliability", _reliability(metrics)),
                  ("resolutions", _resolutions(metrics))]  # fmt: skip
    if metrics.get("feature_sets"):
        drawn.append(("feature_sets", _feature_sets(metrics)))
    paths = []
    for name, figure in drawn:
        path = out / f"{name}.{suffix}"
        figure.savefig(path, dpi=120)
        paths.append(path)
    return paths


def _figure(title: str, size: tuple[float, float] = (6, 4.5)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _confusion(metrics: Mapping[str, Any]) -> Figure:
    labels, counts = metrics["confusion"]["labels"], np.array(metrics["confusion"]["matrix"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure(f"Accuracy {metrics['accuracy']:.3f}, macro-F1 {metrics['macro_f1']:.3f}")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*shares.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{shares[row, column]:.0%}", ha="center", va="center", color=colour, fontsize=9)
    names = [f"{label}p" for label in labels]
    axes.set_xticks(range(len(labels)), names)
    axes.set_yticks(range(len(labels)), [f"{name} ({n:,})" for name, n in zip(names, counts.sum(axis=1), strict=True)])
    axes.set_xlabel("inferred")
    axes.set_ylabel("played (intervals)")
    figure.colorbar(image, ax=axes, label="share of the intervals played")
    return figure


def _reliability(metrics: Mapping[str, Any]) -> Figure:
    bins = metrics["reliability"]
    figure, axes = _figure(f"Calibration error {metrics['ece']:.3f}")
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect")
    sizes = np.sqrt([one["rows"] for one in bins])
    axes.plot([one["confidence"] for one in bins], [one["accuracy"] for one in bins], color="#4C72B0", label="model")
    axes.scatter(
        [one["confidence"] for one in bins], [one["accuracy"] for one in bins], s=200 * sizes / sizes.max(),
        color="#4C72B0", alpha=0.6,
    )  # fmt: skip
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    return figure


def _resolutions(metrics: Mapping[str, Any]) -> Figure:
    levels = list(metrics["per_class"])
    figure, axes = _figure("By resolution")
    at = np.arange(len(levels))
    series = [(name, [metrics["per_class"][level][name] for level in levels]) for name in ("precision", "recall", "f1")]
    series.append(("AUC", [metrics["auc"].get(level, np.nan) for level in levels]))
    for number, (name, values) in enumerate(series):
        axes.bar(at + (number - 1.5) * 0.2, values, 0.19, label="F1" if name == "f1" else name)
    axes.set_xticks(at, [f"{level}p" for level in levels])
    axes.set(ylim=(0, 1), ylabel="score")
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    return figure


def _feature_sets(metrics: Mapping[str, Any]) -> Figure:
    sets = metrics["feature_sets"]
    score = "accuracy" if "accuracy" in metrics else "median_absolute_error_s"
    figure, axes = _figure("Feature sets, folds without common videos")
    at = np.arange(len(sets))
    kinds = [kind for kind in _KINDS if all(kind in one for one in sets.values())]
    for number, kind in enumerate(kinds):
        values = [one[kind][score] for one in sets.values()]
        bars = axes.bar(
            at + (number - (len(kinds) - 1) / 2) * 0.4, values, 0.38, label=_KINDS[kind], color=_COLOURS[kind]
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_xticks(at, [_SETS.get(name, name) for name in sets])
    axes.set_ylabel("accuracy" if score == "accuracy" else "median absolute error, s")
    axes.margins(y=0.1)
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    return figure
