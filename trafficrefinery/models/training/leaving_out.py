"""Figures of models that have not seen a site, a day, a link, a player: each value of a column is left out in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from trafficrefinery.errors import UsageError, did_you_mean
from trafficrefinery.models.targets import ORDINAL
from trafficrefinery.system.tasks import HERE, Tasks, results

from .calibrate import Sequences, calibrate, calibrated
from .dataset import Dataset
from .estimators import Candidate, Problem
from .folds import CANNOT_BE_TRAINED, INNER_FOLDS, Rows, cross_outputs, grouped_folds, loss_of, outputs_of
from .groups import check_groups, group_values, numbers_of
from .outoffold import conformal
from .scores import Known, classification_scores, quantity_scores
from .simple_rule import rule_of, rule_scores

_MOST_VALUES = 12
_POOLED = 10


class _Part(NamedTuple):
    """One split.

    Args:
        values: that are left out.
        why_not: nothing is left to train on; empty: there is enough.
    """

    values: tuple[str, ...]
    train: Rows
    test: Rows
    why_not: str


class _Told(NamedTuple):
    """What the model and the simple rule say of the test rows."""

    outputs: NDArray[np.float64]
    least: float
    rule: NDArray[Any]


def check_left_out(asked: Sequence[str], dataset: Dataset) -> None:
    """See that what is to be left out is there, and leaves something to train on.

    Raises:
        UsageError: it is not.
    """
    for column, values in _by_column(asked, dataset).items():
        _parts(dataset, column, values)


def left_out(
    dataset: Dataset, problem: Problem, candidates: Sequence[Candidate], asked: Sequence[str], jobs: Tasks = HERE
) -> dict[str, Any]:
    """Scores of models that were trained without the values of a column that they are tested on.

    Groups that a tested row belongs to are left out of the training data as well; of several candidates, the one that
    is best within the training data is taken, and it is calibrated there. Columns of many values are left out several
    values at a time. Intervals of a value are by group, those of the column by its values.

    Args:
        asked: `COLUMN`, or `COLUMN=VALUE`.

    Raises:
        UsageError: there is no such column or value, or nothing is left to train on.
    """
    ts_start = dataset.table.column("ts_start").to_numpy()
    found: dict[str, Any] = {}
    for column, values in _by_column(asked, dataset).items():
        parts = _parts(dataset, column, values)
        able = [part for part in parts if not part.why_not]
        asked_of_all = problem, ts_start, tuple(candidates)
        wanted = [(*asked_of_all, part.train, part.test, jobs.threads) for part in able]
        told: list[_Told] = results(jobs, _told, wanted, CANNOT_BE_TRAINED)
        tested = np.concatenate([part.test for part in able])
        number = numbers_of(group_values(dataset.table, column).gather(tested))
        each = {
            ", ".join(part.values): _scores(dataset, problem, part.test, one, dataset.groups[part.test])
            | {"trained_rows": len(part.train), "unknown": _unknown(dataset, part)}
            for part, one in zip(able, told, strict=True)
        }  # fmt: skip
        each |= {
            ", ".join(part.values): {"rows": len(part.test), "why": part.why_not} for part in parts if part.why_not
        }
        together = _Told(
            np.concatenate([one.outputs for one in told]), 0.0, np.concatenate([one.rule for one in told])
        )  # fmt: skip
        found[column] = {**_scores(dataset, problem, tested, together, number), "values": each}
    return found


def scores_by_value(
    dataset: Dataset, asked: Sequence[str], scores: Callable[[Rows], dict[str, Any]],
    trained_on: Mapping[str, frozenset[str]],
) -> dict[str, Any]:  # fmt: skip
    """Scores of a model for each value of a column, on rows that it has not seen.

    Args:
        scores: of some rows.
        trained_on: values of columns that other rows have that the model was trained on.

    Raises:
        UsageError: there is no such column or value.
    """
    found: dict[str, Any] = {}
    for column, values in _by_column(asked, dataset).items():
        there = group_values(dataset.table, column)
        known = there.drop_nulls().unique().sort().to_list()
        found[column] = {"values": {
            value: scores(np.flatnonzero((there == value).fill_null(value=False).to_numpy()))
            | {"trained_on": value in trained_on.get(column, ())}
            for value in values or known
        }}  # fmt: skip
    return found


def _by_column(asked: Sequence[str], dataset: Dataset) -> dict[str, list[str]]:
    """The columns to be left out, and which values; none: all."""
    found: dict[str, list[str]] = {}
    for text in asked:
        column, _, value = text.partition("=")
        check_groups([column], dataset.table.schema, f"--leave-out: {dataset.file}")
        known = group_values(dataset.table, column).drop_nulls().unique().sort().to_list()
        values = found.setdefault(column, [])
        if "=" not in text:
            values.clear()
        elif value not in known:
            hint = did_you_mean(value, known) or f"; there are {', '.join(known[:_MOST_VALUES])}"
            raise UsageError(
                f'--leave-out {text}: {dataset.file} has no labelled row with the {column} "{value}"{hint}'
            )
        elif value not in values:
            values.append(value)
        if not known:
            raise UsageError(f"--leave-out {column}: {dataset.file} says of no row what its {column} is")
    return found


def _parts(dataset: Dataset, column: str, values: Sequence[str]) -> list[_Part]:
    """The splits, of which one at least can be trained."""
    there = group_values(dataset.table, column)
    known = there.drop_nulls().unique().sort().to_list()
    named = [(value,) for value in values or known]
    if len(named) > _MOST_VALUES and not values:
        named = [tuple(known[first::_POOLED]) for first in range(_POOLED)]
    parts = [_part(dataset, there, one) for one in named]
    wrong = [part for part in parts if part.why_not]
    if wrong and (values or len(wrong) == len(parts)):
        what = f"{column}={wrong[0].values[0]}" if values else column
        raise UsageError(f"--leave-out {what}: {dataset.file}: leaves nothing to train on: {wrong[0].why_not}")
    return parts


def _part(dataset: Dataset, there: pl.Series, values: tuple[str, ...]) -> _Part:
    tested = there.is_in(list(values)).fill_null(value=False).to_numpy()
    train = np.flatnonzero(~np.isin(dataset.groups, dataset.groups[tested]))
    why_not = ""
    if not len(train):
        by = ", ".join(dataset.by)
        why_not = f"all rows are of {there.name} {', '.join(values)}, or share a group with it ({by})"
    elif dataset.labels and len(np.unique(dataset.truth[train])) < 2:
        why_not = f"all other rows have the {dataset.target.name} {dataset.labels[dataset.truth[train[0]]]}"
    return _Part(values, train, np.flatnonzero(tested), why_not)


def _unknown(dataset: Dataset, part: _Part) -> list[str]:
    """Labels of the tested rows that no row has that was trained on."""
    if not dataset.labels:
        return []
    return [dataset.labels[one] for one in np.setdiff1d(dataset.truth[part.test], dataset.truth[part.train])]


def _told(task: tuple[Problem, NDArray[np.float64], tuple[Candidate, ...], Rows, Rows, int]) -> _Told:
    problem, ts_start, candidates, train, test, threads = task
    with threadpool_limits(threads):
        part, classes = problem.take(train), problem.classes
        rule, _ = rule_of(part, problem.x[test])
        candidate, inner = candidates[0], None
        try:
            folds = grouped_folds(part, INNER_FOLDS)
            tried = [cross_outputs(part, [one], folds)[0] for one in candidates]
            best = int(np.argmin([loss_of(part, outputs) for outputs in tried]))
            candidate, inner = candidates[best], tried[best]
        except UsageError:
            pass  # one group: nothing to choose or calibrate by
        outputs = outputs_of(candidate, part, problem.x[test], part.classes)
        if not len(classes):
            return _Told(outputs if inner is None else outputs + conformal(inner, part.y), 0.0, rule)
        if inner is None:
            narrow, least = calibrated(outputs, 1.0), 0.0
        else:
            truth = np.searchsorted(part.classes, part.y)
            made = calibrate(inner, truth, part.sessions, ts_start[train], "logits")
            sequences = Sequences(problem.sessions[test], ts_start[test])
            narrow = sequences.smoothed(calibrated(outputs, made.temperature), made.stay, made.weight)
            least = made.least_confidence
        shares = np.zeros((len(test), len(classes)))
        shares[:, np.searchsorted(classes, part.classes)] = narrow
        return _Told(shares, least, rule)


def _scores(dataset: Dataset, problem: Problem, rows: Rows, told: _Told, clusters: NDArray[np.int64]) -> dict[str, Any]:
    truth = problem.y[rows]
    if len(problem.classes):
        known = Known(problem.classes, dataset.labels, dataset.target.kind == ORDINAL)
        scores = classification_scores(truth, told.outputs, known, clusters, told.least)
    else:
        scores = quantity_scores(truth, told.outputs, clusters)
    return few(scores) | {
        "sessions": len(np.unique(dataset.sessions[rows])), "simple_rule": rule_scores(truth, told.rule, clusters),
    }  # fmt: skip


def few(scores: dict[str, Any]) -> dict[str, Any]:
    """Those that stand beside each other in a table."""
    kept = ("accuracy", "macro_f1", "mean_level_error", "median_absolute_error", "mean_absolute_error")
    return {
        name: value for name, value in scores.items()
        if name in ("rows", "groups", "sessions") or name.removesuffix("_ci95") in kept
    }  # fmt: skip
