"""`trafficrefinery replay` as a new user meets it: what it says, what it refuses, how it ends."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gzip
import itertools
import json
import os
import pty
import random
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

from support import replay_runs as runs
from support import traces
from support.naive.frames import Frame
from trafficrefinery.errors import TrafficRefineryError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="module")
def config(folder) -> Path:
    return runs.configuration(folder)


@pytest.fixture(scope="module")
def trace(folder) -> Path:
    return traces.write_trace(folder / "trace.pcap", runs.frames())


@pytest.fixture(scope="module", autouse=True)
def expected(folder, trace, config) -> bytes:
    """The records of the trace; from then on all is compiled."""
    out = folder / "expected"
    done = runs.end(runs.start(trace, "-c", config, "-o", out, "--write-pcap", out))
    assert done.status == 0, done.err
    return (out / "records.jsonl").read_bytes()


def one_error(done: runs.Done, status: int) -> str:
    """The message of the one line on standard error."""
    assert done.status == status, done
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


# What it says


def test_help_has_an_example(capsys):
    done = runs.replay(capsys, "--help")
    assert done.status == 0
    assert "Example: trafficrefinery replay monday.pcap.zst -c configs/video.json" in done.out
    assert "--write-pcap" in done.out


def test_the_summary_tells_of_each_service_what_its_records_say(capsys, tmp_path, trace, config):
    done = runs.replay(capsys, trace, "-c", config, "-o", tmp_path)
    assert (done.status, done.err) == (0, "")
    records = runs.lines(tmp_path / "records.jsonl")
    for service in {record["service"] for record in records}:
        mine = [record for record in records if record["service"] == service]
        counts = [record["features"]["PacketCounters"] for record in mine]
        packets = sum(c["packets_up"] + c["packets_down"] for c in counts)
        octets = sum(c["bytes_up"] + c["bytes_down"] for c in counts)
        flows = len({record["flow_id"] for record in mine})
        (row,) = re.findall(rf"^ *{service} .*$", done.out, re.MULTILINE)
        assert re.split(r"  +", row.strip())[2:] == [
            f"{flows:,}", f"{packets:,}", f"{octets:,}", "–", f"{len(mine):,}",
        ]  # fmt: skip
    frames = runs.frames()
    assert f"{len(frames):,} packets (" in done.out
    assert "packets/s in the packet path" in done.out
    assert f"records: {tmp_path / 'records.jsonl'}\n" in done.out


def test_quiet_says_nothing(capsys, tmp_path, trace, config):
    assert runs.replay(capsys, trace, "-c", config, "-o", tmp_path, "--quiet") == (0, "", "")
    assert (tmp_path / "records.jsonl").stat().st_size


def test_what_comes_through_a_pipe_has_no_colours_and_no_progress(folder, trace, config):
    done = runs.end(runs.start(trace, "-c", config, "-o", folder / "piped", env={**os.environ, "FORCE_COLOR": ""}))
    assert (done.status, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert all(len(line) <= 120 for line in done.out.splitlines())


def test_a_new_feature_class_is_said_to_be_compiled_once(tmp_path, trace):
    (tmp_path / "fresh.py").write_text(FRESH.replace("4711", str(time.time_ns())))
    config = tmp_path / "fresh.json"
    service = {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["Fresh"]}
    config.write_text(json.dumps({"FeaturePaths": ["fresh.py"], "Services": [service]}))
    arguments = trace, "-c", config, "-o", tmp_path / "out"
    first, second = (runs.end(runs.start(*arguments, "--workers", workers)) for workers in (2, 1))
    assert first.status == second.status == 0, first.err
    assert first.err == "compiling feature classes (first run only)...\n"
    assert second.err == ""
    assert "compiled in" not in second.out


FRESH = """
from typing import NamedTuple
from trafficrefinery.api import FeatureClass, Packet, int64


class FreshOutput(NamedTuple):
    packets: int


class Fresh(FeatureClass):
    packets: int64

    def add_packet(self, pkt: Packet) -> None:
        self.packets += 4711

    def collect_features(self, interval_s: float) -> FreshOutput:
        return FreshOutput(packets=self.packets)
