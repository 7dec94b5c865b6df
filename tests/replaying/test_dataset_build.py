"""Datasets from labelled traces: the same figures as a replay, complete, resumable, and clear about what is wrong."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
import zstandard

from trafficrefinery.cli.main import _run
from trafficrefinery.config import load_config
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.models.dataset.intervals import IntervalLabel, with_intervals
from trafficrefinery.models.dataset.labels import read_labels
from trafficrefinery.replaying.labelled import BuildOptions, build
from trafficrefinery.system.tasks import tasks

VIDEO = configs_dir() / "video.json"
HEAD = "file,session,video_id,resolution,site,service,startup_s\n"
EMPTY_PCAP = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")


def folder_of(tmp_path: Path, traces: dict[str, bytes], rows: list[str], head: str = HEAD) -> Path:
    folder = tmp_path / "traces"
    folder.mkdir()
    for name, content in traces.items():
        (folder / name).write_bytes(content)
    (folder / "labels.csv").write_text(head + "".join(f"{row}\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory, sample_trace):
    """Two copies of the sample and a trace without packets, built by two processes."""
    tmp_path = tmp_path_factory.mktemp("built")
    sample = sample_trace.read_bytes()
    folder = folder_of(
        tmp_path,
        {"a.pcap.zst": sample, "b.pcap.zst": sample, "empty.pcap": EMPTY_PCAP},
        ["b.pcap.zst,second,v2,720,B,Example,1.5", "a.pcap.zst,first,v1,480,,,", "empty.pcap,third,v3,240,,,"],
    )
    out = tmp_path / "out" / "data.parquet"
    with tasks(2) as side_by_side:
        result = build(load_config(VIDEO), folder, out, BuildOptions(side_by_side))
    return folder, out, result


def test_a_table_has_the_labelled_session_of_each_trace_in_the_order_of_labels(built):
    _, out, result = built
    table = pl.read_parquet(out)
    assert len(table) == result.rows > 0
    assert table["session"].unique(maintain_order=True).to_list() == ["second", "first"]
    assert table["session_id"].n_unique() == 1
    second, first = (table.filter(pl.col("session") == name) for name in ("second", "first"))
    assert second.row(0, named=True) | {} == first.row(0, named=True) | {
        "file": "b.pcap.zst", "session": "second", "video_id": "v2", "site": "B", "resolution": 720, "startup_s": 1.5,
    }  # fmt: skip
    assert first["startup_s"].null_count() == first["site"].null_count() == len(first)


def test_a_trace_without_a_session_is_told(built):
    _, _, result = built
    assert result.absent == ["empty.pcap: third: no such video session in it"]
    assert result.damaged == []


def test_the_manifest_tells_what_the_table_was_made_from(built):
    _, out, result = built
    manifest = json.loads(result.manifest.read_text())
    assert result.manifest == out.with_name("data.manifest.json")
    assert manifest["rows"] == result.rows
    assert [trace["file"] for trace in manifest["traces"]] == ["b.pcap.zst", "a.pcap.zst", "empty.pcap"]
    assert manifest["traces"][0]["sha256"] == manifest["traces"][1]["sha256"]
    assert manifest["traces"][0]["sessions"] == 7
    assert manifest["configuration"]["Services"][0]["Name"] == "Netflix"
    assert {"trafficrefinery", "numpy", "pyarrow"} <= manifest["versions"].keys()
    assert sorted(path.name for path in out.parent.iterdir()) == ["data.manifest.json", "data.parquet"]


def test_a_build_that_was_stopped_goes_on_and_gives_the_same_table(built, tmp_path, monkeypatch):
    folder, whole, _ = built
    out = tmp_path / "data.parquet"
    module = sys.modules["trafficrefinery.replaying.labelled"]  # its name in the package is that of the function
    real = module._replay_part
    done = []

    def stops(part):
        if done:
            raise KeyboardInterrupt
        done.append(part.trace)
        real(part)

    monkeypatch.setattr(module, "_replay_part", stops)
    with pytest.raises(KeyboardInterrupt):
        build(load_config(VIDEO), folder, out)
    assert not out.exists()
    monkeypatch.setattr(module, "_replay_part", real)
    result = build(load_config(VIDEO), folder, out)
    assert result.reused == 1
    assert pl.read_parquet(out).equals(pl.read_parquet(whole))


def test_a_truncated_trace_is_used_up_to_the_damage_and_told(tmp_path, sample_trace):
    content = zstandard.ZstdDecompressor().stream_reader(sample_trace.read_bytes()).read()
    folder = folder_of(tmp_path, {"cut.pcap": content[: len(content) // 2]}, ["cut.pcap,one,v1,480,,,"])
    result = build(load_config(VIDEO), folder, tmp_path / "data.parquet")
    assert result.rows
    assert len(result.damaged) == 1
    assert "cut.pcap" in result.damaged[0]


INTERVALS = "ts_start,ts_end,resolution,downloaded_resolution,stalls,stalled_s,switches,buffer_s\n"


def intervals_of(sample_trace: Path, out: Path) -> list[tuple[int, int]]:
    """Starts and ends of the intervals of the labelled session in the sample."""
    folder = folder_of(out, {"a.pcap.zst": sample_trace.read_bytes()}, ["a.pcap.zst,s,v,480,,,"])
    build(load_config(VIDEO), folder, out / "whole.parquet")
    table = pl.read_parquet(out / "whole.parquet")
    return [(int(start), int(end)) for start, end in table.select("ts_start", "ts_end").iter_rows()]


def test_a_label_file_gives_each_interval_its_own_resolution_and_none_to_those_it_does_not_name(tmp_path, sample_trace):
    times = intervals_of(sample_trace, tmp_path)
    folder = tmp_path / "traces"
    (folder / "labels.csv").write_text(
        "file,session,video_id,resolution,startup_s,session_start_s\n" + f"a.pcap.zst,s,v,,1.5,{times[0][0] + 2.25}\n"
    )
    lines = [f"{start},{end},{720 if n % 2 else 360},240,1,0.5,2,7.25\n" for n, (start, end) in enumerate(times[2:])]
    lines.append(f"{times[0][0]},{times[0][1]},,,0,0,0,0\n")
    (folder / "a.labels.csv").write_text(INTERVALS + "".join(lines))
    result = build(load_config(VIDEO), folder, tmp_path / "data.parquet")
    table = pl.read_parquet(tmp_path / "data.parquet")
    assert len(table) == len(times)
    assert table["resolution"].to_list() == [None, None, *(720 if n % 2 else 360 for n in range(len(times) - 2))]
    assert table["downloaded_resolution"].to_list() == [None, None, *[240] * (len(times) - 2)]
    assert table.select("stalls", "stalled_s", "switches", "buffer_s").row(5) == (1, 0.5, 2, 7.25)
    assert table.select("stalls", "stalled_s", "switches", "buffer_s").row(1) == (None,) * 4
    assert set(table["session_start_s"]) == {times[0][0] + 2.25}
    assert set(table["startup_s"]) == {1.5}
    assert json.loads(result.manifest.read_text())["resolutions"] == [360, 720]


def test_labels_of_another_length_are_shared_out():
    rows = [IntervalLabel(0, 10, 240, 360, 1, 2.0, 3, 7.0), IntervalLabel(10, 20, 480, None, 0, 0.0, 1, 8.0),
            IntervalLabel(20, 30, None, None, 2, 5.0, 0, 9.0)]  # fmt: skip

    def shared(interval_s: float, starts: range) -> list[tuple[object, ...]]:
        frame = pl.DataFrame({"ts_start": [float(start) for start in starts]})
        frame = frame.with_columns((pl.col("ts_start") + interval_s).alias("ts_end"))
        return with_intervals(frame, rows).drop("ts_start", "ts_end").rows()

    assert shared(10, range(0, 40, 10)) == [
        (240, 360, 1, 2.0, 3, 7.0), (480, None, 0, 0.0, 1, 8.0), (None, None, 2, 5.0, 0, 9.0), (None,) * 6,
    ]  # fmt: skip
    assert shared(5, range(0, 15, 5)) == [
        (240, 360, 1, 1.0, 3, 7.0), (240, 360, 0, 1.0, 0, 7.0), (480, None, 0, 0.0, 1, 8.0),
    ]  # fmt: skip
    assert shared(30, range(0, 30, 30)) == [(240, 360, 3, 7.0, 4, 9.0)]
    resolutions = [row[0] for row in shared(4, range(0, 24, 4))]
    assert resolutions[:2] + resolutions[3:5] == [240, 240, 480, 480]
    assert resolutions[2] in (240, 480)  # half of each
    assert resolutions[5] is None


def test_what_changes_in_a_label_file_changes_the_table(tmp_path, sample_trace):
    times = intervals_of(sample_trace, tmp_path)
    folder = tmp_path / "traces"
    (folder / "labels.csv").write_text(HEAD + "a.pcap.zst,s,v,,,,\n")
    for resolution in (240, 1080):
        rows = "".join(f"{start},{end},{resolution},,0,0,0,0\n" for start, end in times)
        (folder / "a.labels.csv").write_text(INTERVALS + rows)
        build(load_config(VIDEO), folder, tmp_path / "data.parquet")
        assert set(pl.read_parquet(tmp_path / "data.parquet")["resolution"]) == {resolution}


def test_a_label_file_of_several_clients_labels_each_with_its_own(tmp_path, sample_trace):
    folder = folder_of(tmp_path, {"a.pcap.zst": sample_trace.read_bytes()}, ["a.pcap.zst,s,v,,,,"])
    content = sample_trace.with_name("video.labels.csv").read_text()
    (folder / "a.labels.csv").write_text(content)
    build(load_config(VIDEO), folder, tmp_path / "data.parquet")
    table = pl.read_parquet(tmp_path / "data.parquet")
    rows = [line.split(",") for line in content.splitlines()[1:]]
    truth = {(client, float(start)): int(resolution) for client, start, _, resolution, *_ in rows if resolution}
    labelled = table.select("client_ip", "ts_start", "resolution").iter_rows()
    assert all(truth.get((client, start)) == resolution for client, start, resolution in labelled)
    assert table["resolution"].null_count() <= 2


def test_the_label_file_of_the_sample_says_what_its_truth_says(sample_trace):
    with sample_trace.with_name("video.labels.csv").open() as opened:
        rows = {(row["client_ip"], row["ts_start"]): row["resolution"] for row in csv.DictReader(opened)}
    for session in json.loads(sample_trace.with_name("video.truth.json").read_text())["sessions"]:
        for start, resolution in session["resolution_per_10_s"].items():
            assert rows[session["client_ip"], start] == ("" if resolution is None else str(resolution))


WRONG_INTERVALS = {
    "neither": ("", None, "labels.csv: a.pcap: resolution: is empty, and there is no label file a.labels.csv"),
    "both": ("480", "0,10,240,,0,0,0,0", "labels.csv: a.pcap: resolution: stands there, and a.labels.csv has one"),
    "columns": ("", "HEAD", "a.labels.csv: the first line must be ts_start,ts_end,resolution,"),
    "resolution": ("", "0,10,241,,0,0,0,0", 'a.labels.csv:2: resolution: "241" is not one of 144, 240'),
    "downloaded": ("", "0,10,240,x,0,0,0,0", 'a.labels.csv:2: downloaded_resolution: "x" is not one of'),
    "stalls": ("", "0,10,240,,0.5,0,0,0", 'a.labels.csv:2: stalls: "0.5" is not a number'),
    "seconds": ("", "0,10,240,,0,long,0,0", 'a.labels.csv:2: stalled_s: "long" is not a number of seconds'),
    "few values": ("", "0,10,240", "a.labels.csv:2: has not as many values"),
    "off the grid": ("", "3,13,240,,0,0,0,0", "a.labels.csv:2: 3 to 13 is not an interval: it does not start"),
    "nothing": ("", "10,10,240,,0,0,0,0", "a.labels.csv:2: 10 to 10 is not an interval"),
    "lengths": ("", "0,10,240,,0,0,0,0\n20,40,240,,0,0,0,0", "20 to 40 is not as long as the others"),
    "twice": ("", "0,10,240,,0,0,0,0\n0,10,360,,0,0,0,0", "a.labels.csv: ts_start: 0 stands there twice"),
    "none": ("", "0,10,,,0,0,0,0", "a.labels.csv: has no label"),
}


OWN = [{"name": "mood", "kind": "ordinal", "labels": ["low", "high"]}, {"name": "rate", "kind": "quantity"}]
WRONG_OWN = {
    "no name": ("file,session,label.", "a.pcap,s,x", None, r"labels.csv: label.: name: '' is not a name"),
    "dots": ("file,session,label.a.b", "a.pcap,s,x", None, "labels.csv: label.a.b: name: 'a.b' is not a name"),
    "no group": ("file,session,label.x,group.", "a.pcap,s,x,y", None, 'labels.csv: no such column "group."'),
    "no session": ("file,label.x", "a.pcap,x", None, "labels.csv: no column session; the first line must name file, "),
    "word": ("file,session,label.mood", "a.pcap,s,hihg", None, 'labels.csv:2: label.mood: "hihg" is not one of low, high'),
    "number": ("file,session,label.rate", "a.pcap,s,nan", None, 'labels.csv:2: label.rate: "nan" is not a number'),
    "twice": ("file,session,label.mood", "a.pcap,s,low", "ts_start,ts_end,label.mood\n0,10,low\n",
              "labels.csv: a.pcap: label.mood: stands there, and a.labels.csv has one for each interval"),
    "word of an interval": ("file,session,label.mood", "a.pcap,s,", "ts_start,ts_end,label.mood\n0,10,mid\n",
                            'a.labels.csv:2: label.mood: "mid" is not one of'),
    "first line": ("file,session,label.mood", "a.pcap,s,", "ts_start,label.mood\n0,low\n",
                   "a.labels.csv: the first line must be ts_start,ts_end,"),
    "empty": ("file,session,label.mood", "a.pcap,s,", "ts_start,ts_end,label.mood\n0,10,\n", "a.labels.csv: has no label"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_OWN)
def test_what_is_wrong_with_labels_of_a_target_is_one_line_and_nothing_is_written(case, tmp_path, capsys):
    head, row, intervals, message = WRONG_OWN[case]
    folder = folder_of(tmp_path, {"a.pcap": EMPTY_PCAP}, [row], f"{head}\n")
    (folder / "targets.json").write_text(json.dumps(OWN))
    if intervals is not None:
        (folder / "a.labels.csv").write_text(intervals)
    assert _run(["dataset", "build", str(folder), "-c", str(VIDEO), "-o", str(tmp_path / "data.parquet")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["traces"]


def test_labels_of_targets_are_shared_out_by_their_kind():
    rows = [IntervalLabel(0, 10, own=(("label.mood", "low"), ("label.rate", 2.0))),
            IntervalLabel(10, 20, own=(("label.mood", None), ("label.rate", 4.0)))]  # fmt: skip
    frame = pl.DataFrame({"ts_start": [0.0, 20.0], "ts_end": [20.0, 40.0]})
    found = with_intervals(frame, rows)
    assert found.columns == ["ts_start", "ts_end", "label.mood", "label.rate"]
    assert found.rows() == [(0.0, 20.0, "low", 3.0), (20.0, 40.0, None, None)]


@pytest.mark.parametrize("case", WRONG_INTERVALS)
def test_what_is_wrong_with_a_label_file_is_one_line_and_nothing_is_written(case, tmp_path, capsys):
    resolution, rows, message = WRONG_INTERVALS[case]
    folder = folder_of(tmp_path, {"a.pcap": EMPTY_PCAP}, [f"a.pcap,s,v,{resolution},,,"])
    if rows is not None:
        (folder / "a.labels.csv").write_text("ts_start,label\n" if rows == "HEAD" else f"{INTERVALS}{rows}\n")
    out = tmp_path / "new" / "data.parquet"
    assert _run(["dataset", "build", str(folder), "-c", str(VIDEO), "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.parent.exists()


WRONG = {
    "label without a trace": (["gone.pcap,s,v,480,,,"], "labels.csv: file: gone.pcap: no such trace"),
    "trace without a label": (["a.pcap,s,v,480,,,"], "b.pcap: no label"),
    "empty": ([], "labels.csv: has no label"),
    "resolution": (["a.pcap,s,v,481,,,"], 'labels.csv:2: resolution: "481" is not one of 144, 240'),
    "resolution that is none": (["a.pcap,s,v,HD,,,"], 'resolution: "HD" is not one of'),
    "no video": (["a.pcap,s,,480,,,"], "labels.csv:2: video_id: is empty"),
    "startup": (["a.pcap,s,v,480,,,soon"], 'startup_s: "soon" is not a number'),
    "too few values": (["a.pcap,s"], "not as many values"),
    "twice": (["a.pcap,s,v,480,,,", "a.pcap,t,v,480,,,"], 'file "a.pcap" stands there twice'),
    "session twice": (["a.pcap,s,v,480,,,", "b.pcap,s,v,480,,,"], 'session "s" stands there twice'),
    "service": (["a.pcap,s,v,480,,Netflux,", "b.pcap,t,v,480,,,"], 'service: "Netflux" is not a service with sessions'),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_labels_is_one_line_and_nothing_is_written(case, tmp_path, capsys):
    rows, message = WRONG[case]
    folder = folder_of(tmp_path, {"a.pcap": EMPTY_PCAP, "b.pcap": EMPTY_PCAP}, rows)
    out = tmp_path / "new" / "data.parquet"
    assert _run(["dataset", "build", str(folder), "-c", str(VIDEO), "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.parent.exists()


CLIENTS = "file,session,video_id,resolution,session_start_s,client_ip\n"


@pytest.mark.parametrize(
    "rows",
    [
        ["a.pcap,s,v,480,10,", "a.pcap,t,w,720,90,"],
        ["a.pcap,s,v,480,10,192.0.2.1", "a.pcap,t,w,720,,192.0.2.1"],
        ["a.pcap,s,v,480,10,192.0.2.1", "./a.pcap,t,w,720,10,192.0.2.1"],
        ["a.pcap,s,v,480,10,192.0.2.1", "a.pcap,t,w,720,90,"],
    ],
)
def test_labels_that_could_mean_one_session_are_refused(tmp_path, rows):
    labels = tmp_path / "labels.csv"
    labels.write_text(CLIENTS + "\n".join(rows) + "\n")
    with pytest.raises(UsageError, match="give each of its sessions a client_ip"):
        read_labels(labels)


def test_the_sessions_of_a_trace_go_to_their_labels_and_none_to_two(tmp_path, sample_trace):
    """The sample's own labels, and one more for a session that there is not."""
    folder = tmp_path / "samples"
    folder.mkdir()
    for name in ("video.pcap.zst", "video.labels.csv"):
        (folder / name).symlink_to(sample_trace.with_name(name))
    lines = sample_trace.with_name("labels.csv").read_text().splitlines()
    more = lines[1].split(",")
    more[1], more[5] = "never", str(float(more[5]) + 500)
    (folder / "labels.csv").write_text("\n".join([*lines, ",".join(more)]) + "\n")
    result = build(load_config(VIDEO), folder, tmp_path / "data.parquet")
    table = pl.read_parquet(tmp_path / "data.parquet")
    assert result.absent == ["video.pcap.zst: never: no such video session in it"]
    assert table.group_by("session").agg(pl.col("session_id").n_unique())["session_id"].to_list() == [1] * 7
    assert table["session_id"].n_unique() == 7
    late = table["session_start"] - table["session_start_s"]
    assert 0 < late.min() <= late.max() < 10


