"""What is known of each representation that was tried, as a table; its fronts, and the point to be recommended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trafficrefinery.costs.profiling import Costs
from trafficrefinery.errors import TrafficRefineryError

from .evaluating import Scores
from .fronts import front, hypervolume
from .options import ExploreOptions
from .space import Representation, Sampling, Space

FRONT_COLUMNS = (
    "classes", "columns", "interval_s", "first_packets", "trees", "tree_depth", "accuracy", "accuracy_se", "macro_f1",
    "startup_error_s", "state_bytes", "ns_per_packet", "collect_ns_per_flow", "record_bytes",
)  # fmt: skip
"""Of a point in `front.json`."""
ACCURACY_OF, ERROR_OF = "accuracy.", "accuracy_se."
"""Columns of the table for further targets, before their names."""
SEARCH, RANDOM, RANKING = "search", "random", "mutual information"
_ROOM = 1.1  # the hypervolume counts from a little more than the largest state, so that it counts too
Measured = Mapping[tuple[tuple[str, ...], Sampling], Costs]


def table_of(
    tried: Mapping[str, Sequence[Representation]], scores: Mapping[str, Scores], costs: Measured, space: Space
) -> pl.DataFrame:
    """A row for each representation, ordered by state, the most accurate first.

    Args:
        tried: by each way to search.
        scores: by the key of the representation.
    """
    by_key = {one.key: one for some in tried.values() for one in some}
    keys = {way: {one.key for one in some} for way, some in tried.items()}
    rows = []
    for key, one in by_key.items():
        classes = space.classes(one.columns)
        found = scores[key]._asdict()
        for target, (accuracy, error) in found.pop("also").items():
            found |= {f"{ACCURACY_OF}{target}": accuracy, f"{ERROR_OF}{target}": error}
        rows.append({
            "classes": list(classes), "columns": list(one.columns), "interval_s": one.source.interval_s,
            "first_packets": one.source.first_packets, "trees": one.trees, "tree_depth": one.tree_depth,
            **found, **costs[classes, one.source]._asdict(),
            "found_by": [way for way, there in keys.items() if key in there], "key": key,
        })  # fmt: skip
    floats = ("startup_error_s", *Scores._fields[:4], *Costs._fields)
    types = {"first_packets": pl.Int64, **dict.fromkeys(floats, pl.Float64)}
    frame = pl.DataFrame(rows, schema_overrides=types, infer_schema_length=None)
    frame = frame.with_columns(
        pl.col("columns").list.len().alias("column_count"), pl.col("state_bytes").round().cast(int)
    )
    frame = frame.sort(
        "state_bytes", "accuracy", "ns_per_packet", "column_count", "key", descending=[False, True, False, False, False]
    )
    return frame.with_columns(
        on_front=_on_front(frame, "state_bytes", "accuracy", -1),
        on_front_of_ns=_on_front(frame, "ns_per_packet", "accuracy", -1),
        on_front_of_startup=_on_front(frame, "state_bytes", "startup_error_s", 1),
    )


def _on_front(frame: pl.DataFrame, cost: str, other: str, sign: int) -> pl.Series:
    costs = np.column_stack([_numbers(frame, cost), sign * _numbers(frame, other)])
    chosen = np.zeros(len(frame), np.bool_)
    chosen[front(costs)] = True
    return pl.Series(chosen)


def _numbers(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    return frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def front_points(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """The Pareto front of accuracy and state, by state. Of points with the same of both, the quickest."""
    return frame.filter("on_front").select(FRONT_COLUMNS).to_dicts()


def growth(
    tried: Sequence[Representation], scores: Mapping[str, Scores], state_bytes: Mapping[str, int], scale: Scale
) -> list[float]:
    """The hypervolume of accuracy and state after each trial of a way to search."""
    gains = np.array([scale.gains(scores[one.key].accuracy, state_bytes[one.key]) for one in tried]).reshape(-1, 2)
    return [hypervolume(gains[: count + 1]) for count in range(len(gains))]


class Scale:
    """From accuracy and state to gains between 0 and 1: over always telling the most common, and over all classes."""

    def __init__(self, common: float, largest_bytes: int) -> None:
        self._common, self._largest_bytes = common, largest_bytes

    def gains(self, accuracy: float, state_bytes: float) -> tuple[float, float]:
        """More is better."""
        return (accuracy - self._common) / (1 - self._common), 1 - state_bytes / (_ROOM * self._largest_bytes)


def recommended(frame: pl.DataFrame, options: ExploreOptions) -> dict[str, Any]:
    """The point to deploy.

    With a limit on state alone, the most accurate one within it; else the cheapest that is accurate enough, which is,
    unless it is said, no worse than the best by more than the standard error of that one (Breiman et al., 1984). With
    further targets, only points count that are accurate enough for each of them, see `_enough_for_all`.

    Raises:
        TrafficRefineryError: no point is within the limits.
    """
    most, least = options.max_state_bytes, options.min_accuracy
    frame = _enough_for_all(frame, options)
    within = frame if most is None else frame.filter(pl.col("state_bytes") <= most)
    if most is not None and not len(within):
        cheapest = frame.row(0, named=True)
        raise TrafficRefineryError(
            f"no point has {most} B of state or less (--max-state); the best is {_told(cheapest)}"
        )
    best = within.sort("accuracy", descending=True, maintain_order=True).row(0, named=True)
    if most is not None and least is None:
        return best
    enough = best["accuracy"] - best["accuracy_se"] if least is None else least
    accurate = within.filter(pl.col("accuracy") >= enough)
    if not len(accurate):
        limit = "" if most is None else f" and {most} B of state or less (--max-state)"
        raise TrafficRefineryError(
            f"no point has an accuracy of {enough:g} (--min-accuracy){limit}; the best is {_told(best)}"
        )
    return accurate.row(0, named=True)


def _enough_for_all(frame: pl.DataFrame, options: ExploreOptions) -> pl.DataFrame:
    """The points that are accurate enough for all targets.

    Where the best of each have nothing in common, those that are enough for the first, of these those that are enough
    for the second beside each other, and so on.
    """
    if not options.also:
        return frame
    targets = {name: (ACCURACY_OF + name, ERROR_OF + name) for name in options.also}
    targets = {options.target: ("accuracy", "accuracy_se"), **targets}
    joint = frame
    for accuracy, error in targets.values():
        joint = joint.filter(pl.col(accuracy) >= _enough(frame, accuracy, error, options))
    for name, (accuracy, error) in targets.items() if not len(joint) else ():
        kept = frame.filter(pl.col(accuracy) >= (enough := _enough(frame, accuracy, error, options)))
        if not len(kept):
            best = float(frame[accuracy].to_numpy().max())
            message = f"no point has an accuracy of {enough:g} (--min-accuracy) for {name}"
            raise TrafficRefineryError(f"{message} beside the other targets; the best has {best:.3f}")
        frame = kept
    return joint if len(joint) else frame


def _enough(frame: pl.DataFrame, accuracy: str, error: str, options: ExploreOptions) -> float:
    """The accuracy that is asked for, or that of the best less its standard error."""
    best = frame.sort(accuracy, descending=True, maintain_order=True).row(0, named=True)
    return float(best[accuracy] - best[error]) if options.min_accuracy is None else options.min_accuracy


def _told(point: Mapping[str, Any]) -> str:
    return f"{point['state_bytes']:.0f} B with an accuracy of {point['accuracy']:.3f}"
