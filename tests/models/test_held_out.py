"""Figures of what a model has not seen: groups, copies, what is left out, and what a bundle says it was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support import datasets
from support.small_models import small_models
from trafficrefinery.errors import UsageError
from trafficrefinery.models.inference.bundle import load_bundle
from trafficrefinery.models.targets import Target
from trafficrefinery.models.targets.label_columns import label_field
from trafficrefinery.models.training import TrainOptions, train
from trafficrefinery.models.training.copies import Fingerprints, originals
from trafficrefinery.models.training.dataset import read_dataset
from trafficrefinery.models.training.evaluate import evaluate
from trafficrefinery.models.training.groups import group_values
from trafficrefinery.models.training.scores import Known, classification_scores, quantity_scores
from trafficrefinery.models.units.flow_columns import UNIT

SESSION = np.repeat(np.arange(24), 8)
DAY_S = 86_400.0
QUICK = TrainOptions(compare=False)


@pytest.fixture(autouse=True)
def quick():
    with small_models():
        yield


def made(path: Path, target: Target | None = None, values=None, **given) -> Path:
    """A table with three sites, and groups of a user's own."""
    table = datasets.table(**{"site": [f"site {one % 3}" for one in SESSION]} | given)
    if target is not None:
        table = table.append_column(label_field(target), pa.array(values))
    link = pa.array([f"link {one % 4}" for one in np.resize(SESSION, len(table))])
    pq.write_table(table.append_column("group.link", link), path)
    return path


def hard(**given):
    """Sizes that say nothing of the resolution but within a session, which a model knows by heart."""
    rng = np.random.default_rng(7)
    size = np.repeat(rng.normal(1e6, 2e5, 24), 8) * rng.normal(1, 0.001, 192)
    return {"application.segment_bytes_mean": size, "application.last10_bytes_max": size * 1.5,
            "network.kbps_down": size / 400, "application.ttfb_s_mean": rng.random(192)} | given  # fmt: skip


def renamed(path: Path, out: Path, keep=slice(None), prefix="x") -> Path:
    """The same rows under other names, `keep` of them."""
    table = pq.read_table(path)
    for name in ("session", "video_id", "file", "session_id"):
        at, field = table.column_names.index(name), table.schema.field(name)
        table = table.set_column(at, field, pa.array([f"{prefix}{one}" for one in table[name].to_pylist()]))
    pq.write_table(table.take(np.arange(len(table))[keep]), out)
    return out


# Groups


def test_groups_may_be_a_column_of_the_users_the_day_and_several(tmp_path):
    start = 1_000.0 + DAY_S * (SESSION // 6)
    path = made(tmp_path / "data.parquet", ts_start=start, ts_end=start + 10)
    dataset = read_dataset(path, groups=("group.link",))
    assert len(np.unique(dataset.groups)) == 4
    assert len(np.unique(read_dataset(path, groups=("day",)).groups)) == 4
    assert len(np.unique(read_dataset(path, groups=("video_id", "day")).groups)) == 4
    assert group_values(dataset.table, "day").unique().sort().to_list()[0] == "1970-01-01"


def test_columns_that_join_everything_are_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match=r"all rows are of one group.*--leave-out"):
        train(made(tmp_path / "data.parquet"), tmp_path / "model", QUICK._replace(groups=("site", "group.link")))
    with pytest.raises(UsageError, match=r'--group: .*no column sit of groups; did you mean "site"'):
        read_dataset(tmp_path / "data.parquet", groups=("sit",))


def test_intervals_are_by_group():
    truth, shares = np.array([0, 1] * 20), np.array([[0.6, 0.4]] * 40)
    known = Known(np.arange(2), ("a", "b"), ordered=False)
    one = classification_scores(truth, shares, known, np.zeros(40, int))
    assert one["accuracy"] == 0.5
    assert one["accuracy_ci95"] is None
    assert quantity_scores(np.ones(4), np.ones((4, 3)), np.zeros(4, int))["mean_absolute_error_ci95"] is None


