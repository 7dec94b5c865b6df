"""Training and evaluation: grouped, reproducible, and right about themselves."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor

from support import datasets
from trafficrefinery import __version__
from trafficrefinery.errors import UsageError
from trafficrefinery.models.dataset.tables import write_table
from trafficrefinery.models.inference import load_bundle
from trafficrefinery.models.targets import RESOLUTION
from trafficrefinery.models.training import TrainOptions, train
from trafficrefinery.models.training import pipeline as training
from trafficrefinery.models.training.calibrate import Sequences, calibrate, calibrated
from trafficrefinery.models.training.dataset import FEATURE_SETS, feature_set, read_dataset
from trafficrefinery.models.training.estimators import Candidate, Problem
from trafficrefinery.models.training.evaluate import evaluate
from trafficrefinery.models.training.flatten import flatten_boosted, flatten_forest, side_by_side
from trafficrefinery.models.training.folds import grouped_folds, random_folds
from trafficrefinery.models.training.scores import Known, calibration_error, classification_scores, quantity_scores
from trafficrefinery.system.tasks import HERE, tasks

SMALL = Candidate("forest", (("n_estimators", 8), ("max_depth", 6), ("min_samples_leaf", 3)), 0.1)
BOOSTED = Candidate("boosted", (("max_iter", 8), ("max_leaf_nodes", 6), ("min_samples_leaf", 5)))


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    monkeypatch.setitem(training.MODELS, "forest", (SMALL,))
    monkeypatch.setitem(training.MODELS, "best", (SMALL, BOOSTED))
    monkeypatch.setattr(training, "FORESTS", (SMALL,))
    monkeypatch.setattr(training, "BOOSTED", (BOOSTED,))
    monkeypatch.setattr(training, "REGRESSIONS", (SMALL._replace(spread=0.0), BOOSTED, BOOSTED))


@pytest.fixture
def data(tmp_path):
    return datasets.write(tmp_path / "data.parquet")


# Flat trees


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 5)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(int) + (x[:, 2] > 1)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x, y


@pytest.mark.parametrize("classes", [2, 3])
def test_flat_trees_give_what_the_library_gives(rows, classes):
    x, y = rows
    y = np.minimum(y, classes - 1)
    forest = RandomForestClassifier(10, random_state=0).fit(x, y)
    assert np.allclose(flatten_forest(forest).sums(x), forest.predict_proba(x), atol=1e-6)
    boosted = HistGradientBoostingClassifier(max_iter=10, early_stopping=False).fit(x, y)
    sums = flatten_boosted(boosted).sums(x)
    shares = np.exp(sums) / np.exp(sums).sum(axis=1, keepdims=True)
    assert np.allclose(shares, boosted.predict_proba(x), atol=1e-5)


def test_a_row_on_a_threshold_goes_where_the_library_sends_it():
    x = np.arange(64, dtype=np.float32)[:, None] / np.float32(3)
    y = np.arange(64) % 7
    forest = RandomForestClassifier(5, random_state=0).fit(x, y)
    thresholds = np.concatenate([one.tree_.threshold for one in forest.estimators_]).astype(np.float32)
    edges = np.concatenate([thresholds, np.nextafter(thresholds, np.float32(99))])[:, None]
    assert np.allclose(flatten_forest(forest).sums(edges), forest.predict_proba(edges), atol=1e-6)


def test_forests_side_by_side_have_an_output_each(rows):
    x, _ = rows
    target = np.nan_to_num(x[:, 0])
    one = flatten_forest(RandomForestRegressor(3, random_state=0).fit(x, target))
    two = flatten_forest(RandomForestRegressor(4, random_state=1).fit(x, -target))
    both = side_by_side([one, two])
    both.check(x.shape[1])
    assert np.allclose(both.sums(x), np.hstack([one.sums(x), two.sums(x)]))


# Folds


def test_no_video_is_on_both_sides_of_a_split(data):
    dataset = read_dataset(data)
    problem = training.problem_of(dataset, dataset.columns, 3)
    tested = []
    for train_rows, test_rows in grouped_folds(problem):
        assert not set(dataset.groups[train_rows]) & set(dataset.groups[test_rows])
        tested += test_rows.tolist()
    assert sorted(tested) == list(range(len(dataset.truth)))


def test_random_rows_share_videos(data):
    dataset = read_dataset(data)
    problem = training.problem_of(dataset, dataset.columns, 3)
    assert any(set(dataset.groups[one]) & set(dataset.groups[two]) for one, two in random_folds(problem))


def test_one_video_cannot_be_split(tmp_path):
    path = datasets.write(tmp_path / "one.parquet", video_id=["v"] * 192)
    with pytest.raises(UsageError, match="folds need two"):
        train(path, tmp_path / "model")


def test_varied_copies_change_sizes_only_and_by_the_same_factor_in_a_session():
    x = np.ones((4, 2), np.float32)
    numbers = np.array([0, 0, 1, 1])
    problem = Problem(x, numbers, np.array([True, False]), numbers, numbers, 0).varied(0.2)
    assert len(problem.x) == len(problem.y) == 16
    assert (problem.x[:, 1] == 1).all()
    assert (problem.x[::2, 0] == problem.x[1::2, 0]).all()
    assert len(np.unique(problem.x[:, 0])) == 7


# Scores


LEVELS = Known(np.arange(3), ("240", "480", "1080"), ordered=True)
TWO = Known(np.arange(2), ("240", "480"), ordered=True)


def test_scores_of_perfect_and_worst_answers():
    truth = np.repeat([0, 1, 2], 10)
    shares = np.repeat(np.eye(3), 10, axis=0)
    sessions = np.arange(30) // 5
    right = classification_scores(truth, shares, LEVELS, sessions)
    assert (right["accuracy"], right["macro_f1"], right["mean_level_error"], right["ece"]) == (1, 1, 0, 0)
    wrong = classification_scores(truth, np.roll(shares, 10, axis=0), LEVELS, sessions)
    assert wrong["accuracy"] == 0
    assert wrong["mean_level_error"] == pytest.approx(4 / 3)
    assert wrong["ece"] == 1


def test_a_resolution_that_the_model_does_not_know_counts_as_an_error():
    known = Known(np.array([0]), ("240", "2160"), ordered=True)
    scores = classification_scores(np.array([0, 1]), np.array([[1.0], [1.0]]), known, np.array([0, 1]))
    assert scores["accuracy"] == 0.5
    assert scores["confusion"] == {"labels": ["240", "2160"], "matrix": [[1, 0], [1, 0]]}


def test_macro_f1_counts_each_resolution_alike():
    truth = np.array([0] * 98 + [1] * 2)
    shares = np.tile([1.0, 0.0], (100, 1))
    assert classification_scores(truth, shares, TWO, np.arange(100))["macro_f1"] < 0.5


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    right = np.array([True] * 6 + [False] * 4)
    assert calibration_error(right, np.full(10, 0.95)) == pytest.approx(0.35)


def test_intervals_of_few_sessions_are_wide():
    truth, shares = np.array([0, 1] * 20), np.array([[0.6, 0.4]] * 40)
    many = classification_scores(truth, shares, TWO, np.arange(40))
    few = classification_scores(truth, shares, TWO, np.tile([0, 1, 2, 3], 10))
    assert np.ptp(few["accuracy_ci95"]) > np.ptp(many["accuracy_ci95"])


def test_startup_scores():
    truth = np.array([1.0, 2.0, 3.0])
    scores = quantity_scores(truth, truth[:, None] + [-1.0, 0.5, 1.0], np.arange(3))
    assert scores["median_absolute_error"] == 0.5
    assert scores["within_10_to_90"] == 1


# Calibration and smoothing


def test_too_confident_outputs_are_made_more_even():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 2_000)
    told = np.where(rng.random(2_000) < 0.7, truth, 1 - truth)
    logits = np.log(np.where(np.eye(2)[told] > 0, 0.99, 0.01))
    made = calibrate(logits, truth, np.arange(2_000), np.zeros(2_000), "logits")
    assert made.temperature > 2
    assert calibrated(logits, made.temperature).max() < 0.9


def test_smoothing_goes_by_session_and_time_and_never_backwards():
    rng = np.random.default_rng(0)
    sessions, ts_start = rng.permutation(np.repeat([7, 9, 4], 5)), rng.permutation(15).astype(float)
    shares = rng.dirichlet(np.ones(3), 15)
    made = Sequences(sessions, ts_start).smoothed(shares, 0.9, 0.5)
    for session in (7, 9, 4):
        rows = np.flatnonzero(sessions == session)
        belief = np.full(3, 1 / 3)
        for row in rows[np.argsort(ts_start[rows])]:
            belief = (belief * 0.9 + (1 - belief) * 0.05) * shares[row] ** 0.5
            belief /= belief.sum()
            assert np.allclose(made[row], belief)


# Whole


def test_training_writes_a_bundle_with_its_figures(data, tmp_path):
    trained = train(data, tmp_path / "model", TrainOptions(name="film"))
    bundle = load_bundle(trained.bundle)
    assert (bundle.name, bundle.target, bundle.labels) == ("film", RESOLUTION, tuple(map(str, datasets.RESOLUTIONS)))
    assert set(bundle.needs) == {"PacketCounters", "VideoSegments"}
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics.keys() >= {"accuracy", "macro_f1", "per_class", "confusion", "mean_level_error", "ece"}
    assert metrics["accuracy"] > 0.8
    assert metrics["feature_sets"].keys() == FEATURE_SETS.keys()
    assert metrics["split"].keys() == {"grouped", "random_rows"}
    assert "accuracy" in (tmp_path / "model" / "card.md").read_text()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def figures(trained):
    """All but how long it took."""
    return {name: value for name, value in trained.metrics.items() if name != "training_s"}


def test_the_same_seed_trains_the_same_model(data, tmp_path):
    one, two = (train(data, tmp_path / name, TrainOptions(compare=False, name="film")) for name in ("a", "b"))
    assert figures(one) == figures(two)
    assert load_bundle(one.bundle).digest == load_bundle(two.bundle).digest
    other = train(data, tmp_path / "c", TrainOptions(compare=False, name="film", seed=2))
    assert load_bundle(other.bundle).digest != load_bundle(one.bundle).digest


def test_several_processes_train_the_same_model(data, tmp_path):
    with tasks(1) as one_process, tasks(2) as two_processes:
        made = [
            train(data, tmp_path / str(number), TrainOptions(compare=False, name="film", jobs=jobs))
            for number, jobs in enumerate((HERE, one_process, two_processes))
        ]
    assert figures(made[0]) == figures(made[1]) == figures(made[2])


def test_startup_delays_are_told_with_quantiles(data, tmp_path):
    trained = train(data, tmp_path / "model", TrainOptions(target="startup", features="app"))
    bundle = load_bundle(trained.bundle)
    assert trained.metrics["median_absolute_error"] < 0.3
    dataset = read_dataset(data, "startup")
    assert len(dataset.truth) == 24
    quantiles = bundle.outputs(dataset.matrix(bundle.columns))
    assert (np.diff(quantiles, axis=1) >= -0.05).all()


def test_a_model_of_one_service_is_for_that_service_only(tmp_path):
    services = ["Film"] * 96 + ["Live"] * 96
    path = datasets.write(tmp_path / "two.parquet", service=services)
    trained = train(path, tmp_path / "both")
    assert trained.metrics["services"].keys() == {"Film", "Live"}
    own = train(path, tmp_path / "own", TrainOptions(service="Live", compare=False))
    assert load_bundle(own.bundle).services == ("Live",)


def test_a_column_that_says_nothing_is_no_feature(tmp_path):
    path = datasets.write(tmp_path / "data.parquet", **{"application.segments": [3] * 192})
    columns = feature_set(read_dataset(path), "app")
    assert "application.segments" not in columns
    assert "application.requests" not in columns  # null everywhere
    assert "application.segment_bytes_mean" in columns


# Evaluation


def test_on_its_own_data_a_model_is_judged_by_others_trained_like_it(data, tmp_path):
    trained = train(data, tmp_path / "model", TrainOptions(compare=False))
    metrics = evaluate(trained.bundle, data, tmp_path / "report")
    assert metrics["out_of_fold"]
    assert metrics["accuracy"] == trained.metrics["accuracy"]
    other = datasets.write(
        tmp_path / "other.parquet", seed=5, session=[f"t{row // 8}" for row in range(192)],
        video_id=[f"w{row // 16}" for row in range(192)],
    )  # fmt: skip
    assert not evaluate(trained.bundle, other, tmp_path / "report2")["out_of_fold"]


def test_an_evaluation_says_of_what_and_when_it_is(data, tmp_path):
    trained = train(data, tmp_path / "model", TrainOptions(compare=False))
    metrics = evaluate(trained.bundle, data, tmp_path / "report")
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["metrics.json"]
    assert metrics["data_sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert metrics["version"] == __version__
    assert datetime.fromisoformat(metrics["made"]).tzinfo == UTC
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["accuracy"] == metrics["accuracy"]


def test_a_table_without_a_column_of_the_model_is_refused(data, tmp_path):
    trained = train(data, tmp_path / "model", TrainOptions(compare=False))
    pl.read_parquet(data).drop("application.segment_bytes_mean").write_parquet(tmp_path / "less.parquet")
    with pytest.raises(UsageError, match=r"less\.parquet: has no column application.segment_bytes_mean.*VideoSegments"):
        evaluate(trained.bundle, tmp_path / "less.parquet", tmp_path / "report")


# Bad input


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sessions": 0}, "is empty"),
        ({"resolutions": (480,)}, "all rows have the resolution 480"),
        ({"resolution": [None] * 192}, "no row has a resolution"),
        ({"application.segment_bytes_mean": [np.inf] + [1.0] * 191}, "segment_bytes_mean: is inf in row 0"),
        ({"network.kbps_down": [1.0, np.nan] + [1.0] * 190}, "network.kbps_down: is nan in row 1"),
    ],
)
def test_a_dataset_that_cannot_be_learnt_from_is_refused(tmp_path, given, message):
    path = datasets.write(tmp_path / "bad.parquet", **given)
    with pytest.raises(UsageError, match=rf"bad\.parquet.*{message}"):
        train(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TrainOptions(groups=("flavour",)), "--group: .* has no column flavour"),
        (TrainOptions(features="ap"), 'no feature set "ap"; did you mean "app"'),
        (TrainOptions(service="Fim"), "--service: .* Film"),
    ],
)
def test_an_option_that_does_not_fit_the_data_is_refused(data, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        train(data, tmp_path / "model", options)


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(UsageError, match=r"text\.parquet: is no Parquet file"):
        train(tmp_path / "text.parquet", tmp_path / "model")
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(UsageError, match=r"other\.parquet: has no column session"):
        train(tmp_path / "other.parquet", tmp_path / "model")


def test_a_directory_that_is_no_bundle_is_not_replaced(data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is there already, and no bundle"):
        train(data, tmp_path / "mine", TrainOptions(compare=False))
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_bundle_is_replaced_by_a_new_one(data, tmp_path):
    train(data, tmp_path / "model", TrainOptions(compare=False))
    train(data, tmp_path / "model", TrainOptions(compare=False, features="app"))
    assert "PacketCounters" not in load_bundle(tmp_path / "model").needs


def test_a_published_table_is_learnt_from_with_its_own_columns(tmp_path):
    table = datasets.table()
    field = pa.field("published.userAvgRTT", pa.float64(), metadata={"doc": "µs", "group": "transport"})
    table = table.append_column(field, pa.array(np.random.default_rng(0).random(len(table))))
    pq.write_table(table, tmp_path / "published.parquet")
    dataset = read_dataset(tmp_path / "published.parquet")
    assert "published.userAvgRTT" in feature_set(dataset, "transport")
    assert "published.userAvgRTT" not in feature_set(dataset, "net+app")


@pytest.mark.parametrize(
    "written",
    [lambda one: f"{one}p", float, str, lambda one: f"{one}.0", lambda one: pa.scalar(str(one)).as_py().encode()],
    ids=["720p", "float", "text", "720.0", "bytes"],
)
def test_resolutions_of_other_columns_are_the_same_labels(tmp_path, written):
    table = datasets.table()
    changed = pa.array([written(one) for one in table["resolution"].to_pylist()])
    place = table.column_names.index("resolution")
    write_table(table.set_column(place, "resolution", changed), tmp_path / "data.parquet")
    dataset = read_dataset(tmp_path / "data.parquet")
    assert dataset.labels == ("240", "480", "1080")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("resolution", [[720]], r"resolution: holds List\(Int64\); write one label in each row"),
        ("resolution", ["hd720"], r'resolution: "hd720" is not a number of p; write 720'),
        ("startup_s", [float("inf")], "startup_s: has infinite numbers"),
        ("startup_s", ["soon"], "startup_s: holds String, but startup is a quantity; give numbers"),
    ],
)
def test_a_label_column_that_cannot_be_read_is_told(tmp_path, column, values, message):
    table = datasets.table()
    place = table.column_names.index(column)
    write_table(table.set_column(place, column, pa.array(values * len(table))), tmp_path / "data.parquet")
    with pytest.raises(UsageError, match=message):
        read_dataset(tmp_path / "data.parquet", "startup" if column == "startup_s" else "resolution")
