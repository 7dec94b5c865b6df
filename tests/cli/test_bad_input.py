"""What goes wrong around a replay: a clear line, the right exit code, complete records, and nothing written twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.naive.frames import Frame
from support.traces import SECOND, START_NS, ethernet, ip, pcap_bytes, seeded_trace, udp, write_trace

CONFIG = {
    "Sensor": "test",
    "Interval": "5s",
    "Services": [{"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": ["PacketCounters"]}],
}
WRAPPINGS = ("ethernet", "vlan")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module")
def frames():
    return seeded_trace(21, 60, WRAPPINGS)


@pytest.fixture
def trace(tmp_path, frames):
    return write_trace(tmp_path / "trace.pcap", frames)


def command(config, out, *traces, options=()):
    return [
        sys.executable,
        "-m",
        "trafficrefinery",
        "replay",
        *map(str, traces),
        "-c",
        str(config),
        "-o",
        str(out),
        *options,
    ]


def replay(config, out, *traces, options=()):
    done = subprocess.run(
        command(config, out, *traces, options=options), capture_output=True, text=True, check=False, timeout=300
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def errors(done):
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def whole_lines(path: Path) -> list[str]:
    """The lines of a file, none of which may be incomplete."""
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    for line in text.splitlines():
        json.loads(line)
    return text.splitlines()


def records(out: Path) -> list[str]:
    return whole_lines(out / "records.jsonl")


# Traces


@pytest.mark.parametrize("cut_bytes", [1, 16, 40])
def test_a_truncated_trace_has_the_records_up_to_its_end_and_tells_where_that_is(tmp_path, config, frames, cut_bytes):
    kept = frames[: len(frames) // 2]
    whole = pcap_bytes(kept)
    damaged = tmp_path / "damaged.pcap"
    damaged.write_bytes(pcap_bytes(frames)[: len(whole) + cut_bytes])
    done = replay(config, tmp_path / "out", damaged)
    assert done.returncode == 1
    (line,) = errors(done)
    assert line.startswith(f"error: {damaged}: byte {len(whole)}: ")
    assert replay(config, tmp_path / "kept", write_trace(tmp_path / "kept.pcap", kept)).returncode == 0
    assert records(tmp_path / "out") == records(tmp_path / "kept") != []


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one worker", "two"])
def test_a_damaged_trace_has_the_records_up_to_the_damage(tmp_path, config, frames, options):
    kept = frames[: len(frames) // 2]
    whole = pcap_bytes(kept)
    damaged = tmp_path / "damaged.pcap"
    damaged.write_bytes(whole + b"\xff" * 16 + pcap_bytes(frames)[len(whole) + 16 :])
    done = replay(config, tmp_path / "out", damaged, options=options)
    assert (done.returncode, len(errors(done))) == (1, 1)
    assert f"{damaged}: byte {len(whole)}: " in errors(done)[0]
    replay(config, tmp_path / "kept", write_trace(tmp_path / "kept.pcap", kept))
    assert records(tmp_path / "out") == records(tmp_path / "kept") != []


def test_damage_in_one_of_two_traces_does_not_stop_the_other(tmp_path, config, frames):
    half = len(frames) // 2
    damaged = tmp_path / "damaged.pcap"
    damaged.write_bytes(pcap_bytes(frames[:half])[:-3])
    done = replay(config, tmp_path / "out", damaged, write_trace(tmp_path / "good.pcap", frames[half:]))
    assert (done.returncode, len(errors(done))) == (1, 1)
    kept = write_trace(tmp_path / "kept.pcap", frames[: half - 1] + frames[half:])
    replay(config, tmp_path / "kept", kept)
    assert records(tmp_path / "out") == records(tmp_path / "kept")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"GIF89a" + bytes(100), "not a capture file"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "trace"),
        (b"\x1f\x8b" + bytes(100), "trace"),
        (pcap_bytes([])[:20], "ends inside the file header"),
    ],
    ids=["empty", "picture", "zstd", "gzip", "header"],
)
def test_what_is_no_trace_is_refused_before_anything_is_written(tmp_path, config, content, told):
    path = tmp_path / "trace"
    path.write_bytes(content)
    done = replay(config, tmp_path / "out", path)
    assert done.returncode == 1
    (line,) = errors(done)
    assert str(path) in line
    assert told in line
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_a_trace_that_is_not_there_is_told_in_one_line(tmp_path, config):
    done = replay(config, tmp_path / "out", tmp_path / "none.pcap")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "no such file" in errors(done)[0]


def test_a_trace_of_no_packets_has_no_records(tmp_path, config):
    done = replay(config, tmp_path / "out", write_trace(tmp_path / "none.pcap", []))
    assert done.returncode == 0
    assert records(tmp_path / "out") == []


def test_packets_of_an_unknown_link_type_are_counted(tmp_path, config):
    frames = [Frame(START_NS, bytes(60), 60, 147)] * 3
    done = replay(config, tmp_path / "out", write_trace(tmp_path / "odd.pcap", frames, 147))
    assert done.returncode == 0
    assert "3 unsupported" in done.stdout
    (interval,) = map(json.loads, whole_lines(tmp_path / "out" / "intervals.jsonl"))
    assert (interval["packets"], interval["unsupported_link_type"]) == (3, 3)


# Output


def test_an_output_directory_that_cannot_be_made_is_told_before_any_work(tmp_path, config, trace):
    (tmp_path / "file").write_text("")
    done = replay(config, tmp_path / "file" / "out", trace)
    assert done.returncode in (1, 2)
    (line,) = errors(done)
    assert str(tmp_path / "file") in line


@contextlib.contextmanager
def file_system(place, options):
    """A file system in memory at `place`."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file systems can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def unwritable(tmp_path):
    """A directory that this user may not write to: root may write to any but those of a read-only file system."""
    place = tmp_path / "unwritable"
    if os.geteuid() != 0:
        place.mkdir(mode=0o500)
        yield place
    else:
        with file_system(place, "ro"):
            yield place