"""


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_progress_moves_and_the_summary_fits(folder, trace, config, columns):
    shown = on_a_terminal(columns, trace, "-c", config, "-o", folder / "shown", "--speed", "30")
    progress = re.findall(r"replaying .*?\d+%  ([\d,]+) packets, [\d,]+ packets/s", shown)
    packets = [int(count.replace(",", "")) for count in progress]
    assert len(set(packets)) > 5
    assert packets == sorted(packets)
    summary = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown).replace("\r", "\n").splitlines()
    summary = summary[next(i for i, line in enumerate(summary) if "identified by" in line) :]
    assert all(len(line) <= columns for line in summary if "records:" not in line)
    assert any(line.split()[:1] == ["Video"] for line in summary)


def on_a_terminal(columns: int, *arguments: object) -> str:
    """All that a terminal of that width got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    command = [sys.executable, "-m", "trafficrefinery", "replay", *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm-256color"}
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        environment.pop(name, None)
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    got = b""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if select.select([ours], [], [], 1)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                break
            got += piece
    os.close(ours)
    assert process.wait(10) == 0, got
    return got.decode()


# What it reads


@pytest.mark.parametrize("suffix", [".pcap", ".pcap.gz", ".pcap.zst"])
@pytest.mark.parametrize("way", ["file", "standard input", "fifo"])
def test_a_trace_may_be_compressed_and_may_come_through_a_pipe(
    capsys, monkeypatch, tmp_path, trace, config, expected, suffix, way
):
    data = {".pcap": bytes, ".pcap.gz": gzip.compress, ".pcap.zst": zstandard.compress}[suffix](trace.read_bytes())
    path = tmp_path / f"copy{suffix}"
    if way == "fifo":
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=[data], daemon=True).start()
    else:
        path.write_bytes(data)
    with contextlib.ExitStack() as stack:
        if way == "standard input":
            monkeypatch.setattr(sys, "stdin", stack.enter_context(path.open()))
            path = "-"
        done = runs.replay(capsys, path, "-c", config, "-o", tmp_path / "out")
    assert (done.status, done.err) == (0, "")
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == expected


@pytest.mark.parametrize("option", [("--workers", "2"), ("--write-pcap", "somewhere")])
@pytest.mark.parametrize("kind", ["-", "fifo"])
def test_what_reads_a_trace_twice_takes_no_pipe(capsys, tmp_path, config, option, kind):
    path = "-"
    if kind == "fifo":
        path = tmp_path / "fifo"
        os.mkfifo(path)
    done = runs.replay(capsys, path, "-c", config, "-o", tmp_path / "out", *option)
    assert f"{option[0]}: " in (message := one_error(done, 2))
    assert "a pipe can be read only once; give a file" in message
    assert not (tmp_path / "out").exists()