def test_a_card_names_the_groups_of_its_intervals_and_the_simple_rule(tmp_path):
    trained = train(made(tmp_path / "data.parquet"), tmp_path / "model", QUICK._replace(groups=("group.link",)))
    assert trained.metrics["groups"] == 4
    card = (trained.bundle / "card.md").read_text()
    assert "95 %, by group.link" in card
    assert "- a rule on application.segment_bytes_mean alone: accuracy" in card


# Warnings


def test_a_label_that_coincides_with_a_day_is_warned_of_also_within_a_site(tmp_path):
    level = pl.Series(datasets.table()["resolution"]).rank("dense").to_numpy() - 1
    start = 1_000.0 + DAY_S * level
    path = made(tmp_path / "days.parquet", ts_start=start, ts_end=start + 10)
    (line,) = [one for one in read_dataset(path).warnings if "day" in one]
    assert line.startswith("resolution coincides with day: day alone tells 100% of it")
    assert "--leave-out day" in line
    assert not read_dataset(made(tmp_path / "same.parquet")).warnings
    site = np.where(SESSION < 16, "A", "B")
    start = np.where(site == "A", start, 1_000.0)
    dataset = read_dataset(made(tmp_path / "site.parquet", ts_start=start, ts_end=start + 10, site=site))
    assert any(one.startswith("resolution coincides with day within site A") for one in dataset.warnings)


def test_a_quantity_that_coincides_with_a_group_is_warned_of(tmp_path):
    rate = Target("rate", "quantity", groups=("session",))
    path = made(tmp_path / "rate.parquet", rate, 1.0 * (SESSION % 4) + 0.01 * (SESSION % 5))
    assert any(one.startswith("rate coincides with group.link") for one in read_dataset(path, "rate").warnings)


def test_a_label_of_one_group_is_warned_of(tmp_path):
    levels = np.where(SESSION < 2, 2160, datasets.table()["resolution"].to_numpy())
    dataset = read_dataset(made(tmp_path / "data.parquet", resolution=levels))
    assert any(one.startswith("2160: all of its rows are of one group (video_id)") for one in dataset.warnings)


# Copies


def test_copies_are_never_on_both_sides_of_a_split(tmp_path):
    path = made(tmp_path / "data.parquet", **hard())
    alone = train(path, tmp_path / "alone", QUICK).metrics["accuracy"]
    both = pa.concat_tables([pq.read_table(path), pq.read_table(renamed(path, tmp_path / "again.parquet"))])
    pq.write_table(both, tmp_path / "both.parquet")
    trained = train(tmp_path / "both.parquet", tmp_path / "model", QUICK)
    assert trained.metrics["groups"] == 12
    assert trained.metrics["accuracy"] < alone + 0.15 < 0.8
    assert "24 of 48 are copies of others, such as xs0 of s0" in trained.metrics["warnings"][0]


def test_what_says_nothing_is_no_copy():
    columns = [np.array([0, 0, 0, 0, np.nan, 5], np.float32)]
    found = Fingerprints.of(columns, np.zeros(6))
    assert originals(np.array([0, 0, 1, 1, 2, 3]), found).tolist() == [0, 0, 1, 1, 2, 3]


def test_copies_are_known_after_a_table_went_through_text():
    rng = np.random.default_rng(0)
    x = rng.lognormal(5, 3, (20, 8)).astype(np.float32)
    again = np.array([[float(f"{one:.7g}") for one in row] for row in x], np.float32)
    both = Fingerprints.of(np.concatenate([x, again]).T, np.arange(40.0))
    assert set(originals(np.repeat([0, 1], 20), both)) == {0}


# What is left out


def test_each_site_is_left_out_in_turn(tmp_path):
    path = made(tmp_path / "data.parquet", groups=None)
    options = QUICK._replace(groups=("session",), leave_out=("site", "group.link=link 2"))
    found = train(path, tmp_path / "model", options).metrics["left_out"]
    assert list(found["site"]["values"]) == ["site 0", "site 1", "site 2"]
    assert list(found["group.link"]["values"]) == ["link 2"]
    one = found["site"]["values"]["site 1"]
    assert (one["rows"], one["sessions"], one["trained_rows"], one["unknown"]) == (64, 8, 128, [])
    assert found["site"]["groups"] == 3  # its interval is by site
    assert one["accuracy"] > 0.8
    assert 0 <= one["simple_rule"]["accuracy"] <= 1
    assert "## Each site left out of the training" in (tmp_path / "model" / "card.md").read_text()


