"""From a dataset to a model bundle with figures of data that it was not trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.errors import UsageError
from trafficrefinery.inference.bundle import Calibration, classes_behind
from trafficrefinery.inference.forest import Forest
from trafficrefinery.sessions import SessionRegistry
from trafficrefinery.training.calibrate import Sequences, calibrate, calibrated
from trafficrefinery.training.card import model_card
from trafficrefinery.training.data import FEATURE_SETS, Dataset, feature_set, read_dataset
from trafficrefinery.training.estimators import (
    BOOSTED,
    FORESTS,
    REGRESSIONS,
    Candidate,
    Fitted,
    Problem,
    fit_resolution,
    fit_startup,
)
from trafficrefinery.training.folds import choose, cross_outputs, grouped_folds, random_folds
from trafficrefinery.training.scores import classification_scores, regression_scores
from trafficrefinery.training.writing import refuse_other, write_bundle

MODELS = {"forest": FORESTS, "boosted": BOOSTED, "best": FORESTS + BOOSTED}
"""What `--model` of `trafficrefinery train` chooses from."""
Told = Callable[[str], None]
_SIZED = re.compile(r"(segment|pending|last10|all)_bytes|kbps|^network\.(bytes|packets)_")
"""Columns that grow with the bitrate of a video."""


class Options(NamedTuple):
    """How to train, see `trafficrefinery train --help`.

    Args:
        collect: see `feature_set`.
        resolutions: see `read_dataset`.
        compare: tell the figures of all feature sets, services and kinds of models as well.
    """

    target: str = "resolution"
    features: str = "net+app"
    group: str = "video_id"
    model: str = "forest"
    service: str | None = None
    collect: tuple[str, ...] = ()
    resolutions: tuple[int, ...] = ()
    name: str = ""
    seed: int = 1
    jobs: int = 1
    compare: bool = True


class Trained(NamedTuple):
    """What was trained; `metrics` are those of `metrics.json`."""

    bundle: Path
    metrics: dict[str, Any]


def train(path: Path, out: Path, options: Options = Options(), told: Told = lambda _: None) -> Trained:  # noqa: B008
    """Train a model and write it as a bundle, with the figures of grouped cross-validation.

    Raises:
        UsageError: the dataset or an option cannot be used.
        OutputError: the bundle cannot be written.
    """
    refuse_other(out)
    dataset = read_dataset(path, options.target, options.group, options.service, options.resolutions)
    columns = feature_set(dataset, options.features, options.collect)
    candidates = MODELS[options.model] if options.target == "resolution" else REGRESSIONS
    problem = problem_of(dataset, columns, options.seed)
    told("cross-validation")
    outputs, fold = cross_outputs(problem, candidates, grouped_folds(problem), options.jobs)
    told("fitting")
    chosen = choose(problem, candidates, options.jobs)
    return finish(dataset, columns, (problem, outputs, fold), chosen, (out, options), told)


def finish(
    dataset: Dataset, columns: tuple[str, ...],
    cross: tuple[Problem, NDArray[np.float64], NDArray[np.int64]], chosen: Candidate, to: tuple[Path, Options],
    told: Told = lambda _: None,
) -> Trained:  # fmt: skip
    """Fit a candidate on all rows and write the bundle.

    Args:
        cross: the problem, out-of-fold outputs, and the fold of each row; see `cross_outputs`.
    """
    (problem, outputs, fold), (out, options) = cross, to
    metrics = score(dataset, problem, outputs, fold)
    fitted, calibration = _final(dataset, problem, chosen, outputs)
    metrics |= {"model": str(chosen), "features": options.features, "columns": len(columns), "group": options.group}
    if options.compare:
        metrics |= compare(dataset, options, chosen, told)
    bundle = _write(out, options, dataset, columns, (fitted, calibration, chosen), metrics, problem.x)
    return Trained(bundle, metrics)


def problem_of(dataset: Dataset, columns: tuple[str, ...], seed: int) -> Problem:
    """What is to be learnt from a dataset."""
    sized = np.array([bool(_SIZED.search(name)) for name in columns])
    return Problem(dataset.matrix(columns), dataset.target, sized, dataset.groups, dataset.sessions, seed)


def score(dataset: Dataset, problem: Problem, outputs: NDArray[np.float64], fold: NDArray[np.int64]) -> dict[str, Any]:
    """Scores of out-of-fold outputs, as a predictor tells them: each fold calibrated and smoothed by the others."""
    if dataset.target.dtype.kind == "f":
        return regression_scores(dataset.target, _conformal_of_others(dataset, outputs, fold))
    classes = problem.classes
    shares, alone, least = smoothed_by_others(problem, dataset.table.column("ts_start").to_numpy(), outputs, fold)
    scores = classification_scores(dataset.target, shares, classes.tolist(), dataset.sessions, least)
    single = classification_scores(dataset.target, alone, classes.tolist(), dataset.sessions)
    brief = ("accuracy", "macro_f1", "mean_level_error", "ece")
    return {"out_of_fold": True, **scores, "without_smoothing": {name: single[name] for name in brief}}


def smoothed_by_others(
    problem: Problem, ts_start: NDArray[np.float64], outputs: NDArray[np.float64], fold: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Probabilities as a predictor tells them, those of each interval alone, and the least confidence.

    Each fold is calibrated and smoothed by what is best for the others.
    """
    truth = np.searchsorted(problem.classes, problem.y)
    shares, alone = np.zeros_like(outputs), np.zeros_like(outputs)
    least = 0.0
    for one in np.unique(fold):
        test, others = np.flatnonzero(fold == one), np.flatnonzero(fold != one)
        made = calibrate(outputs[others], truth[others], problem.sessions[others], ts_start[others], "logits")
        alone[test] = calibrated(outputs[test], made.temperature)
        sequences = Sequences(problem.sessions[test], ts_start[test])
        shares[test] = sequences.smoothed(alone[test], made.stay, made.weight)
        least = made.least_confidence
    return shares, alone, least


