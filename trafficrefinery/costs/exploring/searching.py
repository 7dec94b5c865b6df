"""Three ways to choose which representations to try: everything or evolution, at random, by mutual information."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .space import SIZES, Representation, Space

Objectives = tuple[float, ...]
"""Accuracy, bytes of state, and the error of the startup delay where there are labels."""
Evaluate = Callable[[Sequence[Representation]], list[Objectives]]
_STUDY = "explore"
_DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE)
_POPULATION = 20


def searched(
    space: Space, trials: int, evaluate: Evaluate, journal: Path, seed: int, objectives: int = 2
) -> list[Representation]:
    """All representations when there are few; else what an evolution towards the Pareto front tries.

    NSGA-II (Deb et al., IEEE Trans. Evol. Comp. 6(2), 2002) begins with whole classes and the most telling columns.
    What was tried is in `journal`, and the next run goes on behind its last complete generation.

    Args:
        objectives: two, or three with the startup delay.
    """
    if space.size <= trials:
        everything = list(space)
        evaluate(everything)
        return everything
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))), study_name=_STUDY,
        directions=_DIRECTIONS[:objectives], load_if_exists=True,
    )  # fmt: skip
    categories: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(values) for name, values in space.categories().items()
    }  # fmt: skip
    there = kept.get_trials()
    done: list[FrozenTrial] = there[: min(len(there) // _POPULATION * _POPULATION, trials)]
    while len(done) < trials:
        asked = _generation(space, categories, done, seed * 100_003 + len(done), objectives)[: trials - len(done)]
        chosen = [space.decode(trial.params) for trial in asked]
        for trial, values in zip(asked, evaluate(chosen), strict=True):
            trial.values, trial.state = list(values), TrialState.COMPLETE
            trial.datetime_complete = trial.datetime_start
            if len(done) >= len(there):
                kept.add_trial(trial)
            done.append(trial)
    return [space.decode(trial.params) for trial in done]


def _generation(
    space: Space, categories: dict[str, BaseDistribution], done: Sequence[FrozenTrial], seed: int, objectives: int
) -> list[FrozenTrial]:
    """What to try next. It depends on what was tried and on the seed, and not on when the search was stopped."""
    sampler = optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=seed)
    study = optuna.create_study(directions=_DIRECTIONS[:objectives], sampler=sampler)
    study.add_trials(done)
    if not done:
        for one in space.seeds(_POPULATION // 2):
            study.enqueue_trial(space.encode(one))
    numbers = [study.ask(categories).number for _ in range(_POPULATION)]
    trials = study.get_trials()
    return [trials[number] for number in numbers]


def at_random(space: Space, trials: int, seed: int) -> list[Representation]:
    """Random search: every parameter is drawn by itself."""
    rng = np.random.default_rng(seed)
    return [space.drawn(rng) for _ in range(trials)]


def by_ranking(space: Space, trials: int) -> list[Representation]:
    """The most telling columns by mutual information: as many as there are trials for, spread evenly."""
    each = max(trials // (len(space.sources) * len(SIZES)), 1)
    counts = np.unique(np.geomspace(1, len(space.columns), each).round().astype(int)).tolist()
    made = [
        space.ranked(source, count, size)
        for count, source, size in itertools.product(counts, space.sources, reversed(SIZES))
    ]
    return list(dict.fromkeys(made))[:trials]
