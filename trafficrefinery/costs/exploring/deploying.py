"""The configuration and the models that run one representation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trafficrefinery.config import Config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.models.inference import check, load_bundle
from trafficrefinery.models.training import TrainOptions
from trafficrefinery.models.training.estimators import Candidate
from trafficrefinery.models.training.folds import cross_outputs, grouped_folds
from trafficrefinery.models.training.outoffold import problem_of
from trafficrefinery.models.training.pipeline import finish
from trafficrefinery.system.writing import make_directory

from .evaluating import startup_candidate
from .explored_tables import Sources
from .options import ExploreOptions
from .space import Representation
from .variants import collecting, write_config

CONFIG, MODEL, STARTUP = "config.json", "model", "startup"


def deploy(
    one: Representation, classes: tuple[str, ...], sources: Sources, folder: Path, options: ExploreOptions
) -> dict[str, Any]:
    """Write `config.json` and `model`, one more for each further target, and `startup` where labels have delays.

    Returns the metrics of the first.

    Raises:
        OutputError: the folder cannot be written to.
        BundleError: configuration and model do not fit, which is an error of this program.
    """
    make_directory(folder)
    rows = len(sources.datasets[one.source].truth)
    training = TrainOptions(options.target, name="explored", seed=options.seed)
    metrics = _train(one, sources, one.candidate(rows), training, folder / MODEL, options)
    models = [MODEL]
    for name in options.also:
        training = TrainOptions(name, name=f"explored-{name}", seed=options.seed)
        _train(one, sources, one.candidate(rows), training, folder / name, options)
        models.append(name)
    if one.source in sources.startups:
        training = TrainOptions("startup", name="explored-startup", seed=options.seed)
        _train(one, sources, startup_candidate(one), training, folder / STARTUP, options)
        models.append(STARTUP)
    config = write_config(collecting(sources.config, classes, one.source, sources.unit, models), folder / CONFIG)
    _check(config, folder, models)
    return metrics


def _train(
    one: Representation,
    sources: Sources,
    candidate: Candidate,
    training: TrainOptions,
    out: Path,
    options: ExploreOptions,
) -> dict[str, Any]:
    startup = training.target == STARTUP
    known = sources.also.get(str(training.target), sources.startups if startup else sources.datasets)
    dataset = known[one.source]
    columns = one.columns if startup else one.told_all_along
    problem = problem_of(dataset, columns, options.seed)
    outputs, fold = cross_outputs(problem, [candidate], grouped_folds(problem), options.tasks)
    to = out, training._replace(features="explored", groups=options.groups, compare=False)
    return finish(dataset, columns, (problem, outputs, fold), candidate, to).metrics


def _check(config: Config, folder: Path, models: list[str]) -> None:
    plan = Plan.of(config)
    for name in models:
        check(load_bundle(folder / name), plan)
