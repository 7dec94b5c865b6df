"""How good a model is on a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

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
from .folds import cross_outputs, grouped_folds, splits_of
from .leaving_out import check_left_out, few, left_out, scores_by_value
from .outoffold import problem_of, score, sizes
from .scores import Known, brief, classification_scores, quantity_scores
from .simple_rule import simple_rule
from .trained_on import seen_before


def evaluate(
    folder: Path, data: Path, out: Path, groups: Sequence[str] = (), jobs: Tasks = HERE, leave_out: Sequence[str] = ()
) -> dict[str, Any]:
    """Scores of a bundle on a dataset, written to `out/metrics.json`.

    Nothing is trained on data that the model has not seen. On what it was trained on, a model would show what it knows
    by heart: rows of groups and units that it has seen, and copies of them, are set apart. If nothing else is left, the
    scores are those of models trained in the same way, each on other groups than it is asked for.

    Args:
        leave_out: see `left_out`; of a model that has seen none of the data, its own scores for each value.

    Raises:
        BundleError: the bundle cannot be used.
        UsageError: the dataset cannot be used, or lacks a column of the model, or there is nothing in it by which the
            model could be judged.
        OutputError: the directory cannot be written to.
    """
    bundle = load_bundle(folder)
    manifest = read_json(folder / MANIFEST)
    service = bundle.services[0] if len(bundle.services) == 1 else None
    dataset = read_dataset(data, bundle.target, groups, service)
    _check_columns(bundle, dataset)
    by = dict.fromkeys((*manifest["training"]["group"].split(", "), *dataset.by))
    seen = seen_before(folder, dataset, dataset.matrix(bundle.columns), list(by))
    if manifest["training"]["sha256"] == dataset.sha256 or (seen is not None and seen.rows.all()):
        known = [label for label in bundle.labels if label in dataset.labels]
        unknown = [
            f"{label}: the model does not know it, its rows are left out"
            for label in dataset.labels if label not in known
        ]  # fmt: skip
        metrics = _like_it(read_dataset(data, bundle.target, groups, service, known), bundle, manifest, leave_out, jobs)
    else:
        unknown = []  # which count as errors
        new = dataset if seen is None else dataset.take(np.flatnonzero(~seen.rows))
        metrics = _of_itself(bundle, new, leave_out, {} if seen is None else seen.values)
    metrics |= {
        "set_apart": seen and seen.report(dataset), "warnings": [*dataset.warnings, *unknown],
        "target": bundle.target.as_json(), "bundle": bundle.label,
        "data": Path(dataset.file).name, "data_sha256": dataset.sha256,
        "made": datetime.now(UTC).isoformat(timespec="seconds"), "version": __version__,
    }  # fmt: skip
    _write(out, metrics)
    return metrics


def _like_it(
    dataset: Dataset, bundle: Bundle, manifest: dict[str, Any], leave_out: Sequence[str], jobs: Tasks
) -> dict[str, Any]:
    """Scores of models trained in the same way, on data of which a model has seen everything."""
    if len(np.unique(dataset.groups)) < 2:
        raise UsageError(
            f"{dataset.file}: {bundle.label} was trained on all of it, and all of it is one group "
            f"({', '.join(dataset.by)}), so that it says nothing of the model; give data of other groups"
        )
    candidate = _candidate(manifest)
    problem = problem_of(dataset, bundle.columns, int(manifest["seed"]))
    check_left_out(leave_out, dataset)
    outputs, fold = cross_outputs(problem, [candidate], grouped_folds(problem), jobs)
    metrics = score(dataset, problem, outputs, fold)
    metrics["simple_rule"] = simple_rule(problem, splits_of(fold), bundle.columns)
    metrics["split"] = split_gap(dataset, problem, candidate, outputs, jobs)
    if leave_out:
        metrics["left_out"] = left_out(dataset, problem, [candidate], leave_out, jobs)
    return metrics


def _of_itself(
    bundle: Bundle, dataset: Dataset, leave_out: Sequence[str], trained_on: Mapping[str, frozenset[str]]
) -> dict[str, Any]:
    """Scores of a model on data that it has not seen."""
    metrics = {"out_of_fold": False, **_scores_of(bundle, dataset)}
    if leave_out:
        metrics["left_out"] = scores_by_value(
            dataset, leave_out, lambda rows: few(_scores_of(bundle, dataset.take(rows))), trained_on
        )
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


def _scores_of(bundle: Bundle, dataset: Dataset) -> dict[str, Any]:
    outputs = bundle.outputs(dataset.matrix(bundle.columns))
    if not bundle.labels:
        return quantity_scores(dataset.truth, outputs, dataset.groups) | sizes(dataset)
    calibration = bundle.calibration
    sequences = Sequences(dataset.sessions, dataset.table.column("ts_start").to_numpy())
    shares = sequences.smoothed(outputs, calibration.stay, calibration.weight)
    labels = bundle.target.ordered({*bundle.labels, *dataset.labels})
    place = {label: number for number, label in enumerate(labels)}
    known = Known(np.array([place[one] for one in bundle.labels]), labels, bundle.target.kind == ORDINAL)
    truth = np.array([place[one] for one in dataset.labels])[dataset.truth]
    scores = classification_scores(truth, shares, known, dataset.groups, calibration.least_confidence)
    alone = classification_scores(truth, outputs, known, dataset.groups)
    return {**scores, "without_smoothing": brief(alone)} | sizes(dataset)


def _write(out: Path, metrics: dict[str, Any]) -> None:
    make_directory(out)
    write_file(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
