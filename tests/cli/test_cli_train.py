"""`train`, `evaluate` and `plot` as a user runs them, and training on a cluster."""

from __future__ import annotations

import json

import numpy as np
import pytest

from support import clusters, datasets
from trafficrefinery.cli.main import main
from trafficrefinery.costs.exploring import ExploreOptions, explore
from trafficrefinery.errors import UsageError
from trafficrefinery.models.training import TrainOptions, train
from trafficrefinery.models.training import pipeline as training
from trafficrefinery.models.training.dataset import feature_set, read_dataset
from trafficrefinery.models.training.estimators import Candidate
from trafficrefinery.models.training.evaluate import evaluate
from trafficrefinery.models.training.folds import some_sessions
from trafficrefinery.models.training.grids import grid_in, grid_of
from trafficrefinery.models.training.outoffold import problem_of
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
        (("--param", "max_dept=3"), '--param: no parameter "max_dept"; did you mean "max_depth"'),
        (("--param", "max_depth"), '--param: "max_depth" is not of the form max_depth=8,14'),
        (("--param", "max_depth=deep"), "--param: The 'max_depth' parameter of RandomForestClassifier must be"),
        (("--param", "n_estimators=0"), "--param: The 'n_estimators' parameter"),
        (("--param", "spread=much"), "--param: spread: 'much' is not a number between 0 and 2"),
        (("--param", "max_depth=2", "--param", "max_depth=3"), "--param: max_depth is given twice"),
        (("--grid", "gone.json"), "--grid: gone.json: cannot be read"),
        (("--grid", "gone.json", "--param", "max_depth=2"), "--grid: --param is given as well"),
        (("--cluster", "tcp://127.0.0.1:9"), "--cluster: tcp://127.0.0.1:9: no scheduler answers there"),
    ],
)
def test_an_option_that_cannot_be_met_is_one_line(capsys, data, tmp_path, arguments, message):
    status, _, err = command(capsys, "train", data, "-o", tmp_path / "model", *arguments)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert message in err
    assert not (tmp_path / "model").exists()


def test_the_best_of_the_users_own_grid_is_taken(capsys, data, tmp_path):
    arguments = ("--param", "max_depth=1,6", "--param", "n_estimators=5", "--no-compare", "--quiet")
    assert command(capsys, "train", data, "-o", tmp_path / "model", *arguments)[0] == 0
    chosen = json.loads((tmp_path / "model" / "manifest.json").read_text())["candidate"]
    assert chosen["kind"] == "forest"
    assert (chosen["parameters"]["max_depth"], chosen["parameters"]["n_estimators"]) == (6, 5)
    (tmp_path / "grid.json").write_text('[{"n_estimators": [5]}, {"max_iter": [4, 5]}]')
    grid = grid_of(grid_in(tmp_path / "grid.json", []), "best")
    assert [one.kind for one in grid] == ["forest", "boosted", "boosted"]


@pytest.mark.parametrize("content", ["[", '{"max_depth": 3}', '{"max_depth": []}', "3", '["max_depth"]'])
def test_a_grid_that_is_none_is_one_line(capsys, data, tmp_path, content):
    (tmp_path / "grid.json").write_text(content)
    status, _, err = command(capsys, "train", data, "-o", tmp_path / "model", "--grid", tmp_path / "grid.json")
    assert (status, len(err.splitlines())) == (2, 1)
    assert f"--grid: {tmp_path / 'grid.json'}: " in err


def test_too_many_combinations_are_refused():
    with pytest.raises(UsageError, match="more than 200 combinations"):
        grid_of(("--param", [{"max_depth": list(range(1, 300))}]), "forest")


def test_all_that_is_trained_is_counted(data, tmp_path):
    told = []
    train(data, tmp_path / "model", progress=lambda doing, *counts: told.append((doing, *counts)))
    assert {doing for doing, *_ in told} == {"training"}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[0][1:] == (0, 100)
    assert told[-1][1] > 90


def test_of_many_rows_whole_sessions_choose_and_compare(data, tmp_path, monkeypatch):
    problem = problem_of(dataset := read_dataset(data), feature_set(dataset, "net+app"), 1)
    rows = some_sessions(problem, 100)
    assert 90 < len(rows) <= 100
    for session in np.unique(problem.sessions[rows]):
        assert (problem.sessions == session).sum() == (problem.sessions[rows] == session).sum()
    monkeypatch.setattr("trafficrefinery.models.training.comparing.MOST_CHOSEN_ON", 100)
    metrics = train(data, tmp_path / "model").metrics
    assert metrics["rows"] == len(dataset.truth)
    assert metrics["compared_rows"] == len(rows)


def test_nothing_is_trained_on_the_data_of_a_test(data, tmp_path, monkeypatch):
    train(data, tmp_path / "model", TrainOptions(compare=False))
    monkeypatch.setattr("trafficrefinery.models.training.folds.fit_classes", None)
    other = datasets.write(
        tmp_path / "other.parquet", seed=5, session=[f"t{row // 8}" for row in range(192)],
        video_id=[f"w{row // 16}" for row in range(192)],
    )  # fmt: skip
    metrics = evaluate(tmp_path / "model", other, tmp_path / "report")
    assert metrics["out_of_fold"] is False
    assert "split" not in metrics


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


def test_training_and_exploring_survive_a_worker_that_is_killed(capsys, data, tmp_path):
    here = train(data, tmp_path / "here", TrainOptions(compare=False, name="film"))
    with clusters.cluster(tmp_path, workers=3) as made, tasks(cluster=made.address) as jobs:
        left = list(made.workers)

        def lose_one(doing, *_):
            if left == made.workers and doing == "training":
                left.pop().kill()

        there = train(data, tmp_path / "there", TrainOptions(compare=False, name="film", jobs=jobs), lose_one)
        assert there.metrics | {"training_s": 0} == here.metrics | {"training_s": 0}

        def lose_another(doing, *_):
            if len(left) == 2 and "representations evaluated" in doing:
                left.pop().kill()

        options = ExploreOptions(trials=6, compare=False, single_columns=False)
        alone = explore(data, tmp_path / "alone", options=options)
        found = explore(data, tmp_path / "explored", options=options._replace(tasks=jobs), progress=lose_another)
        assert len(left) == 1
        figures = ["columns", "accuracy", "macro_f1", "state_bytes"]
        assert found.frame.select(figures).equals(alone.frame.select(figures))