def _conformal_of_others(
    dataset: Dataset, outputs: NDArray[np.float64], fold: NDArray[np.int64]
) -> NDArray[np.float64]:
    made = outputs.copy()
    for one in np.unique(fold):
        others = fold != one
        made[fold == one] += conformal(outputs[others], dataset.target[others])
    return made


def conformal(outputs: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """What to add to quantiles so that they hold (conformalised quantile regression, Romano et al., NeurIPS 2019)."""
    away = truth[:, None] - outputs
    return np.array([np.quantile(away[:, 0], 0.1), 0.0, np.quantile(away[:, 2], 0.9)])


def _final(
    dataset: Dataset, problem: Problem, candidate: Candidate, outputs: NDArray[np.float64]
) -> tuple[Fitted, Calibration]:
    """The model of all rows, calibrated on outputs that no row had a part in itself."""
    if not len(problem.classes):
        fitted = fit_startup(candidate, problem)
        start = fitted.forest.start + conformal(outputs, dataset.target)
        return fitted._replace(forest=fitted.forest._replace(start=start)), Calibration("identity")
    fitted = fit_resolution(candidate, problem)
    truth = np.searchsorted(problem.classes, dataset.target)
    ts_start = dataset.table.column("ts_start").to_numpy()
    return fitted, calibrate(outputs, truth, dataset.sessions, ts_start, candidate.link)


def compare(dataset: Dataset, options: Options, candidate: Candidate, told: Told) -> dict[str, Any]:
    """Other feature sets and kinds of models on the same folds, services apart, and a random split of rows."""
    found: dict[str, Any] = {"feature_sets": {}}
    kinds: Sequence[Candidate] = (FORESTS[0], BOOSTED[0]) if options.target == "resolution" else REGRESSIONS[::2]
    for name in FEATURE_SETS:
        try:
            columns = feature_set(dataset, name, options.collect)
        except UsageError:
            continue  # not collected
        told(f"feature set {name}")
        problem = problem_of(dataset, columns, options.seed)
        folds = grouped_folds(problem)
        found["feature_sets"][name] = {
            kind.kind: _brief(score(dataset, problem, *cross_outputs(problem, [kind], folds, options.jobs)))
            for kind in kinds
        } | {"columns": len(columns)}
    columns = feature_set(dataset, options.features, options.collect)
    problem = problem_of(dataset, columns, options.seed)
    told("grouped split")
    grouped = cross_outputs(problem, [candidate], grouped_folds(problem), options.jobs)
    told("random split")
    found["split"] = split_gap(problem, candidate, grouped[0], options.jobs)
    told("services")
    found["services"] = _services(dataset, problem, candidate, grouped, options.jobs)
    return found


def split_gap(problem: Problem, candidate: Candidate, grouped: NDArray[np.float64], jobs: int) -> dict[str, Any]:
    """How far a random split of rows misleads: accuracy and macro-F1 of both, of intervals alone.

    Args:
        grouped: out-of-fold outputs of the candidate by groups.
    """
    if not len(problem.classes):
        return {}
    random, _ = cross_outputs(problem, [candidate], random_folds(problem), jobs)
    classes = problem.classes.tolist()
    return {
        name: _brief(classification_scores(problem.y, calibrated(outputs, 1.0), classes, problem.sessions))
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
            entry["own"] = _brief(score(part, own, *cross_outputs(own, [candidate], grouped_folds(own), jobs)))
            if len(own.classes) == len(problem.classes) or not len(problem.classes):
                entry["composite"] = _brief(score(part, own, outputs[rows], fold[rows]))
        except (UsageError, ValueError):
            entry["own"] = None  # too few videos, or one class
        found[service] = entry
    return found


def _brief(scores: dict[str, Any]) -> dict[str, float]:
    names = ("accuracy", "macro_f1", "mean_level_error", "ece", "median_absolute_error_s", "mean_absolute_error_s")
    return {name: scores[name] for name in names if name in scores}


def _write(  # noqa: PLR0913, PLR0917 (all that a bundle says of itself)
    out: Path, options: Options, dataset: Dataset, columns: tuple[str, ...],
    model: tuple[Fitted, Calibration, Candidate], metrics: dict[str, Any], x: NDArray[np.float32],
) -> Path:  # fmt: skip
    fitted, calibration, candidate = model
    units = dataset.units()
    forest: Forest = fitted.forest
    services = sorted(set(dataset.table.column("service").to_pylist()))
    name = options.name or out.name
    schema = {
        "interval_s": dataset.interval_s, "resolutions": fitted.classes.tolist(),
        "needs": classes_behind(columns, SessionRegistry()),
        "services": [options.service] if options.service else [],
        "columns": [{"name": column, "unit": units[column]} for column in columns],
        "first_packets": dataset.first_packets,
    }  # fmt: skip
    manifest = {
        "name": name, "target": options.target, "features": options.features,
        "candidate": {"kind": candidate.kind, "parameters": dict(candidate.parameters), "spread": candidate.spread},
        "seed": options.seed,
        "training": {
            "data": Path(dataset.file).name, "sha256": dataset.sha256, "rows": len(dataset.target),
            "sessions": len(np.unique(dataset.sessions)), "group": options.group,
            "groups": len(np.unique(dataset.groups)), "services": services,
        },
        "nodes": len(forest.feature),
    }  # fmt: skip
    texts = {
        "metrics.json": json.dumps(metrics, indent=1) + "\n",
        "card.md": model_card(manifest, schema, metrics),
    }
    return write_bundle(out, forest, calibration, schema, manifest, x, texts)
