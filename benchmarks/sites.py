"""What a model loses at another place: trained on the sessions of one site, tested on those of another.

    python benchmarks/sites.py DATA.parquet A B1

DATA is a dataset with sites, such as of the Requet sessions (`train_models.py youtube` builds one). Only resolutions that
both sites have count, and no video of the tested site is among those trained on. Beside it stands what the same kind of
model reaches within the first site, on videos that it has not seen: the difference is what the other place costs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from train_models import COLLECT

from trafficrefinery.models.confidence import in_brackets
from trafficrefinery.models.training.calibrate import calibrated
from trafficrefinery.models.training.dataset import feature_set, read_dataset
from trafficrefinery.models.training.estimators import FORESTS, Candidate, Problem
from trafficrefinery.models.training.folds import cross_outputs, grouped_folds, outputs_of
from trafficrefinery.models.training.outoffold import problem_of
from trafficrefinery.models.training.scores import Known, classification_scores

MODEL = FORESTS[1]


def scores(problem: Problem, outputs: NDArray[np.float64], labels: tuple[str, ...]) -> dict[str, Any]:
    """Of intervals alone, without smoothing."""
    shares = calibrated(outputs, 1.0)
    return classification_scores(problem.y, shares, Known(problem.classes, labels, ordered=True), problem.groups)


def told(name: str, found: dict[str, Any]) -> None:
    between = in_brackets(found["accuracy_ci95"])
    print(f"{name}: accuracy {found['accuracy']:.3f} {between}, macro-F1 {found['macro_f1']:.3f}; 95 %, by video")


def compare(data: Path, here: str, there: str, model: Candidate = MODEL) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores within the first site, and of a model of all its sessions at the other."""
    played = pl.DataFrame(read_dataset(data).table.select(["site", "resolution"]))
    common = set.intersection(*(set(played.filter(site=site)["resolution"]) for site in (here, there)))
    dataset = read_dataset(data, only=[str(one) for one in common])
    problem = problem_of(dataset, feature_set(dataset, "app", COLLECT), 1)
    site = np.array(dataset.table.column("site").to_pylist())
    first, other = (problem.take(np.flatnonzero(site == name)) for name in (here, there))
    outputs, _ = cross_outputs(first, [model], grouped_folds(first))
    apart = first.take(np.flatnonzero(~np.isin(first.groups, other.groups)))
    labels = dataset.labels
    return scores(first, outputs, labels), scores(other, outputs_of(model, apart, other.x, other.classes), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("sites", nargs=2, metavar="SITE")
    given = parser.parse_args()
    here, there = given.sites
    within, away = compare(given.data, here, there)
    told(f"within {here}", within)
    told(f"{here} to {there}", away)
    print(f"lost: {100 * (within['accuracy'] - away['accuracy']):.1f} points")


if __name__ == "__main__":
    main()
