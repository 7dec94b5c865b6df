"""`train`, `evaluate` and `plot` as a user runs them, and training on a cluster."""

from __future__ import annotations

import json

import pytest

from support import datasets
from trafficrefinery.cli.main import main
from trafficrefinery.models.training import TrainOptions, train
from trafficrefinery.models.training import pipeline as training
from trafficrefinery.models.training.estimators import Candidate
from trafficrefinery.system.tasks import tasks

SMALL = Candidate("forest", (("n_estimators", 8), ("max_depth", 6), ("min_samples_leaf", 3)), 0.1)


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    monkeypatch.setitem(training.MODELS, "forest", (SMALL,))
    monkeypatch.setattr(training, "FORESTS", (SMALL,))
    monkeypatch.setattr(training, "BOOSTED", (SMALL,))


@pytest.fixture
def data(tmp_path):
    return datasets.write(tmp_path / "data.parquet")


def command(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def test_a_model_is_trained_judged_and_drawn(capsys, data, tmp_path):
    status, out, _ = command(capsys, "train", data, "-o", tmp_path / "model")
    assert status == 0
    for part in ("of videos that the model has not seen", "macro-F1", "A random split of rows would claim", "net+app"):
        assert part in out
    status, out, _ = command(capsys, "evaluate", tmp_path / "model", data, "-o", tmp_path / "report")
    assert status == 0
    assert "accuracy" in out
    assert "accuracy" in json.loads((tmp_path / "report" / "metrics.json").read_text())
    status, out, _ = command(capsys, "plot", "model", tmp_path / "model", "-o", tmp_path / "pictures")
    assert status == 0
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "confusion.png", "reliability.png", "labels.png", "feature_sets.png", "roc.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--session", "s333", "-o", "a.png"), '--session: no session "s333"; did you mean "s3'),
        (("-o", "a.bmp"), "--out: a.bmp ends in none of .png, .svg, .html"),
    ],
)
def test_a_session_that_cannot_be_drawn_is_one_line(capsys, data, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    train(data, tmp_path / "model", TrainOptions(compare=False))
    status, _, err = command(capsys, "plot", "session", data, "--model", tmp_path / "model", *arguments)
    assert status == 2
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--features", "ap"), 'no feature set "ap"'),
        (("--resolutions", "240,many"), 'has no rows of resolution "many"; there are 240,'),
        (("--resolutions", "240"), "all rows have the resolution 240"),
        (("--collect", "HeaderBytes"), "has nothing of the feature set net+app"),
        (("--cluster", "tcp://127.0.0.1:9"), "--cluster: tcp://127.0.0.1:9: no scheduler answers there"),
    ],
)
def test_an_option_that_cannot_be_met_is_one_line(capsys, data, tmp_path, arguments, message):
    status, _, err = command(capsys, "train", data, "-o", tmp_path / "model", *arguments)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert message in err
    assert not (tmp_path / "model").exists()


# A cluster


@pytest.fixture
def cluster():
    """A scheduler and two workers, each a process."""
    import distributed

    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made:
        yield made


def test_a_cluster_trains_the_same_model(cluster, data, tmp_path):
    here = train(data, tmp_path / "here", TrainOptions(compare=False, name="film"))
    with tasks(cluster=cluster.scheduler_address) as jobs:
        there = train(data, tmp_path / "there", TrainOptions(compare=False, name="film", jobs=jobs))
    assert there.metrics | {"training_s": 0} == here.metrics | {"training_s": 0}
