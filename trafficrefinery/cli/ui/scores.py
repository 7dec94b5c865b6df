"""Scores of models as text and tables."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def print_scores(metrics: dict[str, Any]) -> None:
    """What `train` and `evaluate` tell of a model."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    if "accuracy" in metrics:
        _print_resolution(console.print, metrics)
    else:
        low, high = metrics["median_absolute_error_s_ci95"]
        console.print(
            f"startup delay: median absolute error {metrics['median_absolute_error_s']:.2f} s "
            f"({low:.2f} to {high:.2f}), mean {metrics['mean_absolute_error_s']:.2f} s, "
            f"{metrics['within_10_to_90']:.0%} within the 10th and 90th percentile, {metrics['sessions']} sessions"
        )
    if metrics.get("feature_sets"):
        console.print(_feature_sets(metrics["feature_sets"]))
    if metrics.get("services"):
        console.print(_services(metrics["services"]))


def _print_resolution(say: Callable[..., None], metrics: dict[str, Any]) -> None:
    (low, high), (low_f1, high_f1) = metrics["accuracy_ci95"], metrics["macro_f1_ci95"]
    where = "of videos that the model has not seen" if metrics.get("out_of_fold") else "of this data"
    say(f"{metrics['rows']:,} intervals of {metrics['sessions']} sessions, {where}; 95 % intervals by session")
    say(f"accuracy {metrics['accuracy']:.3f} ({low:.3f} to {high:.3f}), "
        f"macro-F1 {metrics['macro_f1']:.3f} ({low_f1:.3f} to {high_f1:.3f}), "
        f"mean level error {metrics['mean_level_error']:.3f}, calibration error {metrics['ece']:.3f}")  # fmt: skip
    alone = metrics["without_smoothing"]
    say(f"without smoothing over intervals: accuracy {alone['accuracy']:.3f}, macro-F1 {alone['macro_f1']:.3f}")
    if metrics["accuracy_when_told"] is not None:
        say(f"told in {metrics['coverage']:.0%} of the intervals, of these right {metrics['accuracy_when_told']:.1%}")
    say(_classes(metrics))
    if metrics.get("split"):
        grouped, random = metrics["split"]["grouped"], metrics["split"]["random_rows"]
        say(f"a random split of rows would tell accuracy {random['accuracy']:.3f}, macro-F1 {random['macro_f1']:.3f} "
            f"in place of {grouped['accuracy']:.3f}, {grouped['macro_f1']:.3f}")  # fmt: skip


def _table(*titles: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number else "left")
    return table


def _classes(metrics: dict[str, Any]) -> Table:
    labels = metrics["confusion"]["labels"]
    table = _table("played", "precision", "recall", "F1", *(f"as {label}" for label in labels), "intervals")
    for label, counts in zip(labels, metrics["confusion"]["matrix"], strict=True):
        one = metrics["per_class"][str(label)]
        table.add_row(
            str(label), *(f"{one[name]:.2f}" for name in ("precision", "recall", "f1")),
            *(f"{count:,}" if count else "" for count in counts), f"{one['support']:,}",
        )  # fmt: skip
    return table


def _feature_sets(sets: dict[str, Any]) -> Table:
    kinds = [kind for kind in ("forest", "boosted") if kind in next(iter(sets.values()))]
    scores = list(next(iter(sets.values()))[kinds[0]])[:3]
    table = _table("features", "columns", *(f"{kind}: {score.replace('_', ' ')}" for kind in kinds for score in scores))
    for name, one in sets.items():
        table.add_row(name, str(one["columns"]), *(f"{one[kind][score]:.3f}" for kind in kinds for score in scores))
    return table


def _services(services: dict[str, Any]) -> Table:
    table = _table("service", "intervals", "one model for all", "its own model")
    for name, one in services.items():
        shown = [
            next((f"{value:.3f}" for value in (one.get(kind) or {}).values()), "–") for kind in ("composite", "own")
        ]
        table.add_row(name, f"{one['rows']:,}", *shown)
    return table
