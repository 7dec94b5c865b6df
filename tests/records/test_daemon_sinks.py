"""Sinks of the daemon into files and standard output: nothing is lost that was written, whatever happens."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from support import sink_cases as cases
from support.sink_cases import SECOND, inferred, interval, names_in, numbers_of, objects, opened, records_in, text_of
from trafficrefinery.errors import ConfigError, FolderError, OutputError
from trafficrefinery.records.sinks.files import parquet_schema
from trafficrefinery.records.sinks.opening import close_sinks, open_sinks
from trafficrefinery.records.sinks.standard_output import StandardOutput, StandardOutputSettings
from trafficrefinery.records.storage.recovery import recover

ON = {"Enabled": True}
FILES = {
    "jsonl": {"JSONLines": ON},
    "compressed": {"JSONLines": {**ON, "Compress": True}},
    "parquet": {"Parquet": ON},
}


@pytest.fixture(params=FILES)
def sinks(request):
    """The configuration of each kind of file."""
    return FILES[request.param]


def with_settings(sinks, **settings):
    return {key: {**value, **settings} for key, value in sinks.items()}


def settle(sink, folder: Path) -> None:
    """Wait until nothing is converted any more."""
    for _ in range(500):
        sink.tick(time.time_ns())
        if not sink.waiting_bytes:
            return
        time.sleep(0.02)
    pytest.fail(f"still waiting: {names_in(folder)}")


# Inferences, which come later than the records that they were made from


def test_inferences_have_files_of_their_own_beside_the_records(tmp_path, sinks):
    sink = opened(tmp_path, **sinks)
    for number in range(4):
        sink.write(interval(number))
        if number:
            sink.write(inferred(number - 1))
    assert sink.records_total == 4 * 3 + 3 * 3
    sink.close()
    assert [one["value"] for one in records_in(tmp_path, "inferences")] == [*"000111222"]
    assert numbers_of(records_in(tmp_path)) == [0, 1, 2, 3]
    kinds = {name.split("-")[0]: name.split("-")[1].partition("Z")[0] for name in names_in(tmp_path)}
    assert {"records", "inferences"} <= kinds.keys()
    assert len(set(kinds.values())) == 1  # one time in all names


def test_inferences_of_a_run_that_was_killed_are_recovered(tmp_path, sinks):
    sink = opened(tmp_path, **sinks)
    for number in range(3):
        sink.write(interval(number))
        sink.write(inferred(number))
    torn = next(tmp_path.glob("inferences-*"))
    with torn.open("ab") as file:
        file.write(b'{"schema": 1')
    del sink
    copy = tmp_path / "copy"  # the lock of the first is held by this process
    copy.mkdir()
    for path in tmp_path.glob("*-*"):
        path.rename(copy / path.name)
    recover(copy)
    assert [one["value"] for one in records_in(copy, "inferences")] == [*"000111222"]
    assert numbers_of(records_in(copy)) == [0, 1, 2]


# Files


def test_json_lines_are_complete_when_the_sink_is_closed(tmp_path):
    sink = opened(tmp_path, JSONLines=ON)
    for number in range(3):
        sink.write(interval(number))
    assert all(name.endswith(".partial") for name in names_in(tmp_path))
    sink.close()
    intervals, records = names_in(tmp_path)
    assert re.fullmatch(r"records-\d{8}T\d{6}\.\d{6}Z\.jsonl", records)
    assert intervals == records.replace("records", "intervals")
    assert numbers_of(objects((tmp_path / records).read_bytes())) == [0, 1, 2]
    assert [summary["number"] for summary in objects((tmp_path / intervals).read_bytes())] == [0, 1, 2]
    assert (sink.name, sink.records_total, sink.dropped_total, sink.failing) == ("jsonl", 9, 0, False)


def test_compressed_json_lines_have_a_frame_for_each_interval(tmp_path):
    sink = opened(tmp_path, JSONLines={**ON, "Compress": True})
    for number in range(3):
        sink.write(interval(number))
    sink.close()
    _, records = names_in(tmp_path)
    assert records.endswith(".jsonl.zst")
    assert (tmp_path / records).read_bytes().count(b"\x28\xb5\x2f\xfd") == 3
    assert numbers_of(records_in(tmp_path)) == [0, 1, 2]


def test_parquet_has_the_columns_of_the_plan_and_says_what_json_lines_say(tmp_path):
    running = open_sinks(cases.config_of(JSONLines=ON, Parquet=ON), cases.place(tmp_path))
    assert [sink.name for sink in running] == ["jsonl", "parquet"]
    for number in range(3):
        for sink in running:
            sink.write(interval(number))
    close_sinks(running)
    (path,) = tmp_path.glob("*.parquet")
    table = pq.read_table(path)
    assert table.schema.equals(parquet_schema(cases.plan()))
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    (lines,) = tmp_path.glob("records-*.jsonl")
    for row, record in zip(table.to_pylist(), objects(lines.read_bytes()), strict=True):
        for name, fields in record.pop("features").items():
            record |= {f"{name}.{key}": value for key, value in fields.items()}
        assert row == record


def test_a_file_is_rotated_by_time_by_size_and_on_request(tmp_path, sinks):
    sink = opened(tmp_path, **with_settings(sinks, RotateAfter="1h", RotateSize="1MiB"))
    start_ns = time.time_ns()
    sink.write(interval(0))
    sink.tick(start_ns + 3599 * SECOND)
    assert not records_in(tmp_path)
    sink.tick(start_ns + 3601 * SECOND)
    settle(sink, tmp_path)
    assert numbers_of(records_in(tmp_path)) == [0]
    sink.write(interval(1))
    sink.rotate()
    settle(sink, tmp_path)
    assert numbers_of(records_in(tmp_path)) == [0, 1]
    sink.close()
    sink = opened(tmp_path, **with_settings(sinks, RotateSize="1B"))
    for number in (2, 3):
        sink.write(interval(number))
    settle(sink, tmp_path)
    assert numbers_of(records_in(tmp_path)) == [0, 1, 2, 3]
    assert len(list(tmp_path.glob("records-*"))) == 4
    sink.close()


def test_rotating_what_has_no_record_makes_no_file(tmp_path, sinks):
    sink = opened(tmp_path, **sinks)
    sink.rotate()
    sink.write(cases.Interval(0, [], []))
    sink.rotate()
    sink.tick(time.time_ns() + 10**18)
    sink.close()
    assert names_in(tmp_path) == []


def test_a_clock_that_is_set_back_does_not_keep_a_file_open(tmp_path):
    sink = opened(tmp_path, JSONLines={**ON, "RotateAfter": "1h"})
    now_ns = time.time_ns()
    sink.write(interval(0))
    sink.tick(now_ns - 10**6 * SECOND)
    sink.tick(now_ns - 10**6 * SECOND + 3601 * SECOND)
    assert numbers_of(records_in(tmp_path)) == [0]
    sink.close()


def test_a_file_that_is_there_is_never_replaced(tmp_path):
    sink = opened(tmp_path, JSONLines=ON)
    sink.write(interval(0))
    (partial,) = tmp_path.glob("records-*")
    foreign = partial.with_name(partial.name.removesuffix(".partial"))
    foreign.write_text("mine\n")
    sink.close()
    assert foreign.read_text() == "mine\n"
    (other,) = set(tmp_path.glob("records-*")) - {foreign}
    assert numbers_of(objects(other.read_bytes())) == [0]


def test_names_sort_by_time_also_within_a_microsecond(tmp_path):
    sink = opened(tmp_path, JSONLines={**ON, "RotateSize": "1B"})
    for number in range(20):
        sink.write(interval(number))
    sink.close()
    assert numbers_of(records_in(tmp_path)) == list(range(20))


# Retention


def old_files(folder: Path, count: int = 5) -> list[str]:
    """Pairs of complete files of 100 bytes each, the last one written a minute ago, the others an hour apart."""
    names = []
    for age in range(count):
        for kind in ("records", "intervals"):
            path = folder / f"{kind}-202601{20 - age:02}T000000.000000Z.jsonl"
            path.write_bytes(b"x" * 100)
            written_s = time.time() - 60 - 3600 * age
            os.utime(path, (written_s, written_s))
            names.append(path.name)
    return names


def test_complete_files_are_kept_for_a_time(tmp_path):
    names = old_files(tmp_path)
    sink = opened(tmp_path, JSONLines={**ON, "KeepFor": "2h"})
    sink.tick(time.time_ns())
    assert names_in(tmp_path) == sorted(names[:4])
    sink.close()


def test_the_oldest_files_are_removed_beyond_a_total_size(tmp_path):
    names = old_files(tmp_path)
    sink = opened(tmp_path, JSONLines={**ON, "KeepSize": "450B"})
    sink.tick(time.time_ns())
    assert names_in(tmp_path) == sorted(names[:4])
    sink.close()


def test_by_default_a_disk_is_not_filled(tmp_path, monkeypatch, caplog):
    names = old_files(tmp_path)
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk._replace(total=1200 if folder == tmp_path else 0))
    caplog.set_level(logging.INFO)
    sink = opened(tmp_path, JSONLines=ON)
    sink.tick(time.time_ns())
    assert names_in(tmp_path) == sorted(names[:4])  # 400 of 1,000 bytes are within 40 % of 1,200
    assert f"6 old files removed from {tmp_path}" in caplog.text
    sink.close()


def test_all_files_are_kept_where_the_configuration_says_so(tmp_path):
    names = old_files(tmp_path)
    sink = opened(tmp_path, JSONLines={**ON, "KeepSize": "0B"})
    sink.tick(time.time_ns())
    assert names_in(tmp_path) == sorted(names)
    sink.close()


def test_only_complete_files_of_the_sink_itself_are_removed(tmp_path):
    foreign = [
        "records.jsonl", "intervals.jsonl", "records-old.jsonl", "notes.txt", "records-20260101T000000.000000Z.parquet",
        "records-20260101T000000.000000Z.jsonl.partial", "predictions-20260101T000000.000000Z.jsonl",
    ]  # fmt: skip
    for name in foreign:
        (tmp_path / name).write_text("x\n")
        os.utime(tmp_path / name, (1, 1))
    sink = opened(tmp_path, JSONLines={**ON, "KeepFor": "1s", "KeepSize": "1B"})
    sink.tick(time.time_ns())
    sink.close()
    assert names_in(tmp_path) == sorted(foreign)


# Recovery


def abandoned(folder: Path, sinks, count: int) -> Path:
    """A file of some intervals, as a killed daemon leaves it, in a folder of its own."""
    folder.mkdir()
    sink = opened(folder, **sinks)
    for number in range(count):
        sink.write(interval(number))
    (path,) = (path for path in folder.glob("records-*"))
    data = path.read_bytes()
    sink.close()
    for left in folder.glob("*-*"):
        left.unlink()
    path.write_bytes(data)
    return path


def test_what_a_killed_run_left_is_recovered_wherever_it_was_cut(tmp_path, sinks):
    path = abandoned(tmp_path / "out", sinks, 4)
    data = path.read_bytes()
    ends = []
    for count in range(5):
        step = abandoned(tmp_path / f"{count}", sinks, count) if count else None
        ends.append(len(step.read_bytes()) if step else 0)
    for end in sorted({0, 1, *ends, *(e + 1 for e in ends), *(e - 1 for e in ends[1:]), *range(0, len(data), 97)}):
        for old in (tmp_path / "out").glob("records-*"):
            old.unlink()
        path.write_bytes(data[:end])
        lines = recover(tmp_path / "out")
        assert len(lines) == 1
        assert str(path) in lines[0]
        assert "\n" not in lines[0]
        found = records_in(tmp_path / "out")
        whole = sum(e <= end for e in ends) - 1
        assert [int(record["flow_start"]) for record in found[: 3 * whole]] == [n for n in range(whole) for _ in "abc"]
        if "JSONLines" in sinks and "Compress" not in sinks["JSONLines"]:
            assert len(found) == data[:end].count(b"\n")
        else:
            assert len(found) == 3 * whole
        assert not [name for name in names_in(tmp_path / "out") if name.endswith((".partial", ".spool"))]
        assert recover(tmp_path / "out") == []


@pytest.mark.parametrize(
    "garbage",
    [b"\0" * 10_000, b"\0" * 300 + b'{"a":1}\n', random.Random(1).randbytes(5000)],
    ids=["zeros", "zeros and a line", "noise"],
)
def test_what_power_loss_leaves_behind_whole_intervals_is_cut_off(tmp_path, sinks, garbage):
    path = abandoned(tmp_path / "out", sinks, 3)
    if "JSONLines" in sinks and "Compress" not in sinks["JSONLines"]:
        garbage = garbage.replace(b"\n", b"\0") if garbage[0] else garbage
        garbage = b"\0" + garbage
    with path.open("ab") as file:
        file.write(garbage)
    (line,) = recover(tmp_path / "out")
    assert f"{len(garbage)} bytes" in line
    assert numbers_of(records_in(tmp_path / "out")) == [0, 1, 2]


def test_a_file_that_cannot_be_recovered_does_not_stop_the_start(tmp_path):
    for name in ("jsonl.partial", "jsonl.zst.partial", "parquet.spool", "parquet.partial"):
        (tmp_path / f"records-20260101T000000.000000Z.{name}").write_bytes(os.urandom(1000).replace(b"\n", b"n"))
    (tmp_path / "records-20260102T000000.000000Z.jsonl.partial").mkdir()
    lines = recover(tmp_path)
    assert len(lines) == 5
    assert sum("removed" in line for line in lines) == 4
    assert "left as it is" in lines[-1]
    opened(tmp_path, JSONLines=ON).close()


def test_a_spool_that_was_converted_before_the_kill_is_not_converted_again(tmp_path):
    path = abandoned(tmp_path / "out", FILES["parquet"], 2)
    data = path.read_bytes()
    recover(tmp_path / "out")
    path.write_bytes(data)
    assert "converted already" in recover(tmp_path / "out")[0]
    assert numbers_of(records_in(tmp_path / "out")) == [0, 1]


def test_a_conversion_in_progress_at_the_kill_is_done_anew(tmp_path):
    path = abandoned(tmp_path / "out", FILES["parquet"], 2)
    (tmp_path / "out" / path.name.replace(".spool", ".partial")).write_bytes(b"PAR1")
    recover(tmp_path / "out")
    assert numbers_of(records_in(tmp_path / "out")) == [0, 1]
    assert len(names_in(tmp_path / "out")) == 1


@pytest.mark.parametrize("compress", [False, True])
def test_every_interval_that_was_acknowledged_survives_kill_9(tmp_path, compress):
    settings = {**ON, "RotateSize": "20KiB"}
    sinks = {"JSONLines": {**settings, "Compress": compress}, "Parquet": settings}
    acknowledged = set()
    for turn in range(3):
        (tmp_path / "next").write_text(str(turn * 1_000_000))
        daemon = cases.start_daemon(tmp_path, sinks)
        told = daemon.stdout.readline()
        time.sleep(0.3 + 0.17 * turn)
        daemon.kill()
        told += daemon.stdout.read()
        daemon.wait()
        daemon.stdout.close()
        acknowledged |= {int(line) for line in told.splitlines(keepends=True) if line.endswith(b"\n")}
    recover(tmp_path)
    assert len(acknowledged) > 10
    json_lines = [objects(text_of(path)) for path in tmp_path.glob("records-*.jsonl*")]
    tables = [pq.read_table(path).to_pylist() for path in tmp_path.glob("records-*.parquet")]
    for files in (json_lines, tables):
        assert len(files) >= 3
        found = [(int(record["flow_start"]), record["flow_id"]) for records in files for record in records]
        assert len(found) == len(set(found))
        assert {(number, f"{flow:016x}") for number in acknowledged for flow in range(3)} <= set(found)
        assert len({number for number, _ in found} - acknowledged) <= 3  # those in progress


# Another daemon, and folders that are no good


def test_a_folder_has_one_daemon_at_a_time(tmp_path, sinks):
    first = opened(tmp_path, **sinks)
    first.write(interval(0))
    for again in (lambda: opened(tmp_path, **sinks), lambda: recover(tmp_path)):
        with pytest.raises(FolderError, match=rf"{tmp_path}: another daemon \(pid {os.getpid()}\)") as raised:
            again()
        assert isinstance(raised.value, OutputError)
        assert raised.value.exit_code == 2
    first.close()
    opened(tmp_path, **sinks).close()
    assert numbers_of(records_in(tmp_path)) == [0]


def test_a_killed_daemon_does_not_keep_the_folder(tmp_path):
    (tmp_path / "next").write_text("0")
    daemon = cases.start_daemon(tmp_path, {"JSONLines": ON})
    daemon.stdout.readline()
    with pytest.raises(FolderError, match=f"pid {daemon.pid}"):
        recover(tmp_path)
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    assert recover(tmp_path)


def test_a_folder_that_is_no_good_is_told_in_one_line(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for folder, words in ((tmp_path / "none", "no such folder"), (file, "is a file")):
        with pytest.raises(FolderError, match=f"{folder}: .*{words}.*OutFolder") as raised:
            opened(folder, JSONLines=ON)
        assert "\n" not in str(raised.value)


def test_a_folder_that_is_read_only_is_told(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for again in (lambda: opened(small_disk, JSONLines=ON), lambda: recover(small_disk)):
        with pytest.raises(
            FolderError, match=f"{small_disk}: cannot be written to: Read-only file system; see OutFolder"
        ):
            again()


def test_without_sinks_into_files_the_folder_is_not_looked_at(tmp_path):
    assert open_sinks(cases.config_of(), cases.place(tmp_path / "none")) == []


# A full disk


def test_a_full_disk_stops_writing_counts_and_resumes(small_disk, sinks):
    sink = opened(small_disk, **sinks)
    written, dropped = [], []
    sink.write(interval(0))
    ballast = cases.fill(small_disk)
    for number in range(1, 60):
        before = sink.dropped_total
        sink.write(interval(number))
        (dropped if sink.dropped_total > before else written).append(number)
        if dropped:
            assert sink.failing
            assert sink.dropped_total == 3 * len(dropped)
        sink.tick(time.time_ns())
        if len(dropped) == 5:
            break
    assert len(dropped) == 5
    ballast.unlink()
    for number in range(100, 103):
        sink.write(interval(number))
        assert not sink.failing
    sink.close()
    assert numbers_of(records_in(small_disk)) == [0, *written, 100, 101, 102]
    assert sink.records_total == 3 * (len(written) + 4)


def test_a_disk_that_is_full_at_rotation_completes_the_file_later(small_disk):
    sink = opened(small_disk, Parquet=ON)
    sink.write(interval(0))
    ballast = cases.fill(small_disk)
    sink.rotate()
    now_ns = time.time_ns()
    for _ in range(200):
        sink.tick(now_ns)
        if sink.failing:
            break
        time.sleep(0.02)
    assert sink.failing
    assert sink.waiting_bytes > 0
    ballast.unlink()
    sink.tick(now_ns + 11 * SECOND)
    for _ in range(200):
        sink.tick(now_ns + 11 * SECOND)
        if not sink.waiting_bytes:
            break
        time.sleep(0.02)
    assert not sink.failing
    sink.close()
    assert numbers_of(records_in(small_disk)) == [0]


def test_a_folder_that_went_away_is_counted_and_not_raised(tmp_path, sinks):
    folder = tmp_path / "out"
    folder.mkdir()
    sink = opened(folder, **sinks)
    moved = folder.rename(tmp_path / "moved")
    sink.write(interval(0))
    assert (sink.dropped_total, sink.failing) == (3, True)
    sink.tick(time.time_ns())
    moved.rename(folder)
    sink.write(interval(1))
    assert (sink.records_total, sink.failing) == (3, False)
    sink.close()
    assert numbers_of(records_in(folder)) == [1]


# Standard output


def wait_until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen within five seconds")


def test_standard_output_has_the_records_and_then_the_summaries():
    reading, writing = os.pipe()
    sink = StandardOutput(StandardOutputSettings(), cases.place(Path()), writing)
    for number in range(3):
        sink.write(interval(number))
    sink.close()
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        lines = objects(file.read())
    assert numbers_of(line for line in lines if line["kind"] == "flow") == [0, 1, 2]
    assert [line["number"] for line in lines if line["kind"] == "interval"] == [0, 1, 2]
    assert (sink.records_total, sink.dropped_total, sink.waiting_bytes) == (9, 0, 0)


def test_a_closed_pipe_is_counted_and_not_raised():
    reading, writing = os.pipe()
    sink = StandardOutput(StandardOutputSettings(), cases.place(Path()), writing)
    os.close(reading)
    sink.write(interval(0))
    wait_until(lambda: sink.dropped_total == 3)
    assert sink.failing
    sink.close()
    os.close(writing)


def test_a_reader_that_does_not_read_holds_up_nothing_and_gets_whole_intervals_later():
    reading, writing = os.pipe()
    sink = StandardOutput(StandardOutputSettings(), cases.place(Path()), writing, max_waiting_bytes=1 << 20)
    for number in range(2000):
        sink.write(interval(number))
    assert sink.dropped_total > 0
    assert sink.failing
    assert sink.waiting_bytes <= 1 << 20
    with os.fdopen(reading, "rb") as file, ThreadPoolExecutor(1) as reader:
        all_of_it = reader.submit(file.read)
        sink.close()  # waits for what is left
        os.close(writing)
        found = all_of_it.result()
    numbers = numbers_of(line for line in objects(found) if line["kind"] == "flow")
    assert 3 * len(numbers) == sink.records_total == 6000 - sink.dropped_total
    assert not sink.failing


def test_closing_does_not_wait_for_ever_for_a_reader():
    reading, writing = os.pipe()
    sink = StandardOutput(StandardOutputSettings(), cases.place(Path()), writing)
    sink.write(interval(0, flows=2000))
    sink.close()
    assert sink.dropped_total == 2000
    os.close(reading)  # the thread ends
    sink._thread.join(5)
    os.close(writing)
    assert sink.dropped_total == 2000


# Configuration


def test_a_credentials_file_that_is_missing_is_told_by_its_key(tmp_path):
    nats = {**ON, "CredentialsFile": str(tmp_path / "none.creds")}
    with pytest.raises(ConfigError, match=r"Sinks\.NATS\.CredentialsFile: .*none\.creds"):
        opened(tmp_path, NATS=nats)


def test_nats_without_its_library_names_the_key_and_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("trafficrefinery.records.sinks.jetstream.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"Sinks\.NATS\.Enabled: .*install the extra nats"):
        opened(tmp_path, NATS=ON)
