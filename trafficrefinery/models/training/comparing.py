"""What else could be trained on a dataset: other features and kinds of models, services apart, a random split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.errors import UsageError
from trafficrefinery.models.targets import ORDINAL
from trafficrefinery.system.progress import Progress

from .calibrate import calibrated
from .dataset import FEATURE_SETS, Dataset, feature_set
from .estimators import BOOSTED, FORESTS, REGRESSIONS, Candidate, Problem
from .folds import cross_outputs, grouped_folds, random_folds
from .outoffold import problem_of, score
from .scores import Known, brief, classification_scores


def compare(
    dataset: Dataset, candidate: Candidate, place: tuple[str, tuple[str, ...], int], seed: int, progress: Progress
) -> dict[str, Any]:
    """Other feature sets and kinds of models on the same folds, services apart, and a random split of rows.

    Args:
        place: feature set and classes collected of the candidate, see `feature_set`, and the number of processes.
    """
    features, collect, jobs = place
    found: dict[str, Any] = {"feature_sets": {}}
    target = dataset.target
    kinds: Sequence[Candidate] = (FORESTS[0], BOOSTED[0]) if target.has_labels else REGRESSIONS[::2]
    kinds = [kind.of(target) for kind in kinds]
    for name in FEATURE_SETS:
        try:
            columns = feature_set(dataset, name, collect)
        except UsageError:
            continue  # not collected
        progress(f"feature set {name}")
        problem = problem_of(dataset, columns, seed)
        folds = grouped_folds(problem)
        found["feature_sets"][name] = {
            kind.kind: brief(score(dataset, problem, *cross_outputs(problem, [kind], folds, jobs))) for kind in kinds
        } | {"columns": len(columns)}
    columns = feature_set(dataset, features, collect)
    problem = problem_of(dataset, columns, seed)
    progress("grouped split")
    grouped = cross_outputs(problem, [candidate], grouped_folds(problem), jobs)
    progress("random split")
    found["split"] = split_gap(dataset, problem, candidate, grouped[0], jobs)
    progress("services")
    found["services"] = _services(dataset, problem, candidate, grouped, jobs)
    return found


def split_gap(
    dataset: Dataset, problem: Problem, candidate: Candidate, grouped: NDArray[np.float64], jobs: int
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
    grouped: tuple[NDArray[np.float64], NDArray[np.int64]], jobs: int,
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
        except (UsageError, ValueError):
            entry["own"] = None  # too few groups, or one class
        found[service] = entry
    return found
