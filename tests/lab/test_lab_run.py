"""The lab for real: sessions side by side over three transports, and what was captured against what was played."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import dpkt
import polars as pl
import pytest
import zstandard

from support.networks import needs_command, needs_root
from trafficrefinery.cli.main import _run
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.models.dataset.intervals import COLUMNS

PROGRAMS = {"ip": "iproute2", "tc": "iproute2", "ethtool": "ethtool", "nginx": "nginx"}
RUN = ["lab", "run", "--sessions", "3", "--parallel", "3", "--profiles", "dogwood,birch,cedar", "--duration", "16s",
       "--seed", "5", "--quiet"]  # fmt: skip
SESSIONS = ["lab-5-0000-dogwood", "lab-5-0001-birch", "lab-5-0002-cedar"]


@pytest.fixture(scope="module", autouse=True)
def _system() -> None:
    needs_root()
    for name, package in PROGRAMS.items():
        needs_command(name, package)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """A folder with a session over HTTP/1.1, one over HTTP/2, and one over HTTP/3."""
    folder = tmp_path_factory.mktemp("lab") / "sessions"
    assert _run([*RUN, "-o", str(folder)]) == 0
    return folder


def frames(trace: Path) -> list[tuple[float, bytes, int]]:
    """Time in s, what was kept, and size on the wire."""
    with trace.open("rb") as opened:
        reader = zstandard.ZstdDecompressor().stream_reader(opened)
        content = reader.read()
    found, at = [], 24
    while at < len(content):
        seconds, ns, kept, wire = (int.from_bytes(content[at + 4 * n : at + 4 * n + 4], "little") for n in range(4))
        found.append((seconds + ns / 1e9, content[at + 16 : at + 16 + kept], wire))
        at += 16 + kept
    return found


def truth_of(folder: Path, stem: str) -> dict:
    return json.loads((folder / f"{stem}.truth.json").read_text())


def test_each_session_has_a_trace_a_label_file_and_a_row(ran):
    with (ran / "labels.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert [row["file"] for row in rows] == [f"{stem}.pcap.zst" for stem in SESSIONS]
    assert [row["service"] for row in rows] == ["dogwood", "birch", "cedar"]
    for row, stem in zip(rows, SESSIONS, strict=True):
        truth = truth_of(ran, stem)
        assert row["resolution"] == ""
        assert float(row["startup_s"]) == pytest.approx(truth["startup_s"], abs=1e-3)
        assert float(row["session_start_s"]) == pytest.approx(truth["start_s"], abs=1e-3)
        lines = (ran / f"{stem}.labels.csv").read_text().splitlines()
        assert lines[0] == ",".join(COLUMNS)
        assert all(float(line.split(",")[0]) % 10 == 0 for line in lines[1:])
    assert not list(ran.glob("*.partial"))


@pytest.mark.parametrize("stem", SESSIONS)
def test_the_bytes_on_the_wire_are_those_that_were_played_and_little_more(ran, stem):
    truth, down = truth_of(ran, stem), 0
    for _, frame, wire_bytes in frames(ran / f"{stem}.pcap.zst"):
        ip = dpkt.ethernet.Ethernet(frame).data
        source = getattr(ip, "src", b"")
        if isinstance(getattr(ip, "data", None), dpkt.tcp.TCP | dpkt.udp.UDP):
            down += wire_bytes if source[:2] in (b"\xcb\x00", b"\x20\x01") and source[-1] >= 60 else 0
    played = sum(video + audio for *_, video, audio in truth["downloads"])
    assert truth["downloads"]
    # A segment that was under way when the viewer left is in the trace, too.
    *_, video, audio = max(truth["downloads"], key=lambda one: one[3])
    assert played < down < played * 1.15 + 4 * (video + audio) + 300_000


@pytest.mark.parametrize("stem", SESSIONS)
def test_no_frame_is_larger_than_the_link_allows_and_payload_is_gone(ran, stem):
    whole = frames(ran / f"{stem}.pcap.zst")
    assert max(wire for *_, wire in whole) <= 1514
    assert sum(len(frame) for _, frame, _ in whole) < 0.5 * sum(wire for *_, wire in whole)
    assert [ts for ts, *_ in whole] == sorted(ts for ts, *_ in whole)


@pytest.mark.parametrize("stem", SESSIONS)
def test_a_link_is_no_faster_than_it_was_shaped(ran, stem):
    truth, of_second = truth_of(ran, stem), defaultdict(int)
    for ts, frame, wire_bytes in frames(ran / f"{stem}.pcap.zst"):
        source = getattr(dpkt.ethernet.Ethernet(frame).data, "src", b"")
        if source[:2] == b"\xcb\x00" or source[:8] == bytes.fromhex("20010db801130000"):
            of_second[int(ts)] += wire_bytes
    fastest_kbps = max(rate for _, rate in truth["link"]["rates"])
    assert max(of_second.values()) * 8e-3 < 1.1 * fastest_kbps + 8 * 8.192


def test_a_dataset_of_the_sessions_has_their_labels(ran, tmp_path):
    out = tmp_path / "lab.parquet"
    arguments = ["dataset", "build", str(ran), "-c", str(configs_dir() / "lab.json"), "-o", str(out), "--quiet"]
    assert _run(arguments) == 0
    table = pl.read_parquet(out)
    assert set(table["service"]) == {"dogwood", "birch", "cedar"}
    assert set(table["resolution"].drop_nulls()) <= {240, 360, 480, 720, 1080}
    for stem in SESSIONS:
        rows = table.filter(pl.col("file") == f"{stem}.pcap.zst")
        with (ran / f"{stem}.labels.csv").open() as opened:
            labels = {float(row["ts_start"]): row["resolution"] for row in csv.DictReader(opened)}
        for ts_start, resolution in rows.select("ts_start", "resolution").iter_rows():
            assert labels.get(ts_start, "") == ("" if resolution is None else str(resolution))
        assert rows["resolution"].drop_nulls().len()
        # Within one interval of the true start.
        assert abs(rows["session_start"][0] - rows["session_start_s"][0]) < 10
        segments = sum(2 if stem != SESSIONS[1] else 1 for _ in truth_of(ran, stem)["downloads"])
        assert rows["application.requests"].sum() >= segments


def test_what_is_there_is_not_recorded_again(ran, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in ran.iterdir() if path.name != "plan.json"}
    (ran / "lab-5-0003-dogwood.pcap.zst.partial").write_bytes(b"half")
    assert _run([*(word for word in RUN if word != "--quiet"), "-o", str(ran)]) == 0
    assert "3 sessions, 3 of them recorded before" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in ran.iterdir() if path.name != "plan.json"} == before


def test_sessions_of_another_plan_are_refused(ran, capsys):
    assert _run([*RUN, "--duration", "20s", "-o", str(ran)]) == 2
    assert "use another folder, or the same --seed" in capsys.readouterr().err


def processes_of(session: int) -> str:
    done = subprocess.run(["ps", "-o", "pid=,args=", "-s", str(session)], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def test_an_interrupted_run_leaves_complete_sessions_and_no_process(tmp_path):
    folder = tmp_path / "sessions"
    command = [sys.executable, "-m", "trafficrefinery", *RUN, "-o", str(folder)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONSAFEPATH": "1"}, start_new_session=True)
    end_s = time.monotonic() + 120
    while not (folder / "plan.json").exists() and time.monotonic() < end_s:
        time.sleep(0.1)
    time.sleep(9)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 1
    assert not list(folder.glob("*.pcap.zst"))
    end_s = time.monotonic() + 20
    while (left := processes_of(process.pid)) and time.monotonic() < end_s:
        time.sleep(0.1)
    assert left == ""


def test_a_program_that_is_missing_is_named_with_its_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "trafficrefinery_lab.namespaces.shutil.which", lambda name, path: None if name == "nginx" else "/x"
    )
    assert _run([*RUN, "-o", str(tmp_path / "x")]) == 2
    assert "nginx: is not installed; it is in Debian's package nginx" in capsys.readouterr().err


def test_without_root_the_lab_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("trafficrefinery_lab.world.os.geteuid", lambda: 1000)
    assert _run([*RUN, "-o", str(tmp_path / "x")]) == 2
    assert "needs root; run it with sudo" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
