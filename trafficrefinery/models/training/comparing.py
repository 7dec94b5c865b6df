"""What else could be trained on a dataset: other features and kinds of models, services apart, a random split."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.errors import ElsewhereError, TrafficRefineryError, UsageError
from trafficrefinery.models.targets import ORDINAL
from trafficrefinery.system.tasks import Tasks

from .calibrate import calibrated
from .dataset import FEATURE_SETS, Dataset, feature_set
from .estimators import BOOSTED, FORESTS, REGRESSIONS, Candidate, Problem
from .folds import MOST_CHOSEN_ON, cross_outputs, grouped_folds, random_folds, some_sessions
from .outoffold import problem_of, score
from .scores import Known, brief, classification_scores


def compare(
    dataset: Dataset, candidate: Candidate, place: tuple[str, tuple[str, ...], Tasks], seed: int
) -> dict[str, Any]:
    """Other feature sets and kinds of models on the same folds, services apart, and a random split of rows.

    Of a large dataset, on some sessions, the same for all.

    Args:
        place: feature set and classes collected of the candidate, see `feature_set`, and where it is computed.
    """
    features, collect, jobs = place
    sets, columns = compared_sets(dataset, collect), feature_set(dataset, features, collect)
    dataset = dataset.take(some_sessions(problem_of(dataset, columns[:1], seed), MOST_CHOSEN_ON))
    found: dict[str, Any] = {"compared_rows": len(dataset.truth), "feature_sets": {}}
    kinds = compared_kinds(dataset)
    for name, its_columns in sets.items():
        problem = problem_of(dataset, its_columns, seed)
        folds = grouped_folds(problem)
        found["feature_sets"][name] = {
            kind.kind: brief(score(dataset, problem, *cross_outputs(problem, [kind], folds, jobs))) for kind in kinds
        } | {"columns": len(its_columns)}
    problem = problem_of(dataset, columns, seed)
    grouped = cross_outputs(problem, [candidate], grouped_folds(problem), jobs)
    found["split"] = split_gap(dataset, problem, candidate, grouped[0], jobs)
    found["services"] = _services(dataset, problem, candidate, grouped, jobs)
    return found


def compared_sets(dataset: Dataset, collect: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The feature sets that there are, and their columns."""
    found = {}
    for name in FEATURE_SETS:
        with contextlib.suppress(UsageError):  # not collected
            found[name] = feature_set(dataset, name, collect)
    return found


def compared_kinds(dataset: Dataset) -> list[Candidate]:
    """A model of each kind."""
    kinds: Sequence[Candidate] = (FORESTS[0], BOOSTED[0]) if dataset.target.has_labels else REGRESSIONS[::2]
    return [kind.of(dataset.target) for kind in kinds]


def split_gap(
    dataset: Dataset, problem: Problem, candidate: Candidate, grouped: NDArray[np.float64], jobs: Tasks
) -> dict[str, Any]:
    """How far a random split of rows misleads: accuracy and macro-F1 of both, of intervals alone.

    Args:
        grouped: out-of-fold outputs of the candidate by groups.
    """
    if not len(problem.classes):
        return {}
    random, _ = cross_outputs(problem, [candidate], random_folds(problem), jobs)
    known = Known(problem.classes, dataset.labels, dataset.target.kind == ORDINAL)
    return {
        name: brief(classification_scores(problem.y, calibrated(outputs, 1.0), known, problem.groups))
        for name, outputs in (("grouped", grouped), ("random_rows", random))
    }


def _services(
    dataset: Dataset, problem: Problem, candidate: Candidate,
    grouped: tuple[NDArray[np.float64], NDArray[np.int64]], jobs: Tasks,
) -> dict[str, Any]:  # fmt: skip
    """Of each service: the composite model, and one of its own, on the same rows."""
    names = np.array(dataset.table.column("service").to_pylist())
    services = np.unique(names)
    if len(services) < 2:
        return {}
    outputs, fold = grouped
    found: dict[str, Any] = {}
    for service in services.tolist():
        rows = np.flatnonzero(names == service)
        part, own = dataset.take(rows), problem.take(rows)
        entry: dict[str, Any] = {"rows": len(rows)}
        try:
            entry["own"] = brief(score(part, own, *cross_outputs(own, [candidate], grouped_folds(own), jobs)))
            if len(own.classes) == len(problem.classes) or not len(problem.classes):
                entry["composite"] = brief(score(part, own, outputs[rows], fold[rows]))
        except (TrafficRefineryError, ElsewhereError, ValueError):
            entry["own"] = None  # too few groups, or one class
        found[service] = entry
    return found