def test_two_halves_of_a_trace_give_the_records_of_the_whole(capsys, tmp_path, config, expected):
    frames = runs.frames()
    parts = [frames[: len(frames) // 2], frames[len(frames) // 2 :]]
    paths = [traces.write_trace(tmp_path / f"{i}.pcap", part) for i, part in enumerate(parts)]
    done = runs.replay(capsys, *paths, "-c", config, "-o", tmp_path / "out")
    assert done.status == 0, done.err
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == expected


def test_a_paced_replay_takes_its_time_and_gives_the_same_records(capsys, tmp_path, trace, config, expected):
    stamps = [frame.ts_ns for frame in runs.frames()]
    started = time.monotonic()
    done = runs.replay(capsys, trace, "-c", config, "-o", tmp_path, "--speed", "40")
    assert done.status == 0, done.err
    assert time.monotonic() - started >= (max(stamps) - stamps[0]) / 1e9 / 40
    assert (tmp_path / "records.jsonl").read_bytes() == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_intervals_may_begin_with_the_first_packet(capsys, tmp_path, trace, config, workers):
    done = runs.replay(capsys, trace, "-c", config, "-o", tmp_path, "--align", "first-packet", "--workers", workers)
    assert done.status == 0, done.err
    first_ns = runs.frames()[0].ts_ns
    for record in runs.lines(tmp_path / "records.jsonl"):
        start_ns = round(record["ts_start"] * 1e9 / 1000) * 1000  # a float64 of seconds holds microseconds
        length_ns = round((record["ts_end"] - record["ts_start"]) * 1e9)
        assert abs((start_ns - first_ns + length_ns // 2) % length_ns - length_ns // 2) <= 1000
    assert first_ns % 5_000_000_000  # else this says nothing


# What it refuses


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pcap", None, "no such file"),
        ("empty.pcap", b"", "is empty"),
        ("config.pcap", b'{"Services": []}', "not a capture file: it starts with 7b 22 53 65"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_no_trace_is_refused_before_anything_is_written(
    capsys, tmp_path, config, name, content, message, workers
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = runs.replay(capsys, path, "-c", config, "-o", tmp_path / "out", "--workers", workers)
    assert message in one_error(done, 1)
    assert not (tmp_path / "out").exists()


def test_an_unknown_feature_class_is_refused_before_anything_is_written(capsys, tmp_path, trace):
    path = tmp_path / "wrong.json"
    service = {"Name": "A", "Filter": {"Prefixes": ["10.0.0.0/8"]}, "Collect": ["PacketCounter"]}
    path.write_text(json.dumps({"Services": [service]}))
    done = runs.replay(capsys, trace, "-c", path, "-o", tmp_path / "out")
    assert 'Services[0].Collect[0]: no feature class "PacketCounter"; did you mean "PacketCounters"?' in one_error(
        done, 2
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["-o", "--write-pcap"])
@pytest.mark.parametrize(("place", "message"), [("", "is a file; name a directory"), ("/below", "Not a directory")])
def test_a_directory_that_cannot_be_written_to_is_one_error(capsys, tmp_path, trace, config, option, place, message):
    file = tmp_path / "file"
    file.write_text("mine")
    places = {"-o": tmp_path / "out", option: f"{file}{place}"}
    done = runs.replay(capsys, trace, "-c", config, *(word for pair in places.items() for word in pair))
    assert message in one_error(done, 1)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_trace_without_packets_gives_empty_files(capsys, tmp_path, config, workers):
    path = traces.write_trace(tmp_path / "none.pcap", [])
    out = tmp_path / "out"
    done = runs.replay(capsys, path, "-c", config, "-o", out, "--write-pcap", out, "--workers", workers)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("no packets\n")
    written = {file.name: file.read_bytes() for file in out.iterdir() if file.name != "summary.json"}
    assert written == {"records.jsonl": b"", "intervals.jsonl": b""}


# How it ends


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_trace_is_told_once_and_processed_up_to_the_damage(capsys, tmp_path, config, workers):
    frames = runs.frames()
    whole = traces.write_trace(tmp_path / "whole.pcap", frames[:-1])
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(traces.pcap_bytes(frames)[:-1])
    assert runs.replay(capsys, whole, "-c", config, "-o", tmp_path / "a").status == 0
    done = runs.replay(capsys, cut, "-c", config, "-o", tmp_path / "b", "--workers", workers)
    assert re.search(rf"cut\.pcap: byte {whole.stat().st_size}: .*cut off", one_error(done, 1))
    assert f"{len(frames) - 1:,} packets (" in done.out
    assert (tmp_path / "b" / "records.jsonl").read_bytes() == (tmp_path / "a" / "records.jsonl").read_bytes()


def long_trace() -> list[Frame]:
    """A minute of eight flows, 13 MB: more than is read at once."""
    frames = []
    for i in range(9_000):
        data = traces.ethernet(traces.ip("10.0.0.1", "198.51.100.7", 17, traces.udp(2_000 + i % 8, 3478, bytes(1_400))))
        frames.append(Frame(traces.START_NS + i * traces.SECOND // 150, data, len(data)))
    return frames


@pytest.mark.parametrize(("suffix", "workers"), [(".pcap", 1), (".pcap", 2), (".pcap.gz", 2), (".pcap.zst", 1)])
def test_a_trace_that_is_cut_while_it_is_replayed_is_an_error_and_what_came_before_is_written(
    capsys, tmp_path, config, workers, suffix
):
    if suffix != ".pcap":  # compressed it is as long only when the bytes are random
        r = random.Random(1)
        frames = [frame._replace(data=frame.data[:42] + r.randbytes(1_400)) for frame in long_trace()]
    else:
        frames = long_trace()
    path, out = traces.write_trace(tmp_path / f"cut{suffix}", frames), tmp_path / "out"
    stored_bytes = path.stat().st_size
    process = runs.start(path, "-c", config, "-o", out, "--speed", "10", "--workers", workers)
    runs.wait_for_content(out / "records.jsonl.partial", process)
    os.truncate(path, 1_000)
    done = runs.end(process)
    assert done.status == 1, done.err
    found = re.search(
        r": byte (\d+): the file was cut while it was read, from (\d+) to (\d+) bytes; ", one_error(done, 1)
    )
    assert found, done.err
    position, before_bytes, now_bytes = map(int, found.groups())
    assert (before_bytes, now_bytes) == (stored_bytes, 1_000)
    count = sum(end <= position for end in itertools.accumulate((16 + len(frame.data) for frame in frames), initial=24))
    assert 1_000 < count - 1 < len(frames)
    assert f"{count - 1:,} packets (" in done.out
    whole = traces.write_trace(tmp_path / "whole.pcap", frames[: count - 1])
    assert runs.replay(capsys, whole, "-c", config, "-o", tmp_path / "whole").status == 0
    assert (out / "records.jsonl").read_bytes() == (tmp_path / "whole" / "records.jsonl").read_bytes()


def test_a_trace_that_grows_while_it_is_replayed_is_read_as_long_as_it_was(tmp_path, config):
    frames = long_trace()
    path, out = traces.write_trace(tmp_path / "growing.pcap", frames), tmp_path / "out"
    process = runs.start(path, "-c", config, "-o", out, "--speed", "30", "--workers", "2")
    runs.wait_for_content(out / "records.jsonl.partial", process)
    with path.open("ab") as file:
        file.write(traces.pcap_bytes(frames)[24:-7])
    done = runs.end(process)
    assert (done.status, done.err) == (0, "")
    assert f"{len(frames):,} packets (" in done.out


def test_each_of_several_damaged_traces_is_told(capsys, tmp_path, config):
    data = traces.pcap_bytes(runs.frames())
    paths = [tmp_path / "one.pcap", tmp_path / "two.pcap"]
    for path, missing in zip(paths, (1, 2), strict=True):
        path.write_bytes(data[:-missing])
    done = runs.replay(capsys, *paths, "-c", config, "-o", tmp_path / "out", "--quiet")
    assert done.status == 1
    assert [line.split(": ")[1] for line in done.err.splitlines()] == [str(path) for path in paths]


@pytest.mark.parametrize(("sign", "workers"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 2)])
def test_an_interrupt_leaves_complete_lines_and_says_where(tmp_path, trace, config, expected, workers, sign):
    out = tmp_path / "out"
    process = runs.start(trace, "-c", config, "-o", out, "--speed", "10", "--workers", workers)
    partial = out / "records.jsonl.partial"
    runs.wait_for_content(partial, process)
    if sign == signal.SIGINT:
        os.killpg(process.pid, sign)  # as a terminal does: to the workers too
    else:
        process.send_signal(sign)
    assert one_error(runs.end(process), 1) == f"interrupted; the records so far are in {partial}"
    assert runs.lines(partial)
    assert expected.startswith(partial.read_bytes())
    assert not (out / "records.jsonl").exists()


def test_a_worker_that_is_killed_is_named(tmp_path, trace, config):
    out = tmp_path / "out"
    process = runs.start(trace, "-c", config, "-o", out, "--speed", "10", "--workers", "2")
    runs.wait_for_content(out / "records.jsonl.partial", process)
    os.kill(workers_of(process.pid)[1], signal.SIGKILL)
    message = one_error(runs.end(process), 1)
    assert message.startswith("worker 1 was killed by SIGKILL; was there memory enough?; the records so far are in ")
    assert runs.lines(out / "records.jsonl.partial")


def workers_of(parent: int) -> list[int]:
    """Process ids of the workers, in the order in which they were started."""
    found = []
    for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        try:
            state = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
            command = (Path("/proc") / str(pid) / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if int(state[1]) == parent and b"spawn_main" in command:
            found.append(pid)
    return found


def replay_with_files_up_to(size_bytes: int, *arguments: object) -> runs.Done:
    """A replay for which a disk is full, in a process of its own: the limit holds for every file of a process."""
    limit = functools.partial(
        resource.setrlimit, resource.RLIMIT_FSIZE, (size_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )
    return runs.end(runs.start(*arguments, preexec_fn=limit))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_full_disk_is_one_error_and_leaves_complete_lines(capsys, tmp_path, config, form):
    trace = traces.write_trace(tmp_path / "trace.pcap", runs.frames(size=240))  # records are by far the larger file
    assert runs.replay(capsys, trace, "-c", config, "-o", tmp_path / "whole").status == 0
    expected = (tmp_path / "whole" / "records.jsonl").read_bytes()
    intervals_bytes = (tmp_path / "whole" / "intervals.jsonl").stat().st_size
    assert intervals_bytes < len(expected) / 3
    size_bytes = len(expected) // 3 if form == "jsonl" else intervals_bytes + 1
    done = replay_with_files_up_to(size_bytes, trace, "-c", config, "-o", tmp_path, "--format", form)
    message = one_error(done, 1)
    assert f"records.{form}: cannot be written: File too large" in message
    partial = tmp_path / f"records.{form}.partial"
    assert message.endswith(f"; the records so far are in {partial}")
    if form == "jsonl":
        assert runs.lines(partial)
        assert expected.startswith(partial.read_bytes())
    else:
        ids = [record["flow_id"] for record in map(json.loads, expected.splitlines())]
        kept = pq.read_table(partial)["flow_id"].to_pylist()
        assert kept == ids[: len(kept)] != []
    assert not (tmp_path / f"records.{form}").exists()


def test_when_traces_cannot_be_written_the_records_are_complete(tmp_path, trace, config, expected):
    out, traces_dir = tmp_path / "out", tmp_path / "traces"
    most = max(len(expected), trace.stat().st_size // 5)
    done = replay_with_files_up_to(most, trace, "-c", config, "-o", out, "--write-pcap", traces_dir)
    assert one_error(done, 1).endswith(f"; the records are complete, in {out}")
    assert (out / "records.jsonl").read_bytes() == expected
    assert all(path.suffix == ".pcap" for path in traces_dir.iterdir())


def test_an_exception_in_a_worker_is_one_line_and_keeps_its_traceback():
    from multiprocessing import Pipe

    from trafficrefinery.engine.worker import Settings
    from trafficrefinery.replaying import workers as parallel

    ours, theirs = Pipe()
    parallel._work(theirs, None, ([], []), Settings(number=3), None)
    kind, worker, text, trace = ours.recv()
    assert (kind, worker) == ("bug", 3)
    assert text.startswith("AttributeError: ")
    assert text.endswith(" (worker 3)")
    assert "\n" not in text
    assert "Traceback" in trace


def test_an_error_of_a_worker_has_its_exit_status_here(folder, config):
    from multiprocessing import Pipe

    from trafficrefinery.config import load_config
    from trafficrefinery.engine.plan import Plan
    from trafficrefinery.engine.worker import Settings
    from trafficrefinery.records.aggregate import Aggregator
    from trafficrefinery.replaying import workers as parallel
    from trafficrefinery.replaying.job import Job, Result

    plan = Plan.of(load_config(config))
    ours, theirs = Pipe()
    theirs.send(("error", 0, "x.py:3: does not compile", 2, "Traceback ..."))
    reception = parallel._Reception(Job(plan, (), Settings()), None, Result(Aggregator(plan, 1)), [ours], [])
    with pytest.raises(TrafficRefineryError, match="^x.py:3: does not compile$") as caught:
        list(reception.batches())
    assert caught.value.exit_code == 2
    assert "Traceback ..." in str(caught.value.__cause__)