def test_a_column_that_is_missing_or_unknown_is_named(tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("file,session,resolution\n")
    with pytest.raises(UsageError, match="no column video_id"):
        read_labels(labels)
    labels.write_text("file,session,video_id,resolution,sight\n")
    with pytest.raises(UsageError, match='no such column "sight"; did you mean "site"'):
        read_labels(labels)


def test_valid_resolutions_belong_to_the_dataset(tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("file,session,video_id,resolution\na.pcap,s,v,144\n")
    assert read_labels(labels)[0].resolution == 144
    with pytest.raises(UsageError, match="not one of 240, 360"):
        read_labels(labels, (240, 360))


def test_a_configuration_without_segments_is_refused(tmp_path):
    folder = folder_of(tmp_path, {"a.pcap": EMPTY_PCAP}, ["a.pcap,s,v,480,,,"])
    with pytest.raises(UsageError, match="none collects VideoSegments"):
        build(load_config(configs_dir() / "latency.json"), folder, tmp_path / "data.parquet")


def test_a_dataset_without_any_session_is_an_error(tmp_path):
    folder = folder_of(tmp_path, {"a.pcap": EMPTY_PCAP}, ["a.pcap,s,v,480,,,"])
    out = tmp_path / "data.parquet"
    with pytest.raises(TrafficRefineryError, match="no trace has a video session"):
        build(load_config(VIDEO), folder, out)
    assert not out.exists()


def test_the_command_tells_what_it_made(tmp_path, capsys, sample_trace):
    folder = folder_of(tmp_path, {}, ["video.pcap.zst,s,v,480,,,"])
    shutil.copy(sample_trace, folder)
    out = tmp_path / "data.parquet"
    assert _run(["dataset", "build", str(folder), "-c", str(VIDEO), "-o", str(out)]) == 0
    assert "session-intervals of 1 traces" in capsys.readouterr().out
