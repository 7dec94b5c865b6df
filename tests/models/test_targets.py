"""Targets are data: read from JSON with exact errors, carried by columns and bundles, learnt whatever their kind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from support import datasets
from support.model_bundles import RESOLUTIONS, write_bundle
from trafficrefinery.cli.reports.evaluation import page_of
from trafficrefinery.cli.reports.page import write_report
from trafficrefinery.cli.reports.terminal import print_page
from trafficrefinery.cli.ui.timelines import timeline_table
from trafficrefinery.config.paths import models_dir
from trafficrefinery.daemon.query.latest import Latest
from trafficrefinery.errors import UsageError
from trafficrefinery.models.inference import BundleError, Predictor, load_bundle
from trafficrefinery.models.sessions.timelines import Run, Timeline, Timelines
from trafficrefinery.models.targets import BUILT_IN, CLASSES, ORDINAL, QUANTITY, RESOLUTION, STARTUP, Target, When
from trafficrefinery.models.targets.definitions import read_targets
from trafficrefinery.models.targets.label_columns import label_field, target_of_table
from trafficrefinery.models.training import TrainOptions, train
from trafficrefinery.models.training import pipeline as training
from trafficrefinery.models.training.dataset import read_dataset
from trafficrefinery.models.training.estimators import Candidate
from trafficrefinery.models.training.evaluate import evaluate
from trafficrefinery.records.inferences import inference_items

SMALL = Candidate("forest", (("n_estimators", 8), ("max_depth", 6), ("min_samples_leaf", 3)), 0.2)
APP = Target("app", CLASSES, groups=("session",))
QUALITY = Target("quality", ORDINAL, labels=("bad", "fair", "good"), groups=("file", "group.device"))
FIRST = Target("first", CLASSES, unit="flow", when=When("packets", 8))
CLIENT = Target("browser", CLASSES, unit="client", groups=("file", "group.device"))
RATE = Target("rate", QUANTITY, measured_in="Mbit/s", groups=("session",), least=0.0)


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    monkeypatch.setitem(training.MODELS, "forest", (SMALL,))
    monkeypatch.setattr(training, "REGRESSIONS", (SMALL._replace(spread=0.0),))


# Targets


@pytest.mark.parametrize(
    "target", [*BUILT_IN.values(), APP, QUALITY, RATE, FIRST, CLIENT], ids=lambda target: target.name
)
def test_a_target_is_what_its_json_says(target):
    assert Target.from_json(json.loads(json.dumps(target.as_json())), "x") == target


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "x: must be an object with the name and the kind"),
        ({"name": "a"}, "x: kind: is missing"),
        ({"name": "a b", "kind": "classes"}, "x: name: 'a b' is not a name"),
        ({"name": "a", "kind": "class"}, "x: kind: 'class' is not one of classes, ordinal, quantity"),
        ({"name": "a", "kind": "classes", "unit": "floe"}, "x: unit: 'floe' is not one of session, flow, client"),
        (
            {"name": "a", "kind": "classes", "when": "end"},
            "x: when: end does not apply to a session; use interval, sec",
        ),
        (
            {"name": "a", "kind": "classes", "unit": "flow", "when": {"packets": 1.5}},
            "x: when: .* is not interval, end",
        ),
        ({"name": "a", "kind": "classes", "lables": ["b", "c"]}, 'x: no such key "lables"; did you mean "labels"'),
        ({"name": "a", "kind": "classes", "labels": ["b", 1]}, "x: labels: .* is not a list of texts"),
        ({"name": "a", "kind": "classes", "labels": ["b", "b"]}, "x: labels: must be two or more, each once"),
        ({"name": "a", "kind": "quantity", "labels": ["b", "c"]}, "x: labels: a quantity has none"),
        (
            {"name": "a", "kind": "quantity", "when": {"seconds": True}},
            "x: when: {'seconds': True} is not interval, end",
        ),
        ({"name": "a", "kind": "quantity", "groups": []}, "x: groups: must name a column"),
    ],
)
def test_what_is_no_target_is_refused_with_its_key(content, message):
    with pytest.raises(UsageError, match=message):
        Target.from_json(content, "x")


@pytest.mark.parametrize(
    ("target", "text", "message"),
    [
        (QUALITY, "godo", '"godo" is not one of bad, fair, good; did you mean "good"'),
        (RATE, "fast", '"fast" is not a number of Mbit/s'),
        (RATE, "-1", '"-1" is less than 0'),
        (RESOLUTION, "hd720", '"hd720" is not a number of p; write 720'),
        (Target("mos", ORDINAL), "good", '"good" is not a number; give the order of the target'),
    ],
)
def test_a_label_that_is_none_of_the_target_is_refused(target, text, message):
    with pytest.raises(UsageError, match=message):
        target.read(text, "labels.csv:2: x")


def test_a_number_may_have_its_unit_behind_it():
    assert [RESOLUTION.read(text, "x") for text in ("720", "720.0", "720p", " 720p ")] == ["720"] * 4
    assert RATE.read("1.5 Mbit/s", "x") == 1.5


def test_labels_are_in_the_order_of_the_target():
    assert QUALITY.ordered(["good", "bad", "bad"]) == ("bad", "good")
    assert RESOLUTION.ordered(["1080", "240"]) == ("240", "1080")
    assert APP.ordered(["web", "call"]) == ("call", "web")
    assert (QUALITY.read("bad", ""), RATE.read("2.5", ""), RESOLUTION.read("720", "")) == ("bad", 2.5, "720")


def test_a_file_defines_one_target_or_several(tmp_path):
    path = tmp_path / "targets.json"
    path.write_text(json.dumps([APP.as_json(), RATE.as_json()]))
    assert read_targets(path) == {"app": APP, "rate": RATE}
    path.write_text(json.dumps(APP.as_json()))
    assert read_targets(path) == {"app": APP}
    path.write_text(json.dumps([APP.as_json()] * 2))
    with pytest.raises(UsageError, match=r'targets\.json: \[1\]: name: "app" is defined twice'):
        read_targets(path)
    for text, message in (("{", "is not JSON"), ("[]", "must be an object")):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_targets(path)


# Columns


def table_of(target: Target, values: list[object], **given: object) -> pa.Table:
    table = datasets.table(**given)
    field = label_field(target)
    if any("group." in one for one in target.groups):
        table = table.append_column("group.device", pa.array([f"d{n % 3}" for n in np.arange(len(table)) // 8]))
    return table.append_column(field, pa.array(values, field.type))


def write(path: Path, target: Target, values: list[object], **given: object) -> Path:
    pq.write_table(table_of(target, values, **given), path)
    return path


def test_a_column_says_what_its_target_is():
    schema = table_of(RATE, [1.0] * 192).schema
    assert target_of_table("rate", schema, Path("x")) == RATE
    assert target_of_table("startup", schema, Path("x")) == STARTUP
    with pytest.raises(UsageError, match=r'x: has no column label\.rat with labels of rat; did you mean "rate"'):
        target_of_table("rat", schema, Path("x"))
    plain = pa.schema([("label.a", pa.string()), ("label.b", pa.float64()), ("label.c", pa.int64())])
    kinds = [target_of_table(name, plain, Path("x")).kind for name in "abc"]
    assert kinds == [CLASSES, QUANTITY, CLASSES]


def test_rows_that_agree_in_any_group_are_never_apart(tmp_path):
    levels = np.array(QUALITY.labels)[pl.Series(datasets.table()["resolution"]).rank("dense").to_numpy() - 1]
    path = write(tmp_path / "data.parquet", QUALITY, levels.tolist())
    dataset = read_dataset(path, "quality")
    assert dataset.labels == QUALITY.labels
    for name in QUALITY.groups:
        of_value = pl.DataFrame({"value": pl.Series(dataset.table[name]), "group": dataset.groups})
        assert (
            of_value.group_by("value").agg(pl.col("group").n_unique())["group"].to_list()
            == [1] * of_value["value"].n_unique()
        )
    assert len(np.unique(dataset.groups)) == 3  # each file is of one device
    assert len(np.unique(read_dataset(path, "quality", ("session",)).groups)) == 24


@pytest.mark.parametrize(
    ("target", "values", "message"),
    [
        (APP, ["web"] * 192, "all rows have the app web; nothing can be learnt from one class"),
        (APP, [None] * 192, "no row has a app"),
        (RATE, [None] * 192, r"has 0 sessions with label\.rate, ten are needed"),
    ],
)
def test_labels_that_nothing_can_be_learnt_from_are_refused(tmp_path, target, values, message):
    path = write(tmp_path / "bad.parquet", target, values)
    with pytest.raises(UsageError, match=message):
        read_dataset(path, target.name)


def test_labels_of_any_type_are_read(tmp_path):
    floats = [float(one) for one in datasets.table()["resolution"].to_pylist()]
    pq.write_table(datasets.table().append_column("label.lines", pa.array(floats)), tmp_path / "data.parquet")
    assert read_dataset(tmp_path / "data.parquet", Target("lines", ORDINAL)).labels == ("240", "480", "1080")
    assert read_dataset(tmp_path / "data.parquet", Target("lines", CLASSES)).labels == ("1080", "240", "480")
    assert read_dataset(tmp_path / "data.parquet", "lines").truth.dtype == np.float64
    words = pa.array([f"{one}p" for one in floats])
    pq.write_table(datasets.table().append_column("label.lines", words), tmp_path / "words.parquet")
    for kind, message in ((ORDINAL, '"1080.0p" is not a number'), (QUANTITY, "is a quantity; give numbers")):
        with pytest.raises(UsageError, match=message):
            read_dataset(tmp_path / "words.parquet", Target("lines", kind, groups=("session",)))


# Models of each kind


def test_classes_with_words_as_labels_are_learnt(tmp_path):
    words = {240: "call", 480: "web page", 1080: "film"}
    path = write(tmp_path / "data.parquet", APP, [words[one] for one in datasets.table()["resolution"].to_pylist()])
    trained = train(path, tmp_path / "model", TrainOptions("app", compare=False))
    assert trained.metrics["accuracy"] > 0.8
    assert trained.metrics["confusion"]["labels"] == ["call", "film", "web page"] == list(trained.metrics["per_class"])
    assert "mean_level_error" not in trained.metrics  # classes have no order
    assert "| web page |" in (trained.bundle / "card.md").read_text()
    bundle = load_bundle(trained.bundle)
    assert (bundle.target, bundle.labels) == (APP, ("call", "film", "web page"))
    assert json.loads((trained.bundle / "manifest.json").read_text())["target"] == APP.as_json()
    assert (
        json.loads((trained.bundle / "manifest.json").read_text())["candidate"]["spread"] == 0
    )  # sizes say what it is
    unknown = [{"film": "game"}.get(words[one], words[one]) for one in datasets.table()["resolution"].to_pylist()]
    seen = evaluate(trained.bundle, write(tmp_path / "seen.parquet", APP, unknown), tmp_path / "report")
    assert any("game: the model does not know" in line for line in seen["warnings"])
    names = {"session": [f"t{row // 8}" for row in range(192)], "file": [f"t{row // 8}.pcap" for row in range(192)]}
    other = write(tmp_path / "other.parquet", APP, unknown, seed=5, **names)
    metrics = evaluate(trained.bundle, other, tmp_path / "report")
    assert metrics["per_class"]["game"]["recall"] == 0  # which the model does not know
    assert metrics["accuracy"] < 0.75


def test_labels_are_shown_as_they_are_whatever_is_in_them(capsys, tmp_path):
    odd = dict(zip(datasets.RESOLUTIONS, ("$a$ <i>", "[red]x|y", "$é\x1b[31m"), strict=True))
    path = write(tmp_path / "data.parquet", APP, [odd[one] for one in datasets.table()["resolution"].to_pylist()])
    bundle = train(path, tmp_path / "model", TrainOptions("app", compare=False)).bundle
    page = page_of(bundle)
    text = write_report(page, tmp_path / "report").read_text()
    assert "$a$ &lt;i&gt;" in text
    assert "<i>" not in text
    print_page(page)
    said = capsys.readouterr().out
    assert "[red]x|y" in said
    assert "\x1b[31m" not in said
    timelines = Timelines([APP])
    timelines.kept["s"] = Timeline("Film", "192.0.2.1", 0.0, {"app": [Run(odd[480], 0, 10), Run(odd[1080], 10, 20)]})
    Console(file=sys.stdout, width=200).print(timeline_table(timelines, 1))
    said = capsys.readouterr().out
    assert "[red]x|y 0:00-0:10" in said
    assert "\x1b[31m" not in said


def test_an_ordinal_target_knows_how_far_it_is_wrong(tmp_path):
    levels = np.array(QUALITY.labels)[pl.Series(datasets.table()["resolution"]).rank("dense").to_numpy() - 1]
    path = write(tmp_path / "data.parquet", QUALITY, levels.tolist())
    metrics = train(path, tmp_path / "model", TrainOptions("quality", groups=("session",), compare=False)).metrics
    assert metrics["confusion"]["labels"] == list(QUALITY.labels)
    assert 0 <= metrics["mean_level_error"] < 0.5
    assert metrics["group"] == "session"


def test_a_quantity_is_learnt_in_every_interval_in_its_unit(tmp_path):
    rates = pl.Series(datasets.table()["application.segment_bytes_mean"]) / 1e5
    path = write(tmp_path / "data.parquet", RATE, rates.to_list())
    trained = train(path, tmp_path / "model", TrainOptions("rate"))
    assert trained.metrics["rows"] == 192
    assert trained.metrics["median_absolute_error"] < 2
    assert "Mbit/s" in (trained.bundle / "card.md").read_text()
    predictor = Predictor([load_bundle(trained.bundle)])
    made = predictor.predict(datasets.table().slice(0, 1))
    assert made["measured_in"].to_pylist() == ["Mbit/s"]
    assert made["quantity"][0].as_py() == pytest.approx(rates[0], rel=0.5)
    assert evaluate(trained.bundle, path, tmp_path / "report")["target"] == RATE.as_json()


def test_the_query_interface_has_no_items_before_the_first_interval():
    assert inference_items(Latest().interval.table) == []


# Bundles


def test_bundles_of_before_there_were_targets_are_read(tmp_path):
    resolution, startup = (load_bundle(write_bundle(tmp_path, name)) for name in ("resolution", "startup"))
    assert (resolution.target, resolution.labels) == (RESOLUTION, tuple(map(str, RESOLUTIONS)))
    assert (startup.target, startup.labels) == (STARTUP, ())
    assert {load_bundle(folder).target for folder in models_dir().iterdir()} == {RESOLUTION, STARTUP}


@pytest.mark.parametrize(
    "target", ["weather", {"name": "a"}, STARTUP.as_json(), {**APP.as_json(), "labels": ["x", "y"]}]
)
def test_a_bundle_whose_target_is_not_its_models_is_refused(tmp_path, target):
    bundle = write_bundle(tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "target": target}))
    with pytest.raises(BundleError, match="is not a model of this program"):
        load_bundle(bundle)


def test_models_of_different_targets_of_one_name_are_refused(tmp_path):
    bundle = load_bundle(write_bundle(tmp_path))
    other = bundle._replace(target=bundle.target._replace(kind=CLASSES), services=("Film",))
    with pytest.raises(BundleError, match="has another target that is called resolution too"):
        Predictor([bundle, other])
