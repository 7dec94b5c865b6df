"""A user's own targets, one of each kind, from label columns to the daemon, by the commands alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from support.daemon_runs import Daemon, lines_in
from support.replay_runs import lines
from support.small_models import small_models
from support.traces import thinned
from trafficrefinery.cli.main import _run
from trafficrefinery.config.paths import configs_dir

VIDEO = configs_dir() / "video.json"
TARGETS = [
    {"name": "comfort", "kind": "ordinal", "labels": ["poor", "fair", "good"], "groups": ["group.link"]},
    {"name": "buffer", "kind": "quantity", "measured_in": "s", "least": 0, "groups": ["file"]},
]
NAMES = ("screen", "comfort", "buffer")
LISTEN = "127.0.0.1:9473"


def comfort(resolution: str) -> str:
    return "" if not resolution else "poor" if int(resolution) < 480 else "fair" if int(resolution) < 1080 else "good"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sample_trace) -> Path:
    """The sample, thrice and never the same: `label.screen` is of whole sessions, the others are of each interval."""
    made = tmp_path_factory.mktemp("own") / "traces"
    made.mkdir()
    (made / "targets.json").write_text(json.dumps(TARGETS))
    with sample_trace.with_name("labels.csv").open(newline="") as opened:
        sessions = list(csv.DictReader(opened))
    with sample_trace.with_name("video.labels.csv").open(newline="") as opened:
        intervals = list(csv.DictReader(opened))
    with (made / "labels.csv").open("w") as labels:
        labels.write("file,session,client_ip,session_start_s,label.screen,group.link\n")
        for copy in "abc":
            thinned(sample_trace, made / f"{copy}.pcap", ord(copy) % 32 + 20)
            for number, one in enumerate(sessions):
                screen = "TV, large" if number % 2 else "phone"
                who = f"{one['client_ip']},{one['session_start_s']}"
                labels.write(f'{copy}.pcap,{copy}{number},{who},"{screen}",{copy}\n')
            with (made / f"{copy}.labels.csv").open("w") as opened:
                opened.write("client_ip,ts_start,ts_end,label.comfort,label.buffer\n")
                for one in intervals:
                    shown = f"{comfort(one['resolution'])},{one['buffer_s']}"
                    opened.write(f"{one['client_ip']},{one['ts_start']},{one['ts_end']},{shown}\n")
    return made


@pytest.fixture(scope="module")
def data(folder) -> Path:
    out = folder.parent / "data.parquet"
    assert _run(["dataset", "build", str(folder), "-c", str(VIDEO), "-o", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def models(folder, data) -> list[Path]:
    with small_models():
        for name in NAMES:
            command = ["train", str(data), "-o", str(folder.parent / name), "--target", name, "--no-compare"]
            assert _run([*command, *(["--group", "file"] if name == "screen" else [])]) == 0
    return [folder.parent / name for name in NAMES]


@pytest.fixture(scope="module")
def expected(folder, models, sample_trace) -> list[dict[str, Any]]:
    out = folder.parent / "replay"
    options = [word for model in models for word in ("--model", str(model))]
    assert _run(["replay", str(sample_trace), "-c", str(VIDEO), "-o", str(out), "--sessions", *options]) == 0
    return lines(out / "inferences.jsonl")


def test_a_table_has_the_labels_of_each_kind(data):
    table = pl.read_parquet(data)
    assert table["label.screen"].unique().sort().to_list() == ["TV, large", "phone"]
    assert table.group_by("session").agg(pl.col("label.screen").n_unique())["label.screen"].unique().to_list() == [1]
    assert set(table["label.comfort"].drop_nulls()) <= {"poor", "fair", "good"}
    assert table["label.buffer"].dtype == pl.Float64
    assert table["group.link"].unique().sort().to_list() == ["a", "b", "c"]
    assert table["resolution"].null_count() == table["stalls"].null_count() == len(table)  # nothing of video
    manifest = json.loads(data.with_suffix(".manifest.json").read_text())
    assert [one["name"] for one in manifest["targets"]] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_evaluated_with_the_words_of_its_target(capsys, folder, data, models, name):
    out = folder.parent / f"report-{name}"
    capsys.readouterr()
    assert _run(["evaluate", str(folder.parent / name), str(data), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    page = (out / "report.html").read_text()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["out_of_fold"] if name != "buffer" else metrics["mean_absolute_error"] >= 0
    for word in {"screen": ("TV, large", "macro-F1"), "comfort": ("fair", "mean level error"), "buffer": (" s ",)}[
        name
    ]:
        assert word in page
        assert word in said


def test_a_replay_answers_each_target_for_each_interval(folder, expected):
    sessions = lines(folder.parent / "replay" / "sessions.jsonl")
    assert len(expected) == len(NAMES) * len(sessions)
    assert [one["target"] for one in expected[:6]] == [*NAMES] * 2
    assert {one["why"] for one in expected} == {None, "not playing"}
    for one in expected:
        if one["why"] == "not playing":
            assert (one["playing"], one["value"], one["probabilities"], one["quantiles"]) == (False, None, None, None)
        elif one["target"] == "buffer":
            assert one["value"] == pytest.approx(one["quantiles"]["0.5"], abs=1e-3)
            assert (one["measured_in"], one["probabilities"], one["confidence"]) == ("s", None, None)
        else:
            known = ["TV, large", "phone"] if one["target"] == "screen" else ["poor", "fair", "good"]
            assert list(one["probabilities"]) == known
            assert one["value"] in known if one["why"] is None else one["value"] is None
    assert {one["model"].partition("@")[0] for one in expected} == set(NAMES)


def test_infer_gives_what_the_replay_gave(folder, models, expected):
    options = [word for model in models for word in ("--model", str(model))]
    for file, config in (("sessions.jsonl", []), ("records.jsonl", ["-c", str(VIDEO)])):
        out = folder.parent / f"again-{file}"
        assert _run(["infer", str(folder.parent / "replay" / file), *config, *options, "-o", str(out)]) == 0
        assert lines(out) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_session_is_drawn_with_the_answers_of_a_target(folder, data, models, name):
    out = folder.parent / f"session-{name}.html"
    assert _run(["plot", "session", str(data), "--model", str(folder.parent / name), "-o", str(out)]) == 0
    assert f"{name}, true" in out.read_text()


def test_an_exploration_deploys_a_model_of_the_target(capsys, folder, data):
    out = folder.parent / "explored"
    options = ["--trials", "2", "--no-compare", "--whole-classes", "--quiet", "--target"]
    assert _run(["explore", str(data), "-o", str(out), *options, "screen", "--group", "file"]) == 0
    manifest = json.loads((out / "deploy" / "model" / "manifest.json").read_text())
    assert manifest["target"] == {"name": "screen", "kind": "classes"}
    capsys.readouterr()
    assert _run(["explore", str(data), "-o", str(folder.parent / "no"), *options, "buffer"]) == 2
    assert "--target: buffer is a quantity" in capsys.readouterr().err


def test_the_daemon_answers_what_the_replay_does(tmp_path, sample_trace, models, expected):
    config = {**json.loads(VIDEO.read_text()), "Inference": {"Models": list(map(str, models))}, "Sensor": "test",
              "Capture": {"Workers": 1}, "Metrics": {"Listen": LISTEN}}  # fmt: skip
    daemon = Daemon(tmp_path, config, None, "--file", sample_trace, "--speed", 8)
    try:
        daemon.start()
        daemon.wait_until(lambda: daemon.metrics().get("inferred_quantity{Example}"), "no quantity is shown")
        assert 'target="screen",value="TV, large"' in daemon.get("/metrics")
        path = "/api/v1/inferences?limit=1"
        (answer,) = daemon.wait_until(lambda: json.loads(daemon.get(path))["items"], "no query is answered")
        assert answer in expected
        assert daemon.wait() == 0
        assert list(lines_in(daemon.out, "inferences")) == expected
    finally:
        daemon.end()
