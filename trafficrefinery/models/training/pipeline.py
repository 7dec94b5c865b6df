"""From a dataset to a model bundle with figures of data that it was not trained on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.models.inference.bundle import Calibration
from trafficrefinery.models.inference.forest import Forest
from trafficrefinery.models.inference.requirements import classes_behind, code_behind
from trafficrefinery.models.sessions.provenance import needs_as_json
from trafficrefinery.models.targets import RESOLUTION, Target
from trafficrefinery.system.progress import Progress, silent
from trafficrefinery.system.tasks import HERE, Tasks

from .bundling import refuse_other, write_bundle
from .calibrate import calibrate
from .card import model_card
from .comparing import compare, compared_kinds, compared_sets
from .dataset import Dataset, default_features, feature_set, read_dataset
from .estimators import BOOSTED, FORESTS, REGRESSIONS, Candidate, Fitted, Problem, fit_classes, fit_quantity
from .folds import FOLDS, MOST_CHOSEN_ON, choose, cross_outputs, grouped_folds, splits_of, work_of
from .leaving_out import check_left_out, left_out
from .outoffold import conformal, problem_of, score
from .simple_rule import simple_rule
from .trained_on import hashes_of

MODELS = {"forest": FORESTS, "boosted": BOOSTED, "best": FORESTS + BOOSTED}
"""What `--model` of `trafficrefinery train` chooses from."""


class TrainOptions(NamedTuple):
    """How to train, see `trafficrefinery train --help`.

    Args:
        collect: see `feature_set`.
        target: its name, or a user's definition; see `read_dataset`.
        features: see `feature_set`; empty: see `default_features`.
        groups: see `read_dataset`.
        only: see `read_dataset`.
        candidates: hyper-parameters to choose from, see `grid_of`; empty: those of `model`.
        jobs: where models are trained.
        compare: tell the figures of all feature sets, services and kinds of models as well.
        leave_out: see `left_out`; it adds figures, and does not change the model.
        about: a sentence for the card.
    """

    target: str | Target = RESOLUTION.name
    features: str = ""
    groups: tuple[str, ...] = ()
    model: str = "forest"
    service: str | None = None
    collect: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    name: str = ""
    seed: int = 1
    jobs: Tasks = HERE
    compare: bool = True
    candidates: tuple[Candidate, ...] = ()
    leave_out: tuple[str, ...] = ()
    about: str = ""


class Trained(NamedTuple):
    """What was trained; `metrics` are those of `metrics.json`."""

    bundle: Path
    metrics: dict[str, Any]


def train(path: Path, out: Path, options: TrainOptions = TrainOptions(), progress: Progress = silent) -> Trained:  # noqa: B008
    """Train a model and write it as a bundle, with the figures of grouped cross-validation.

    Raises:
        UsageError: the dataset or an option cannot be used.
        OutputError: the bundle cannot be written.
    """
    refuse_other(out)
    dataset = read_dataset(path, options.target, options.groups, options.service, options.only)
    options = options._replace(features=options.features or default_features(dataset.target))
    columns = feature_set(dataset, options.features, options.collect)
    candidates = _candidates(options, dataset.target)
    problem = problem_of(dataset, columns, options.seed)
    check_left_out(options.leave_out, dataset)
    options = options._replace(jobs=_Counting(options.jobs, progress, _work(dataset, columns, candidates, options)))
    outputs, fold = cross_outputs(problem, candidates, grouped_folds(problem), options.jobs)
    chosen = choose(problem, candidates, options.jobs)
    return finish(dataset, columns, (problem, outputs, fold), chosen, (out, options))


class _Counting:
    """Tasks that tell how much of all training is done."""

    def __init__(self, jobs: Tasks, progress: Progress, total: float) -> None:
        self.width, self.threads = jobs.width, jobs.threads
        self._jobs, self._progress, self._total = jobs, progress, total
        self._done = 0.0
        progress("training", 0, 100)

    def run(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for number, outcome in self._jobs.run(function, arguments):
            self._done += getattr(arguments[number], "work", 0.0)
            self._progress("training", min(round(100 * self._done / self._total), 99), 100)
            yield number, outcome


def _work(dataset: Dataset, columns: tuple[str, ...], candidates: Sequence[Candidate], options: TrainOptions) -> float:
    """All that is to be trained, see `work_of`: the model, and what it is compared with."""
    rows, part = len(dataset.truth), (FOLDS - 1) / FOLDS
    compared = min(rows, MOST_CHOSEN_ON)
    total = FOLDS * work_of(round(rows * part), len(columns), candidates)
    total += work_of(compared, len(columns), candidates) - work_of(compared, len(columns), candidates[:1])
    if options.compare:
        sets = compared_sets(dataset, options.collect).values()
        each = [compared * part * FOLDS * len(one) for one in sets for _ in compared_kinds(dataset)]
        total += sum(each) + 3 * compared * part * FOLDS * len(columns)
    return total


def _candidates(options: TrainOptions, target: Target) -> list[Candidate]:
    tried = options.candidates or (MODELS[options.model] if target.has_labels else REGRESSIONS)
    return list(dict.fromkeys(candidate.of(target) for candidate in tried))


def finish(
    dataset: Dataset, columns: tuple[str, ...],
    cross: tuple[Problem, NDArray[np.float64], NDArray[np.int64]], chosen: Candidate, to: tuple[Path, TrainOptions],
) -> Trained:  # fmt: skip
    """Fit a candidate on all rows and write the bundle.

    Args:
        cross: the problem, out-of-fold outputs, and the fold of each row; see `cross_outputs`.
    """
    (problem, outputs, fold), (out, options) = cross, to
    metrics = score(dataset, problem, outputs, fold)
    metrics["simple_rule"] = simple_rule(problem, splits_of(fold), columns)
    metrics["warnings"] = list(dataset.warnings)
    began_s = time.perf_counter()
    fitted, calibration = _final(dataset, problem, chosen, outputs, options.jobs.threads)
    metrics["training_s"] = round(time.perf_counter() - began_s, 2)
    metrics |= {
        "model": str(chosen),
        "features": options.features,
        "columns": len(columns),
        "target": dataset.target.as_json(),
    }
    if options.leave_out:
        asked = options.leave_out, options.jobs
        metrics["left_out"] = left_out(dataset, problem, _candidates(options, dataset.target), *asked)
    if options.compare:
        place = options.features, options.collect, options.jobs
        metrics |= compare(dataset, chosen, place, options.seed)
    bundle = _write(out, options, dataset, columns, (fitted, calibration, chosen), metrics, problem.x)
    return Trained(bundle, metrics)


def _final(
    dataset: Dataset, problem: Problem, candidate: Candidate, outputs: NDArray[np.float64], threads: int
) -> tuple[Fitted, Calibration]:
    """The model of all rows, calibrated on outputs that no row had a part in itself."""
    if not len(problem.classes):
        fitted = fit_quantity(candidate, problem, threads)
        start = fitted.forest.start + conformal(outputs, dataset.truth)
        return fitted._replace(forest=fitted.forest._replace(start=start)), Calibration("identity")
    fitted = fit_classes(candidate, problem, threads)
    truth = np.searchsorted(problem.classes, dataset.truth)
    ts_start = dataset.table.column("ts_start").to_numpy()
    return fitted, calibrate(outputs, truth, dataset.sessions, ts_start, candidate.link)


def _write(  # noqa: PLR0913, PLR0917 (all that a bundle says of itself)
    out: Path, options: TrainOptions, dataset: Dataset, columns: tuple[str, ...],
    model: tuple[Fitted, Calibration, Candidate], metrics: dict[str, Any], x: NDArray[np.float32],
) -> Path:  # fmt: skip
    fitted, calibration, candidate = model
    units, made_by = dataset.units(), dataset.made_by()
    forest: Forest = fitted.forest
    needs = tuple(dict.fromkeys((*classes_behind(columns, made_by), *dataset.target.base)))
    services = sorted(set(dataset.table.column("service").to_pylist()))
    name = options.name or out.name
    schema = {
        "interval_s": dataset.interval_s, "labels": [dataset.labels[one] for one in fitted.classes.tolist()],
        "needs": needs_as_json(needs, code_behind(columns, made_by)),
        "services": [options.service] if options.service else [],
        "columns": [
            {"name": column, "unit": units[column], "feature": made_by[column].feature if column in made_by else ""}
            for column in columns
        ],
        "first_packets": dataset.first_packets, "opened_by": dataset.opened_by,
    }  # fmt: skip
    manifest = {
        "name": name, "target": dataset.target.as_json(), "features": options.features,
        "candidate": {"kind": candidate.kind, "parameters": dict(candidate.parameters), "spread": candidate.spread},
        "seed": options.seed,
        "training": {
            "data": Path(dataset.file).name, "sha256": dataset.sha256, "rows": len(dataset.truth),
            "sessions": len(np.unique(dataset.sessions)), "group": ", ".join(dataset.by),
            "groups": len(np.unique(dataset.groups)), "services": services,
        },
        "nodes": len(forest.feature),
    }  # fmt: skip
    texts = {
        "metrics.json": json.dumps(metrics, indent=1) + "\n",
        "card.md": model_card(manifest, schema, metrics, options.about),
    }
    return write_bundle(out, forest, calibration, schema, manifest, x, texts, hashes_of(dataset, x))
