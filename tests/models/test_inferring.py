"""Models on the sessions of a replay, and of what was written before."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support import replay_runs as runs
from support.model_bundles import RESOLUTIONS, tamper, write_bundle
from trafficrefinery.cli.main import _run
from trafficrefinery.cli.ui.timelines import RUNS, clock, told
from trafficrefinery.config import load_config, parse_config
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.errors import ConfigError, OutputError
from trafficrefinery.models.sessions.timelines import KEPT, Run, Timeline
from trafficrefinery.models.targets import RESOLUTION
from trafficrefinery.records.inferences import IDENTITY, inference_schema
from trafficrefinery.replaying.single import ReplayOptions, replay_to_directory

VIDEO = configs_dir() / "video.json"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [write_bundle(folder, "resolution"), write_bundle(folder, "startup")]


@pytest.fixture(scope="module")
def arguments(models) -> list[str]:
    return [word for model in models for word in ("--model", str(model))]


@pytest.fixture(scope="module")
def replays(tmp_path_factory, sample_trace, models) -> dict[tuple[str, int], Path]:
    """Format and workers → directory."""
    made = {}
    for form, workers in (("jsonl", 1), ("jsonl", 2), ("parquet", 1)):
        made[form, workers] = out = tmp_path_factory.mktemp(f"{form}{workers}")
        options = ReplayOptions(workers=workers, form=form, models=tuple(models), sessions=True)
        replay_to_directory(load_config(VIDEO), [sample_trace], out, options)
    return made


@pytest.fixture(scope="module")
def expected(replays) -> list[dict]:
    return runs.lines(replays["jsonl", 1] / "inferences.jsonl")


def infer(capsys, *arguments: object) -> runs.Done:
    capsys.readouterr()
    status = _run(["infer", *map(str, arguments)])
    return runs.Done(status, *capsys.readouterr())


# Replay


def test_each_interval_of_a_session_has_one_inference(replays, expected):
    sessions = runs.lines(replays["jsonl", 1] / "sessions.jsonl")
    keys = [(one["ts_end"], one["service"], one["session_id"]) for one in expected if one["target"] == "resolution"]
    assert keys == [(one["ts_end"], one["service"], one["session_id"]) for one in sessions]
    assert keys == sorted(set(keys))
    assert {one["kind"] for one in sessions} == {"session"}


def test_the_startup_delay_is_told_once_a_session(expected):
    delays = defaultdict(list)
    for one in expected:
        delays[one["session_id"]] += [one["value"]] if one["target"] == "startup" else []
    assert {len(of_one) for of_one in delays.values()} == {1}


@pytest.mark.parametrize("name", ["records", "sessions", "inferences", "intervals"])
def test_what_is_written_does_not_depend_on_the_number_of_workers(replays, name):
    one, two = ((replays["jsonl", workers] / f"{name}.jsonl").read_text() for workers in (1, 2))
    if name == "intervals":  # tells of each worker
        one, two = ([json.loads(line)["packets"] for line in text.splitlines()] for text in (one, two))
    assert one == two


def test_models_leave_the_records_as_they_are(replays, sample_trace, tmp_path):
    replay_to_directory(load_config(VIDEO), [sample_trace], tmp_path)
    assert (tmp_path / "records.jsonl").read_bytes() == (replays["jsonl", 1] / "records.jsonl").read_bytes()
    assert not (tmp_path / "inferences.jsonl").exists()


def test_parquet_says_what_json_lines_say(replays, expected):
    table = pq.read_table(replays["parquet", 1] / "inferences.parquet")
    assert table.schema.equals(inference_schema([*map(str, RESOLUTIONS)]))
    for row, one in zip(table.to_pylist(), expected, strict=True):
        for kind in ("probabilities", "quantiles"):
            of_kind = {name: row.pop(name) for name in list(row) if name.startswith(f"{kind}.")}
            told = {name.partition(".")[2]: round(value, 4) for name, value in of_kind.items() if value is not None}
            row[kind] = told or None
        quantity = row.pop("quantity")
        assert {row.pop(name) for name in IDENTITY["flow"]} == {None}  # which only records of flows have
        assert {**row, "value": row["value"] if quantity is None else quantity} == one


def test_sessions_as_parquet_have_the_columns_of_a_dataset(replays):
    frame = pl.read_parquet(replays["parquet", 1] / "sessions.parquet")
    lines = runs.lines(replays["jsonl", 1] / "sessions.jsonl")
    assert frame["application.segment_bytes"].to_list() == [
        one["features"]["application"]["segment_bytes"] for one in lines
    ]


def test_a_configuration_names_models_relative_to_its_file(sample_trace, tmp_path, expected):
    for target in ("resolution", "startup"):
        write_bundle(tmp_path, target)
    config = tmp_path / "config.json"
    names = ["by-size-resolution", "by-size-startup"]
    config.write_text(json.dumps({**json.loads(VIDEO.read_text()), "Inference": {"Models": names}}))
    loaded = load_config(config)
    assert parse_config(loaded.to_dict(), str(config)) == loaded
    replay_to_directory(loaded, [sample_trace], tmp_path)
    assert runs.lines(tmp_path / "inferences.jsonl") == expected


def test_a_model_that_is_not_there_is_refused_with_its_key():
    with pytest.raises(ConfigError, match=r"Inference\.Models\[0\]: there is no folder .* and no bundled model"):
        parse_config({**json.loads(VIDEO.read_text()), "Inference": {"Models": ["nothing"]}})


def test_a_model_that_was_changed_is_refused_before_anything_is_written(capsys, sample_trace, tmp_path):
    bundle = write_bundle(tmp_path)
    tamper(bundle)
    done = runs.replay(capsys, sample_trace, "-c", VIDEO, "-o", tmp_path / "out", "--model", bundle)
    assert done.status == 2
    assert (
        done.err
        == f"error: {bundle / 'calibration.json'}: is not as it was written (SHA-256 differs); get the bundle again\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_configuration_without_sessions_is_refused(capsys, sample_trace, models, tmp_path):
    config = configs_dir() / "latency.json"
    done = runs.replay(capsys, sample_trace, "-c", config, "-o", tmp_path / "out", "--sessions")
    assert done.status == 2
    assert "none collects VideoSegments" in done.err
    assert not (tmp_path / "out").exists()


def test_inferences_so_far_stay_after_a_failure(sample_trace, models, tmp_path, monkeypatch, expected):
    from trafficrefinery.models.sessions.session_files import Follower

    real, seen = Follower.add, []

    def fails(self, batch):
        seen.append(batch)
        if len(seen) > 8:
            raise OutputError("no room")
        return real(self, batch)

    monkeypatch.setattr(Follower, "add", fails)
    (tmp_path / "inferences.jsonl").write_text("old\n")
    with pytest.raises(OutputError):
        replay_to_directory(load_config(VIDEO), [sample_trace], tmp_path, ReplayOptions(models=tuple(models)))
    left = runs.lines(tmp_path / "inferences.jsonl.partial")
    assert left == expected[: len(left)] != []
    assert (tmp_path / "inferences.jsonl").read_text() == "old\n"


# The summary


def test_the_summary_shows_the_resolution_over_time(capsys, sample_trace, arguments, tmp_path):
    done = runs.replay(capsys, sample_trace, "-c", VIDEO, "-o", tmp_path, *arguments)
    assert done.status == 0
    assert "session of" in done.out
    assert re.search(r"\d+p \d:\d\d-\d:\d\d", done.out)
    assert f"inferences: {tmp_path / 'inferences.jsonl'}" in done.out.replace("\n", "")


def test_a_timeline_joins_intervals_with_the_same_resolution():
    timeline = Timeline("Video", "10.0.0.1", 103.0)
    for number, resolution in enumerate(("720", "720", None, "480")):
        timeline.add("resolution", resolution, 100.0 + 10 * number, 110.0 + 10 * number)
    runs_of = timeline.runs["resolution"]
    assert runs_of == [Run("720", 0, 17), Run(None, 17, 27), Run("480", 27, 37)]
    assert told(runs_of, RESOLUTION) == "720p 0:00-0:17, ? 0:17-0:27, 480p 0:27-0:37"


def test_a_long_timeline_is_cut():
    runs_of = [Run(str(240 + number), 10.0 * number, 10.0 * number + 10) for number in range(RUNS + 1)]
    assert told(runs_of, RESOLUTION).endswith(", ...")
    assert told(runs_of, RESOLUTION).count("p ") == RUNS
    assert clock(3605) == "1:00:05"
    assert KEPT > 0


# Inference on files


@pytest.mark.parametrize("file", ["records.jsonl", "records.parquet", "sessions.jsonl", "sessions.parquet"])
@pytest.mark.parametrize("out", ["-", "out.jsonl", "out.parquet"])
def test_infer_gives_what_the_replay_gave(capsysbinary, replays, arguments, tmp_path, file, out):
    form = file.partition(".")[2]
    options = ["-c", str(VIDEO)] if file.startswith("records") else []
    options += [] if out == "-" else ["-o", str(tmp_path / out)]
    capsysbinary.readouterr()
    assert _run(["infer", str(replays[form, 1] / file), *options, *arguments]) == 0
    said = capsysbinary.readouterr().out
    found = said if out == "-" else (tmp_path / out).read_bytes()
    form = "parquet" if out == "out.parquet" else "jsonl"
    assert found == (replays[form, 1] / f"inferences.{form}").read_bytes()


def test_records_of_several_files_are_one_stream(capsysbinary, replays, arguments, tmp_path):
    import zstandard

    lines = (replays["jsonl", 1] / "records.jsonl").read_bytes().splitlines(keepends=True)
    half = len(lines) // 2
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines[:half]))
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(b"".join(lines[half:])))
    capsysbinary.readouterr()
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl.zst")]
    assert _run(["infer", *files, "-c", str(VIDEO), *arguments]) == 0
    assert capsysbinary.readouterr().out == (replays["jsonl", 1] / "inferences.jsonl").read_bytes()


def test_sessions_of_different_files_are_different_ones(capsys, replays, arguments, tmp_path, expected):
    """A dataset in any order: each row gets what the session alone would."""
    table = pq.read_table(replays["parquet", 1] / "sessions.parquet")
    twice = pa.concat_tables(
        [table.append_column("file", pa.array([name] * len(table))) for name in ("a.pcap", "b.pcap")]
    )
    mixed = pl.DataFrame(twice).sample(fraction=1.0, shuffle=True, seed=1)
    mixed.write_parquet(tmp_path / "data.parquet")
    assert infer(capsys, tmp_path / "data.parquet", "-o", tmp_path / "out.jsonl", *arguments).status == 0
    found = runs.lines(tmp_path / "out.jsonl")
    over_time = [(one["session_id"], one["ts_end"]) for one in found if one["target"] == "resolution"]
    assert over_time == mixed.select("session_id", "ts_end").rows()
    known = {(one["session_id"], one["ts_end"], one["target"]): one for one in expected}
    assert found == [known[one["session_id"], one["ts_end"], one["target"]] for one in found]


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (b"", [], "is neither Parquet nor JSON lines of records"),
        (b"no json\n", [], "is neither Parquet nor JSON lines of records"),
        (b'{"kind": "flow"}\n', [], "give the configuration that they were made with, -c CONFIG"),
        (b'{"kind": "interval"}\n', ["-c", str(VIDEO)], "has no records of flows; the kind of its records is interval"),
        (b'{"kind": "session"}\n', ["-o", "x.csv"], "--out: x.csv ends in neither .jsonl nor .parquet"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_in_a_line(capsys, tmp_path, arguments, content, options, said):
    file = tmp_path / "file.jsonl"
    file.write_bytes(content)
    done = infer(capsys, file, *options, *arguments)
    assert done.status == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_records_of_another_configuration_are_refused(capsys, replays, arguments, tmp_path):
    lines = runs.lines(replays["jsonl", 1] / "records.jsonl")
    for one in lines:
        del one["features"]["VideoSegments"]
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    done = infer(capsys, file, "-c", VIDEO, *arguments)
    assert done.status == 2
    assert f"have no VideoSegments, which {VIDEO} collects" in done.err


@pytest.mark.parametrize("name", ["records.jsonl", "records.parquet", "sessions.jsonl", "sessions.parquet"])
def test_a_session_is_drawn_from_every_file_of_a_replay(capsys, replays, arguments, tmp_path, name):
    file = replays[name.partition(".")[2], 1] / name
    config = ["-c", str(VIDEO)] if name.startswith("records") else []
    capsys.readouterr()
    assert _run(["plot", "session", str(file), *config, *arguments, "-o", str(tmp_path / "session.svg")]) == 0
    said = capsys.readouterr().out
    assert said == f"session {longest_session(replays)}: {tmp_path / 'session.svg'}\n"
    assert "<svg" in (tmp_path / "session.svg").read_text()


def longest_session(replays) -> str:
    counts = Counter(one["session_id"] for one in runs.lines(replays["jsonl", 1] / "sessions.jsonl"))
    return counts.most_common(1)[0][0]


@pytest.mark.parametrize("command", [["infer"], ["plot", "session"]])
def test_a_published_table_does_not_say_whose_a_session_was(capsys, replays, arguments, tmp_path, command, expected):
    table = pq.read_table(replays["parquet", 1] / "sessions.parquet").drop_columns(["client_ip"])
    pq.write_table(table, tmp_path / "data.parquet")
    out = tmp_path / ("out.jsonl" if command == ["infer"] else "out.svg")
    assert _run([*command, str(tmp_path / "data.parquet"), *arguments, "-o", str(out)]) == 0
    if command == ["infer"]:
        assert runs.lines(out) == [{**one, "client_ip": None} for one in expected]


@pytest.mark.parametrize("command", [["infer"], ["plot", "session"]])
@pytest.mark.parametrize("name", ["inferences.jsonl", "intervals.jsonl", "inferences.parquet"])
def test_a_file_without_flows_and_sessions_is_refused(capsys, replays, arguments, tmp_path, command, name):
    file = replays[name.partition(".")[2], 1] / name
    capsys.readouterr()
    status = _run([*command, str(file), "-c", str(VIDEO), *arguments, "-o", str(tmp_path / "out.jsonl")])
    said = capsys.readouterr().err
    assert status == 2
    assert said.startswith(f"error: {file}: ")
    assert "has no records of flows" in said or "it has no column session_start" in said


def test_a_table_without_a_column_of_the_model_is_refused(capsys, replays, arguments, tmp_path):
    table = pq.read_table(replays["parquet", 1] / "sessions.parquet").drop_columns(["application.segment_bytes"])
    pq.write_table(table, tmp_path / "data.parquet")
    done = infer(capsys, tmp_path / "data.parquet", *arguments)
    assert done.status == 2
    assert "has no column application.segment_bytes" in done.err
