"""How well a model does on a representation: of videos that it has not seen, as a predictor would tell it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.models.training.dataset import Dataset
from trafficrefinery.models.training.estimators import Candidate, Problem
from trafficrefinery.models.training.folds import cross_outputs, grouped_folds
from trafficrefinery.models.training.outoffold import problem_of, smoothed_by_others
from trafficrefinery.system.tasks import Failure, Tasks

from .explored_tables import Sources
from .memo import Memo
from .space import Representation

_AT_ONCE = 8  # tasks of each process, which hold a table each


class Scores(NamedTuple):
    """Of one representation.

    Args:
        accuracy: share of the intervals whose resolution is told, smoothed over each session.
        accuracy_se: its standard error, by group.
        accuracy_alone: without smoothing.
        startup_error_s: mean absolute error of the startup delay; None without labels.
    """

    accuracy: float
    accuracy_se: float
    accuracy_alone: float
    macro_f1: float
    startup_error_s: float | None
    rows: int
    also: dict[str, tuple[float, float]] = {}  # noqa: RUF012 (of a tuple, and never changed)
    """Accuracy and its standard error for each further target."""


class _Task(NamedTuple):
    problem: Problem
    ts_start: NDArray[np.float64]
    candidate: Candidate
    also: dict[str, tuple[Problem, NDArray[np.float64]]]
    startup: Problem | None
    startup_candidate: Candidate


class Evaluator:
    """Scores of representations; each is computed once."""

    def __init__(self, sources: Sources, memo: Memo, tasks: Tasks, seed: int) -> None:
        self._sources, self._memo, self._side_by_side, self._seed = sources, memo, tasks, seed
        self.tells_delays = set(sources.startups) == set(sources.datasets)
        """Whether every source has labels of startup delays."""

    def __call__(self, wanted: Sequence[Representation], told: Callable[[int], None] = lambda _: None) -> list[Scores]:
        """Scores of some representations, in their order."""
        missing = list({one.key: one for one in wanted if one.key not in self._memo}.values())
        step = _AT_ONCE * self._side_by_side.width
        for begin in range(0, len(missing), step):
            part = missing[begin : begin + step]
            for number, scores in self._side_by_side.run(_scores, list(self._tasks(part))):
                if isinstance(scores, Failure):
                    raise TrafficRefineryError(f"a representation cannot be evaluated: {scores.message}")
                self._memo.add(part[number].key, scores._asdict())
                told(1)
        return [Scores(**self._memo[one.key]) for one in wanted]

    def _tasks(self, wanted: Sequence[Representation]) -> Iterator[_Task]:
        for one in wanted:
            dataset = self._sources.datasets[one.source]
            problem = problem_of(dataset, one.told_all_along, self._seed)
            also = {name: self._asked(its[one.source], one) for name, its in self._sources.also.items()}
            startup = self._sources.startups[one.source] if self.tells_delays else None
            yield _Task(
                problem, dataset.table.column("ts_start").to_numpy(), one.candidate(len(problem.y)), also,
                None if startup is None else problem_of(startup, one.columns, self._seed), startup_candidate(one),
            )  # fmt: skip

    def _asked(self, dataset: Dataset, one: Representation) -> tuple[Problem, NDArray[np.float64]]:
        return problem_of(dataset, one.told_all_along, self._seed), dataset.table.column("ts_start").to_numpy()


def startup_candidate(one: Representation) -> Candidate:
    """The model of the startup delay: as large as that of the resolution."""
    parameters: dict[str, Any] = {
        "n_estimators": one.trees, "max_depth": one.tree_depth, "min_samples_leaf": 3, "max_features": 0.4,
    }  # fmt: skip
    return Candidate("forest", tuple(parameters.items()))


def _scores(task: _Task) -> Scores:
    problem = task.problem
    told, alone = _told(problem, task.ts_start, task.candidate)
    right = told == problem.y
    also = {}
    for name, (other, ts_start) in task.also.items():
        its = _told(other, ts_start, task.candidate)[0] == other.y
        also[name] = float(its.mean()), _standard_error(its, other.groups)
    startup_error_s = None
    if task.startup is not None:
        delays, _ = cross_outputs(task.startup, [task.startup_candidate], grouped_folds(task.startup))
        startup_error_s = float(np.abs(delays[:, 1] - task.startup.y).mean())
    return Scores(
        float(right.mean()), _standard_error(right, problem.groups),
        float((alone == problem.y).mean()),
        float(f1_score(problem.y, told, average="macro", zero_division=0)), startup_error_s, len(problem.y),
        also,
    )  # fmt: skip


def _told(
    problem: Problem, ts_start: NDArray[np.float64], candidate: Candidate
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels predicted out of fold: smoothed over each session, and for each interval alone."""
    outputs, fold = cross_outputs(problem, [candidate], grouped_folds(problem))
    shares, alone, _ = smoothed_by_others(problem, ts_start, outputs, fold)
    return problem.classes[shares.argmax(axis=1)], problem.classes[alone.argmax(axis=1)]


def _standard_error(right: NDArray[np.bool_], groups: NDArray[np.int64]) -> float:
    """Standard error of a share of rows in groups (ratio estimator, Cochran, Sampling Techniques, section 6.4)."""
    number = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(number)
    away = np.bincount(number, right.astype(float)) - right.mean() * sizes
    count = len(sizes)
    return float(np.sqrt((away**2).sum() * count / max(count - 1, 1)) / len(right))