def test_groups_of_what_is_left_out_are_not_trained_on_either(tmp_path):
    path = made(tmp_path / "data.parquet", site=np.where(SESSION % 2 == 0, "A", "B")[:192])
    with pytest.raises(
        UsageError, match=r"--leave-out site: .*nothing to train on.*share a group with it \(video_id\)"
    ):
        train(path, tmp_path / "model", QUICK._replace(leave_out=("site",)))
    assert not (tmp_path / "model").exists()


def test_many_values_are_left_out_some_at_a_time(tmp_path):
    options = QUICK._replace(leave_out=("session",))
    found = train(made(tmp_path / "data.parquet"), tmp_path / "model", options).metrics["left_out"]["session"]
    assert len(found["values"]) == 10
    assert (found["rows"], found["groups"]) == (192, 24)


def test_a_quantity_is_left_out_too(tmp_path):
    options = TrainOptions("startup", groups=("session",), leave_out=("site",), compare=False)
    found = train(made(tmp_path / "data.parquet"), tmp_path / "model", options).metrics["left_out"]["site"]
    assert found["values"]["site 0"]["mean_absolute_error"] < 0.5
    assert "mean_absolute_error" in found["simple_rule"]


@pytest.mark.parametrize(
    ("leave_out", "message"),
    [
        ("sit", r'--leave-out: .*no column sit of groups; did you mean "site"'),
        ("resolution", r"--leave-out: .*no column resolution of groups"),
        ("site=B1", r'--leave-out site=B1: .* has no labelled row with the site "B1"; there are site 0'),
        ("service", r"--leave-out service: .*leaves nothing to train on: all rows are of service Film"),
        ("service=Film", r"--leave-out service=Film: .*leaves nothing to train on"),
    ],
)
def test_what_cannot_be_left_out_is_an_error(tmp_path, leave_out, message):
    with pytest.raises(UsageError, match=message):
        train(made(tmp_path / "data.parquet"), tmp_path / "model", QUICK._replace(leave_out=(leave_out,)))
    assert not (tmp_path / "model").exists()


def test_what_a_model_has_not_seen_is_told_value_by_value(tmp_path):
    trained = train(made(tmp_path / "data.parquet"), tmp_path / "model", QUICK)
    other = renamed(made(tmp_path / "new.parquet", seed=5), tmp_path / "other.parquet")
    metrics = evaluate(trained.bundle, other, tmp_path / "report", leave_out=("group.link",))
    assert not metrics["out_of_fold"]
    found = metrics["left_out"]["group.link"]["values"]
    assert [(one, scores["trained_on"]) for one, scores in found.items()] == [(f"link {n}", True) for n in range(4)]


# What a model was trained on


@pytest.mark.parametrize("keep", [slice(1, None), slice(None), slice(0, 96)])
def test_what_a_model_was_trained_on_is_no_test_of_it(tmp_path, keep):
    path = made(tmp_path / "data.parquet", **hard())
    trained = train(path, tmp_path / "model", QUICK)
    table = pq.read_table(path)
    pq.write_table(table.take(np.arange(192)[keep]), tmp_path / "part.parquet", compression="none")
    for data in (tmp_path / "part.parquet", renamed(path, tmp_path / "again.parquet", keep)):
        metrics = evaluate(trained.bundle, data, tmp_path / "report")
        assert metrics["out_of_fold"]
        assert metrics["accuracy"] < 0.7
        assert metrics["set_apart"]["rows"] == metrics["rows"]


