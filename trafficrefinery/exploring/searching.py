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
from optuna.trial import FrozenTrial, TrialState

from trafficrefinery.exploring.space import SIZES, Representation, Space

Objectives = tuple[float, float]
"""Accuracy, and bytes of state."""
Evaluate = Callable[[Sequence[Representation]], list[Objectives]]
_STUDY = "explore"
_DIRECTIONS = ("maximize", "minimize")
_POPULATION = 20


def searched(space: Space, trials: int, evaluate: Evaluate, journal: Path, seed: int) -> list[Representation]:
    """All representations when there are few; else what an evolution towards the Pareto front tries.

    NSGA-II (Deb et al., IEEE Trans. Evol. Comp. 6(2), 2002) begins with whole classes and the most telling columns.
    Generations that are complete are in `journal`, and the next run goes on behind them.
    """
    if len(space) <= trials:
        everything = list(space)
        evaluate(everything)
        return everything
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))), study_name=_STUDY, directions=_DIRECTIONS,
        load_if_exists=True,
    )  # fmt: skip
    categories: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(values) for name, values in space.categories().items()
    }  # fmt: skip
    population = min(_POPULATION, max(trials // 4, 2))
    there = kept.get_trials()
    done: list[FrozenTrial] = there[: min(len(there) // population * population, trials)]
    while len(done) < trials:
        asked = _generation(space, categories, done, min(population, trials - len(done)), (population, seed))
        chosen = [space.decode(trial.params) for trial in asked]
        for trial, values in zip(asked, evaluate(chosen), strict=True):
            trial.values, trial.state = list(values), TrialState.COMPLETE
            trial.datetime_complete = trial.datetime_start
            if len(done) >= len(there):
                kept.add_trial(trial)
            done.append(trial)
    return [space.decode(trial.params) for trial in done]


def _generation(
    space: Space, categories: dict[str, BaseDistribution], done: Sequence[FrozenTrial], count: int,
    drawn: tuple[int, int],
) -> list[FrozenTrial]:  # fmt: skip
    """What to try next. It depends on what was tried and on the seed, and not on when the search was stopped."""
    population, seed = drawn
    sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed * 100_003 + len(done))
    study = optuna.create_study(directions=_DIRECTIONS, sampler=sampler)
    study.add_trials(done)
    if not done:
        for one in space.seeds(max(count // 2, 1)):
            study.enqueue_trial(space.encode(one))
    numbers = [study.ask(categories).number for _ in range(count)]
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