def test_an_output_directory_that_cannot_be_written_to_is_told(config, trace, unwritable):
    done = replay(config, unwritable, trace)
    assert done.returncode in (1, 2)
    assert str(unwritable) in errors(done)[0]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    with file_system(tmp_path / "disk", "size=64k") as place:
        yield place


def test_a_full_disk_ends_the_replay_with_complete_lines(tmp_path, config, frames, small_disk):
    many = [frame._replace(ts_ns=frame.ts_ns + i * 100 * SECOND) for i in range(4) for frame in frames]
    trace = write_trace(tmp_path / "many.pcap", many)
    assert replay(config, tmp_path / "out", trace).returncode == 0
    full = records(tmp_path / "out")
    done = replay(config, small_disk, trace)
    assert done.returncode == 1
    (line,) = errors(done)
    assert "No space left" in line
    kept = whole_lines(small_disk / "records.jsonl.partial")
    assert 0 < len(kept) < len(full)
    assert kept == full[: len(kept)]
    assert not (small_disk / "records.jsonl").exists()


# Interrupts


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one worker", "two"])
def test_ctrl_c_leaves_complete_lines_and_the_next_run_writes_each_record_once(tmp_path, config, options):
    data = ethernet(ip("203.0.113.1", "203.0.113.2", 17, udp(1, 2, b"")))
    trace = write_trace(
        tmp_path / "long.pcap", [Frame(START_NS + i * SECOND // 10, data, len(data)) for i in range(3_000)]
    )
    out = tmp_path / "out"
    running = subprocess.Popen(
        command(config, out, trace, options=(*options, "--speed", "10")), stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    partial = out / "records.jsonl.partial"
    deadline = time.monotonic() + 200
    while not (partial.exists() and partial.stat().st_size > 0):
        assert running.poll() is None, running.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    _, stderr = running.communicate(timeout=60)
    assert running.returncode in (1, 130)
    assert "Traceback" not in stderr
    assert "interrupted" in stderr
    kept = whole_lines(partial)
    assert not (out / "records.jsonl").exists()
    done = replay(config, out, trace, options=options)
    assert (done.returncode, partial.exists()) == (0, False)
    full = records(out)
    assert 0 < len(kept) < len(full) == len(set(full))
    assert kept == full[: len(kept)]