def test_rows_that_a_model_was_trained_on_are_set_apart_and_reported(tmp_path):
    path = made(tmp_path / "data.parquet", **hard())
    trained = train(path, tmp_path / "model", QUICK)
    new = renamed(made(tmp_path / "new.parquet", **hard(seed=5)), tmp_path / "other.parquet", prefix="y")
    shifted = pl.read_parquet(new).with_columns(pl.col("^application.*mean|application.*max$") * 1.37)
    shifted = shifted.cast({"resolution": pl.Int64}).to_arrow().cast(pq.read_schema(new))
    copies = pq.read_table(renamed(path, tmp_path / "copies.parquet", slice(0, 40)))
    pq.write_table(pa.concat_tables([shifted, copies]), tmp_path / "mixed.parquet")
    metrics = evaluate(trained.bundle, tmp_path / "mixed.parquet", tmp_path / "report")
    assert metrics["set_apart"] == {"rows": 40, "sessions": 5, "why": {"copies": 40}}
    assert metrics["rows"] == 192
    assert not metrics["out_of_fold"]


def test_a_bundle_keeps_hashes_only_and_is_the_same_model_without_them(tmp_path):
    trained = train(made(tmp_path / "data.parquet"), tmp_path / "model", QUICK)
    with np.load(trained.bundle / "trained_on.npz") as kept:
        assert {"unit", "rows", "timed", "column.video_id", "column.site", "column.group.link"} <= set(kept.files)
        assert "column.client_ip" not in kept.files
        assert {one.dtype for one in kept.values()} == {np.dtype(np.uint64)}
    digest = load_bundle(trained.bundle).digest
    manifest = json.loads((trained.bundle / "manifest.json").read_text())
    del manifest["files"]["trained_on.npz"]
    (trained.bundle / "trained_on.npz").unlink()
    (trained.bundle / "manifest.json").write_text(json.dumps(manifest))
    assert load_bundle(trained.bundle).digest == digest
    metrics = evaluate(trained.bundle, made(tmp_path / "other.parquet", seed=5), tmp_path / "report")
    assert metrics["set_apart"] is None


# Other units


@pytest.mark.parametrize(
    ("unit", "kind"), [("flow", "classes"), ("flow", "quantity"), ("client", "ordinal"), ("client", "classes")]
)
def test_flows_and_clients_are_held_out_in_the_same_way(tmp_path, unit, kind):
    count, rng = 240, np.random.default_rng(1)
    number = np.arange(count)
    label = number % 3
    values = {"quantity": 1.0 * label, "ordinal": [str(one) for one in label], "classes": [f"c{one}" for one in label]}
    target = Target("what", kind, unit, groups=("file",))
    columns = {
        "file": [f"{one}.pcap" for one in number // 10], "session": [None] * count, "group.day": [None] * count,
        "group.device": [f"d{one}" for one in number // 60], "ts_start": 1e9 + 10.0 * number,
        "ts_end": 1e9 + 10.0 * number + 10, "service": ["All"] * count, "client_ip": [f"10.0.0.{n}" for n in number],
        "flow_id": [f"{one:016x}" for one in number], "flow_start": 1e9 + 10.0 * number,
        "network.kbps_down": label + rng.normal(0, 0.1, count), "network.packets_down": rng.integers(1, 5, count),
    }  # fmt: skip
    table = pa.table(columns).append_column(label_field(target), pa.array(values[kind]))
    table = table.replace_schema_metadata({UNIT: unit})
    pq.write_table(table, tmp_path / "data.parquet")
    options = TrainOptions(
        "what", features="net", groups=("file", "group.day"), leave_out=("group.device",), compare=False
    )
    trained = train(tmp_path / "data.parquet", tmp_path / "model", options)
    found = trained.metrics["left_out"]["group.device"]
    assert {one["trained_rows"] for one in found["values"].values()} == {180}
    assert found.get("accuracy", 1.0) > 0.9
    assert trained.metrics["groups"] == 24
    moved = table.set_column(0, "file", pa.array([f"new {one}" for one in columns["file"]]))
    pq.write_table(moved.slice(1), tmp_path / "moved.parquet")
    assert (
        evaluate(trained.bundle, tmp_path / "moved.parquet", tmp_path / "report")["set_apart"]["why"]["copies"] == 239
    )
