"""Bundles are data, checked before use; predictions are the model's, smoothed over a session."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import joblib
import numpy as np
import orjson
import pyarrow as pa
import pytest

from support import datasets
from support.small_models import small_models
from trafficrefinery.config import parse_config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.models.inference import (
    BundleError,
    Predictor,
    check,
    feature_matrix,
    load_bundle,
)
from trafficrefinery.models.inference.forest import LEAF, Forest
from trafficrefinery.models.sessions import SessionView
from trafficrefinery.models.sessions.provenance import Provenance, UsedCode
from trafficrefinery.models.training import TrainOptions, train
from trafficrefinery.records.inferences import PROBABILITY, inference_lines, inference_schema


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of resolutions and one of startup delays."""
    folder = tmp_path_factory.mktemp("models")
    data = datasets.write(folder / "data.parquet")
    with small_models():
        train(data, folder / "film", TrainOptions(compare=False))
        train(data, folder / "startup", TrainOptions(target="startup", compare=False))
    return folder


@pytest.fixture
def bundle(models, tmp_path) -> Path:
    """A copy of a bundle, to be spoilt."""
    return Path(shutil.copytree(models / "film", tmp_path / "film"))


def signed(bundle: Path) -> Path:
    """Write the digests anew: what somebody does who changes more than one file."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in manifest["files"]}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def refused(bundle: Path, message: str) -> None:
    with pytest.raises(BundleError, match=message) as told:
        load_bundle(bundle)
    assert str(told.value).startswith(str(bundle))
    assert told.value.exit_code == 2


# Bundles


@pytest.mark.parametrize(
    "name", ["model.npz", "schema.json", "calibration.json", "selftest.npz", "metrics.json", "card.md"]
)
def test_a_file_that_was_changed_is_refused(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    refused(bundle, f"{name}: is not as it was written")


@pytest.mark.parametrize("name", ["model.npz", "schema.json", "selftest.npz"])
def test_a_file_that_is_cut_off_or_missing_is_refused(bundle, name):
    (bundle / name).write_bytes((bundle / name).read_bytes()[:100])
    refused(bundle, f"{name}: is not as it was written")
    (bundle / name).unlink()
    refused(bundle, f"{name}: is missing")


def test_a_file_that_the_manifest_does_not_name_is_refused(bundle):
    (bundle / "extra.bin").write_bytes(b"extra")
    refused(bundle, r"extra\.bin: is not in the manifest")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "files": {}}'])
def test_what_is_no_manifest_is_refused(bundle, text):
    (bundle / "manifest.json").write_text(text)
    refused(bundle, r"manifest\.json: is not the manifest")


def test_another_schema_is_refused(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    refused(bundle, "has schema 99, this version reads 1 and 2")


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self._mark),)


@pytest.mark.parametrize("wrapped", ["pickle", "joblib", "zip", "npz"])
def test_a_pickle_is_refused_by_its_content_and_never_run(bundle, tmp_path, wrapped):
    mark = tmp_path / "ran"
    if wrapped == "joblib":
        joblib.dump(Harmful(mark), bundle / "model.npz")
    elif wrapped == "npz":
        np.savez(bundle / "model.npz", roots=np.array([Harmful(mark)], dtype=object))
    else:
        data = pickle.dumps(Harmful(mark))
        if wrapped == "zip":
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                archive.writestr("model/data.pkl", data)
            data = packed.getvalue()
        (bundle / "model.npz").write_bytes(data)
    refused(signed(bundle), "is not a model of this program" if wrapped == "npz" else "is a pickle")
    assert not mark.exists()


def test_a_pickle_in_place_of_a_bundle_is_refused(tmp_path):
    joblib.dump(Harmful(tmp_path / "ran"), tmp_path / "model.joblib")
    refused(tmp_path / "model.joblib", "is a pickle, which runs code when it is loaded; name the directory")
    assert not (tmp_path / "ran").exists()


def test_a_path_that_does_not_exist_is_told(tmp_path):
    refused(tmp_path / "none", "no such bundle")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"manifest\.json: cannot be read")


@pytest.mark.parametrize(
    "spoil",
    [
        {"left": lambda forest: np.zeros_like(forest.left)},  # for ever round
        {"left": lambda forest: forest.left + np.int32(1 << 20)},
        {"feature": lambda forest: np.where(forest.feature == LEAF, LEAF, 10_000).astype(np.int32)},
        {"feature": lambda forest: np.where(forest.feature == LEAF, -7, forest.feature).astype(np.int32)},
        {"roots": lambda forest: forest.roots - 1},
        {"roots": lambda forest: forest.roots + len(forest.feature)},
        {"threshold": lambda forest: forest.threshold[:-1]},
        {"values": lambda forest: forest.values[:, :1]},
        {"nan_left": lambda forest: forest.nan_left.astype(np.int64)},
    ],
)
def test_trees_that_would_leave_their_arrays_are_refused(bundle, spoil):
    with np.load(bundle / "model.npz") as packed:
        arrays = {name: packed[name] for name in packed.files}
    forest = Forest.from_arrays(arrays)
    arrays |= {name: change(forest) for name, change in spoil.items()}
    np.savez(bundle / "model.npz", **arrays)
    refused(signed(bundle), "is not a model of this program")


def test_a_model_that_gives_something_else_than_when_it_was_trained_is_refused(bundle):
    with np.load(bundle / "selftest.npz") as packed:
        rows, outputs = packed["rows"], packed["outputs"]
    np.savez(bundle / "selftest.npz", rows=rows, outputs=np.roll(outputs, 1, axis=1))
    refused(signed(bundle), "gives other results on this machine")


# A model and a configuration


def test_a_configuration_with_all_that_the_model_needs_is_taken(models):
    check(load_bundle(models / "film"), datasets.plan())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"interval": "5s"}, r"made\.json: Services\[0\] \(Film\): Interval: is 5s, film@.* was trained on 10s"),
        ({"collect": ["VideoSegments"]}, r"made\.json: Services\[0\] \(Film\): Collect: .* needs PacketCounters"),
        ({"collect": ["PacketCounters"]}, r"made\.json: Services: none has sessions for film@"),
    ],
)
def test_a_configuration_that_differs_is_refused_with_the_difference(models, given, message):
    with pytest.raises(BundleError, match=message):
        check(load_bundle(models / "film"), datasets.plan(**given))


def test_parameters_of_feature_classes_must_be_those_of_training(models, tmp_path):
    """Whatever the class: what a dataset was made with goes into the bundle, and is compared with what is run."""
    larger = [{"VideoSegments": {"TCPRequestBytes": 70}}, *datasets.CLASSES[:2]]
    with pytest.raises(BundleError, match=r"made\.json: Services: Collect: the parameters of VideoSegments are "
                       r"\{'TCPRequestBytes': 70\}, film@.* was trained with their defaults; set these"):  # fmt: skip
        check(load_bundle(models / "film"), datasets.plan(collect=larger))
    schema = SessionView(datasets.plan(collect=larger)).schema
    by_column = {name: Provenance.of(schema.field(name)) for name in schema.names}
    code = tuple({one: None for made_by in by_column.values() if made_by for one in made_by.code})
    assert code == (UsedCode("feature class", "VideoSegments", parameters=(("TCPRequestBytes", 70),)),)
    trained = load_bundle(models / "film")._replace(code=code)
    check(trained, datasets.plan(collect=larger))
    with pytest.raises(BundleError, match=r"of VideoSegments are their defaults, .* with \{'TCPRequestBytes': 70\}"):
        check(trained, datasets.plan())


def test_a_service_that_the_model_is_not_for_may_have_other_parameters(models):
    plan = Plan.of(parse_config({"Services": [
        {"Name": name, "Filter": {"Prefixes": [f"10.{at}.0.0/16"]}, "Collect": [*datasets.CLASSES[:2], {"VideoSegments": given}]}
        for at, (name, given) in enumerate({"Film": {}, "Other": {"MinBytes": 9}}.items())
    ]}, "made.json"))  # fmt: skip
    film = load_bundle(models / "film")
    check(film._replace(services=("Film",)), plan)
    for services in (("Other",), ()):
        with pytest.raises(BundleError, match="the parameters of VideoSegments are {'MinBytes': 9}"):
            check(film._replace(services=services), plan)


def test_an_option_that_only_adds_outputs_is_no_other_parameter(models):
    check(
        load_bundle(models / "film"),
        datasets.plan(collect=[*datasets.CLASSES[:2], {"VideoSegments": {"Quantiles": True}}]),
    )


def test_other_units_and_other_columns_are_refused(models):
    bundle = load_bundle(models / "film")
    with pytest.raises(BundleError, match=r'is in "furlongs", here it is in ".*"; train the model again'):
        check(bundle._replace(units=("furlongs", *bundle.units[1:])), datasets.plan())
    with pytest.raises(BundleError, match=r"no session feature gives application\.segment;"):
        check(bundle._replace(columns=("application.segment", *bundle.columns[1:])), datasets.plan())


# Predictions


def sessions_of(step: int, **given) -> pa.Table:
    """One interval of all sessions of a dataset, as if all had started at the same time."""
    table = datasets.table(**given)
    table = table.take(np.arange(step, len(table), 8))
    times = {"ts_start": 10.0 * step, "ts_end": 10.0 * (step + 1), "session_start": 2.0}
    for name, time_s in times.items():
        if name not in given:
            table = table.set_column(table.column_names.index(name), name, pa.array([time_s] * len(table)))
    return table


def shares_of(made: pa.Table) -> np.ndarray:
    """The probabilities, a row each."""
    return np.column_stack([made[name].to_numpy() for name in made.column_names if name.startswith(PROBABILITY)])


def test_predictions_have_a_row_for_each_session_in_its_order(models):
    predictor = Predictor([load_bundle(models / "film")])
    table = sessions_of(0)
    made = predictor.predict(table)
    assert made.schema == inference_schema(predictor.labels)
    assert made["session_id"] == table["session_id"]
    shares = shares_of(made)
    assert np.allclose(shares.sum(axis=1), 1)
    assert np.allclose(shares.max(axis=1), made["confidence"].to_numpy())


def test_without_smoothing_predictions_are_those_of_the_model(models):
    bundle = load_bundle(models / "film")
    predictor = Predictor([bundle], smoothing=False)
    for step in range(3):
        table = sessions_of(step)
        made = shares_of(predictor.predict(table))
        assert np.allclose(made, bundle.outputs(feature_matrix(table, bundle.columns)))


def test_smoothing_remembers_each_session_whatever_the_order_of_rows(models):
    bundle = load_bundle(models / "film")
    stay, weight = bundle.calibration.stay, bundle.calibration.weight
    predictor, beliefs = Predictor([bundle]), {}
    rng = np.random.default_rng(0)
    for step in range(8):
        table = sessions_of(step)
        table = table.take(rng.permutation(len(table))[: 20 if step else 24])
        seen = bundle.outputs(feature_matrix(table, bundle.columns))
        made = predictor.predict(table)
        for row, told, shares in zip(made.to_pylist(), shares_of(made), seen, strict=True):
            before = beliefs.get(row["session_id"], np.full(3, 1 / 3))
            now = (before * stay + (1 - before) * (1 - stay) / 2) * np.maximum(shares, 1e-4) ** weight
            beliefs[row["session_id"]] = now / now.sum()
            assert np.allclose(told, beliefs[row["session_id"]])


def test_a_doubtful_resolution_is_not_told(models):
    bundle = load_bundle(models / "film")
    doubtful = bundle._replace(calibration=bundle.calibration._replace(least_confidence=1.1))
    made = Predictor([doubtful]).predict(sessions_of(0))
    assert made["value"].null_count == 24
    assert set(made["why"].to_pylist()) == {"confidence"}
    assert made["confidence"].null_count == 0


def test_of_a_session_of_which_nothing_was_observed_nothing_is_told(models):
    table = sessions_of(0)
    gone = [
        pa.nulls(len(table), field.type) if "." in field.name else table[field.name] for field in table.schema
    ]  # fmt: skip
    made = Predictor([load_bundle(models / "film")]).predict(pa.table(gone, schema=table.schema))
    assert made["value"].null_count == made["confidence"].null_count == 24
    assert set(made["applies"].to_pylist()) == {False}
    assert set(made["why"].to_pylist()) == {"unobserved"}


def test_startup_delays_are_told_once_in_the_first_interval_ten_seconds_after_the_start(models):
    predictor = Predictor([load_bundle(models / name) for name in ("film", "startup")])
    told = [predictor.predict(sessions_of(step)) for step in range(4)]
    assert [len(table) - table["quantity"].null_count for table in told] == [
        0,
        24,
        0,
        0,
    ]  # they start 2 s after an interval does
    assert [len(table) for table in told] == [24, 48, 24, 24]
    assert told[1]["target"].to_pylist() == ["resolution", "startup"] * 24
    assert told[1]["measured_in"].to_pylist() == ["p", "s"] * 24


def test_with_a_startup_model_alone_no_resolution_is_told(models):
    predictor = Predictor([load_bundle(models / "startup")])
    made = predictor.predict(sessions_of(1))
    assert made["value"].null_count == made["confidence"].null_count == 24
    assert made["quantity"].null_count == 0
    line = orjson.loads(inference_lines(made).splitlines()[0])
    assert line["probabilities"] is None
    assert line["value"] == pytest.approx(line["quantiles"]["0.5"], abs=1e-4)


def test_a_model_of_a_service_goes_before_the_one_for_all(models):
    bundle = load_bundle(models / "film")
    own = bundle._replace(name="own", services=("Live",), calibration=bundle.calibration._replace(least_confidence=1.1))
    services = ["Film", "Live"] * 96
    made = Predictor([bundle, own]).predict(sessions_of(0, service=services).slice(0, 24))
    assert made["value"].null_count == 0
    odd = sessions_of(1, service=services)
    assert Predictor([bundle, own]).predict(odd)["value"].null_count == 24


def test_a_service_without_a_model_has_no_resolution(models):
    own = load_bundle(models / "film")._replace(services=("Live",))
    made = Predictor([own]).predict(sessions_of(0))
    assert made["value"].null_count == made["confidence"].null_count == 24


def test_two_models_for_the_same_are_refused(models):
    bundle = load_bundle(models / "film")
    with pytest.raises(BundleError, match="is for the resolution of any service too"):
        Predictor([bundle, bundle._replace(name="other")])


def test_a_table_without_a_column_is_refused_with_what_to_collect(models):
    table = sessions_of(0).drop_columns(["application.segment_bytes_mean"])
    with pytest.raises(BundleError, match="have no application.segment_bytes_mean; collect .*VideoSegments"):
        Predictor([load_bundle(models / "film")]).predict(table)


def test_ended_sessions_are_forgotten(models):
    predictor = Predictor([load_bundle(models / "film")])
    for hour in range(20):
        late = {"ts_end": np.full(192, 3_600.0 * hour), "session_id": [f"{hour}-{one // 8}" for one in range(192)]}
        predictor.predict(sessions_of(0, **late))
    assert len(predictor._slots["session"]._latest_s) <= 96


def test_drift_is_low_on_the_training_data_and_high_elsewhere(models):
    bundle = load_bundle(models / "film")
    near, far = Predictor([bundle]), Predictor([bundle])
    for step in range(8):
        table = sessions_of(step)
        assert max(near.predict(table)["drift"].to_pylist()) == 0
        tenfold = table.set_column(
            table.schema.get_field_index("application.segment_bytes_mean"), "application.segment_bytes_mean",
            pa.array(table["application.segment_bytes_mean"].to_numpy() * 10_000),
        )  # fmt: skip
        assert min(far.predict(tenfold)["drift"].to_pylist()) > 0
    assert near.drift() < 0.25 < far.drift()


def test_inference_lines_are_records_of_the_design(models):
    predictor = Predictor([load_bundle(models / "film")])
    table = sessions_of(0)
    lines = [orjson.loads(line) for line in inference_lines(predictor.predict(table)).splitlines()]
    assert len(lines) == 24
    assert lines[0].keys() == {
        "schema", "kind", "ts_start", "ts_end", "service", "client_ip", "unit", "session_id", "target", "value",
        "measured_in", "confidence", "probabilities", "quantiles", "applies", "playing", "why", "drift",
        "model",
    }  # fmt: skip
    assert (lines[0]["schema"], lines[0]["kind"], lines[0]["target"]) == (2, "inference", "resolution")
    assert lines[0]["quantiles"] is lines[0]["applies"] is lines[0]["why"] is None
    assert lines[0]["probabilities"].keys() == {"240", "480", "1080"}
    assert lines[0]["model"] == load_bundle(models / "film").label
