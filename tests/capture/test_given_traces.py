"""Traces in directories are told by their content, taken in the order of time, each once; what is left out is named."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest
import zstandard

from support import replay_runs as runs
from support import traces
from support.naive.frames import Frame
from trafficrefinery.capture.traces.discovery import each_once, is_named_as_trace, pieces
from trafficrefinery.errors import UsageError
from trafficrefinery.records.summary import FILE
from trafficrefinery.replaying.batch import find_traces

DAY_NS = 86_400 * 10**9


def moved(seed: int, days: int) -> list[Frame]:
    return [frame._replace(ts_ns=frame.ts_ns + days * DAY_NS) for frame in runs.frames(seed=seed, size=10)]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Traces with all kinds of names, and what is no trace."""
    made = tmp_path / "traces"
    (made / "deep" / "er").mkdir(parents=True)
    write = traces.write_trace
    write(made / "cap.pcap", moved(1, 4))
    write(made / "cap.pcap1", moved(2, 3))
    write(made / "deep" / "x.pcap.3", moved(3, 2))
    write(made / "deep" / "er" / "noname", moved(4, 1))
    packed = write(tmp_path / "packed", moved(5, 0)).read_bytes()
    (made / "z.gz").write_bytes(gzip.compress(packed))
    (made / "y.pcap.zst").write_bytes(zstandard.compress(write(tmp_path / "packed", moved(6, 5)).read_bytes()))
    (made / "labels.csv").write_text("file,session\n")
    (made / "empty").write_text("")
    (made / ".hidden.pcap").write_bytes(packed)
    (made / "now.pcap.part").write_bytes(packed)
    (made / ".git").mkdir()
    (made / ".git" / "a.pcap").write_bytes(packed)
    os.mkfifo(made / "pipe")
    (made / "broken").symlink_to("nowhere")
    return made


def test_traces_are_told_by_their_content_in_the_order_of_time(folder):
    names, left_out = find_traces([str(folder)])
    assert list(names.values()) == ["z.gz", "deep/er/noname", "deep/x.pcap.3", "cap.pcap1", "cap.pcap", "y.pcap.zst"]
    why = {os.path.relpath(one.file, folder): one.why for one in left_out}
    assert set(why) == {"labels.csv", "empty", ".hidden.pcap", "now.pcap.part", ".git", "pipe", "broken"}
    assert "not a capture file: it starts with" in why["labels.csv"]
    assert why["empty"].startswith("is empty")
    assert why["pipe"] == "not a regular file"
    assert why["broken"] == "a broken link"


def test_what_has_the_name_of_a_trace_and_is_none_is_not_left_out(folder):
    (folder / "bad.pcap").write_text("this is no trace")
    assert list(find_traces([str(folder)]).names.values())[-1] == "bad.pcap"


def test_results_are_not_taken_for_traces(folder):
    shutil.copytree(folder / "deep", folder / "out")
    names, left_out = find_traces([str(folder)], [folder / "out"])
    assert not [name for name in names.values() if name.startswith("out")]
    assert (str(folder / "out"), "is where results are written") in [tuple(one) for one in left_out]


def test_a_file_is_taken_once_however_often_it_is_named(folder, monkeypatch):
    (folder / "link").symlink_to("cap.pcap")
    os.link(folder / "cap.pcap", folder / "zhard")
    names, left_out = find_traces([str(folder)])
    assert len(names) == 6
    assert sum("is the same file as" in one.why for one in left_out) == 2
    monkeypatch.chdir(folder)
    kept, twice = each_once(["cap.pcap", "./cap.pcap", "deep/../cap.pcap", "link", "zhard", "cap.pcap1", "-", "-"])
    assert kept == ["cap.pcap", "cap.pcap1", "-", "-"]
    assert [one.file for one in twice] == ["./cap.pcap", "deep/../cap.pcap", "link", "zhard"]


def test_a_copy_is_another_file(folder):
    shutil.copy(folder / "cap.pcap", folder / "copy.pcap")
    assert each_once([str(folder / "cap.pcap"), str(folder / "copy.pcap")])[1] == []


def test_no_result_lies_in_another(folder, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(folder / "cap.pcap", tmp_path / "other" / "deep")
    with pytest.raises(UsageError, match="deep: two traces have this name"):
        find_traces([str(folder), str(tmp_path / "other")])


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("a.pcap", True), ("a.PCAP.gz", True), ("a.pcap1", True), ("a.pcap.12", True), ("a.pcapng", True), ("a.cap.3.zst", True),
     ("a.csv", False), ("pcap", False), ("a.pcap.txt", False)],
)  # fmt: skip
def test_names_of_traces(name, is_one):
    assert is_named_as_trace(Path(name)) == is_one


def test_pieces_of_a_capture_are_told_by_their_names():
    names = [
        "a.pcap",
        "a.pcap1",
        "a.pcap.2",
        "b.pcap",
        "d_00001_20240101000000.pcapng",
        "d_00002_20240101000500.pcapng",
    ]
    assert pieces(names) == {"a.pcap": names[:3], "d": names[4:]}


def test_a_directory_ends_with_what_was_left_out_and_with_pieces(capsys, folder, tmp_path):
    out = tmp_path / "out"
    config = runs.configuration(tmp_path)
    done = runs.replay(capsys, folder, "-c", config, "-o", out)
    assert (done.status, done.err) == (0, "")
    summary = json.loads((out / FILE).read_bytes())
    assert (summary["kind"], summary["complete"]) == ("summaries", True)
    assert [trace["name"] for trace in summary["traces"]][:2] == ["z.gz", "deep/er/noname"]
    assert len(summary["left_out"]) == 7
    found = {finding["name"]: finding for finding in summary["findings"]}
    assert found["left_out"]["count"] == 7
    assert found["pieces"]["items"] == [f"{folder}/cap.pcap*"]
    said = " ".join(done.out.split())
    assert "7 files were left out: " in said
    assert "1 capture in pieces" in said
    for trace in summary["traces"]:
        assert json.loads((out / trace["name"] / FILE).read_bytes())["kind"] == "summary"
    again = runs.replay(capsys, folder, "-c", config, "-o", out)
    assert "7 files were left out: " in " ".join(again.out.split())


def test_a_trace_that_is_named_twice_is_read_once_with_a_warning(capsys, folder, tmp_path):
    config = runs.configuration(tmp_path)
    runs.replay(capsys, folder / "cap.pcap", "-c", config, "-o", tmp_path / "one")
    (folder / "link").symlink_to("cap.pcap")
    done = runs.replay(capsys, folder / "cap.pcap", folder / "link", "-c", config, "-o", tmp_path / "two")
    assert (done.status, done.err) == (0, "")
    assert "warning: 1 file was named again, and read once: " in " ".join(done.out.split())
    for name in ("records.jsonl", "intervals.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
