"""How good a model is on a dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery import __version__
from trafficrefinery.errors import UsageError
from trafficrefinery.models.inference import Bundle, check_table, load_bundle
from trafficrefinery.models.inference.bundle import MANIFEST
from trafficrefinery.models.inference.requirements import other_unit
from trafficrefinery.models.targets import ORDINAL
from trafficrefinery.system.files import read_json
from trafficrefinery.system.tasks import HERE, Tasks
from trafficrefinery.system.writing import make_directory, write_file

from .calibrate import Sequences
from .comparing import split_gap
from .dataset import Dataset, read_dataset
from .estimators import Candidate
from .folds import cross_outputs, grouped_folds
from .outoffold import problem_of, score
from .scores import Known, brief, classification_scores, quantity_scores


def evaluate(folder: Path, data: Path, out: Path, groups: Sequence[str] = (), jobs: Tasks = HERE) -> dict[str, Any]:
    """Scores of a bundle on a dataset, written to `out/metrics.json`.

    Nothing is trained on data that the model has not seen. On the data that it was trained on, it would show what it
    knows by heart: there, the scores are those of models trained in the same way, each on other groups than it is
    asked for.

    Raises:
        BundleError: the bundle cannot be used.
        UsageError: the dataset cannot be used, or lacks a column of the model.
        OutputError: the directory cannot be written to.
    """
    bundle = load_bundle(folder)
    manifest = read_json(folder / MANIFEST)
    service = bundle.services[0] if len(bundle.services) == 1 else None
    dataset = read_dataset(data, bundle.target, groups, service)
    _check_columns(bundle, dataset)
    own = manifest["training"]["sha256"] == dataset.sha256
    if own:
        dataset = read_dataset(data, bundle.target, groups, service, bundle.labels)
    candidate = _candidate(manifest)
    problem = problem_of(dataset, bundle.columns, int(manifest["seed"]))
    if own:
        outputs, fold = cross_outputs(problem, [candidate], grouped_folds(problem), jobs)
        metrics = score(dataset, problem, outputs, fold)
        enough = len(np.unique(dataset.groups)) > 2 and len(problem.classes) > 1
        metrics["split"] = split_gap(dataset, problem, candidate, outputs, jobs) if enough else {}
    else:
        metrics = {"out_of_fold": False, **_scores_of(bundle, dataset, problem.x)}
    metrics |= {
        "target": bundle.target.as_json(), "bundle": bundle.label,
        "data": Path(dataset.file).name, "data_sha256": dataset.sha256,
        "made": datetime.now(UTC).isoformat(timespec="seconds"), "version": __version__,
    }  # fmt: skip
    _write(out, metrics)
    return metrics


def _check_columns(bundle: Bundle, dataset: Dataset) -> None:
    check_table(bundle, dataset.table.schema, dataset.file)
    units = dataset.units()
    for column, unit in zip(bundle.columns, bundle.units, strict=True):
        if units[column] and other_unit(unit, units[column]):  # tables that went through other hands do not tell
            raise UsageError(
                f'{dataset.file}: {column} is in "{units[column]}", {bundle.label} was trained on "{unit}"; '
                "build the dataset again, or train on this one"
            )
    if dataset.interval_s != bundle.interval_s:
        raise UsageError(
            f"{dataset.file}: has intervals of {dataset.interval_s:g}s, {bundle.label} was trained on "
            f"{bundle.interval_s:g}s; build the dataset with that Interval"
        )


def _candidate(manifest: dict[str, Any]) -> Candidate:
    given = manifest["candidate"]
    return Candidate(given["kind"], tuple(given["parameters"].items()), given["spread"])


def _scores_of(bundle: Bundle, dataset: Dataset, x: NDArray[np.float32]) -> dict[str, Any]:
    outputs = bundle.outputs(x)
    if not bundle.labels:
        return quantity_scores(dataset.truth, outputs, dataset.sessions)
    calibration = bundle.calibration
    sequences = Sequences(dataset.sessions, dataset.table.column("ts_start").to_numpy())
    shares = sequences.smoothed(outputs, calibration.stay, calibration.weight)
    labels = bundle.target.ordered({*bundle.labels, *dataset.labels})
    place = {label: number for number, label in enumerate(labels)}
    known = Known(np.array([place[one] for one in bundle.labels]), labels, bundle.target.kind == ORDINAL)
    truth = np.array([place[one] for one in dataset.labels])[dataset.truth]
    scores = classification_scores(truth, shares, known, dataset.sessions, calibration.least_confidence)
    alone = classification_scores(truth, outputs, known, dataset.sessions)
    return {**scores, "without_smoothing": brief(alone)}


def _write(out: Path, metrics: dict[str, Any]) -> None:
    make_directory(out)
    write_file(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
