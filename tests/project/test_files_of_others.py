"""Files that somebody else made: no waiting for a pipe, and no more memory than the size of the file explains."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from support.model_bundles import write_bundle
from support.naive.old_pickles import frame_pickle
from trafficrefinery.cli import main as cli
from trafficrefinery.cli.ui.timelines import read_truth
from trafficrefinery.config import load_config
from trafficrefinery.errors import ConfigError, UsageError
from trafficrefinery.models.dataset.intervals import read_intervals
from trafficrefinery.models.dataset.labels import read_labels
from trafficrefinery.models.inference.arrays import read_arrays, zip_names
from trafficrefinery.models.inference.bundle import BundleError, load_bundle
from trafficrefinery.models.training.dataset import read_dataset
from trafficrefinery.records.reading import is_parquet, read_table, whole_lines
from trafficrefinery.system import files
from trafficrefinery.system.files import available_bytes, memory_limit, read_bytes, read_given, read_json
from trafficrefinery_lab.published.unpickling import read_frame

MIB = 1 << 20


@pytest.fixture(autouse=True)
def in_time_and_memory():
    """What waits or takes gigabytes fails, and does not take the machine down."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000, "KiB"


# Pipes


READERS = {
    "configuration": load_config,
    "labels": read_labels,
    "labels of intervals": lambda path: read_intervals(path, (720,)),
    "truth": read_truth,
    "pickle": read_frame,
    "dataset": read_dataset,
    "records": lambda path: list(whole_lines(path)),
    "kind of records": is_parquet,
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("made", ["pipe", "device"])
def test_a_pipe_or_device_in_place_of_a_file_is_one_error_at_once(tmp_path, kind, made):
    path = tmp_path / "pipe.parquet"
    if made == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises((ConfigError, UsageError)) as caught:
        READERS[kind](path)
    assert "cannot be read: not a regular file" in str(caught.value)
    assert str(path) in str(caught.value)


TEXTS = {
    "configuration": '{"Services": [{"Name": "a", "Filter": {"Prefixes": ["192.0.2.0/24"]}, "Collect": ["PacketCounters"]}]}',
    "truth": "client_ip,ts_start,ts_end,resolution\n192.0.2.1,0,10,720\n",
    "labels of intervals": "ts_start,ts_end,resolution,downloaded_resolution,stalls,stalled_s,switches,buffer_s\n"
    "0,10,720,720,0,0,0,5\n",
}


@pytest.fixture
def piped():
    """The path of a pipe, as `<(command)` of a shell is one, that a thread writes to."""
    ends, writers = [], []

    def make(write):
        reading, writing = os.pipe()
        ends.append(reading)
        writer = threading.Thread(target=write, args=(writing,))
        writer.start()
        writers.append(writer)
        return Path(f"/dev/fd/{reading}")

    yield make
    for end in ends:
        os.close(end)
    for writer in writers:
        writer.join()


def write_slowly(text, wait_s):
    """What writes half of a text, waits, and writes the rest."""

    def write(descriptor):
        with os.fdopen(descriptor, "wb", buffering=0) as pipe:
            for part in (text[: len(text) // 2], text[len(text) // 2 :]):
                time.sleep(wait_s)
                pipe.write(part.encode())

    return write


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("wait_s", [0, 1.5])
def test_what_is_written_to_a_pipe_is_read(tmp_path, piped, kind, wait_s):
    path = tmp_path / "text"
    path.write_text(TEXTS[kind])
    found, wanted = READERS[kind](piped(write_slowly(TEXTS[kind], wait_s))), READERS[kind](path)
    if kind == "configuration":
        found, wanted = found.to_dict(), wanted.to_dict()
    assert found == wanted


def test_a_named_pipe_is_read_when_its_writer_waits_for_a_reader(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"x" * 300_000,))
    writer.start()
    assert read_given(path) == b"x" * 300_000
    writer.join()


def test_a_pipe_is_read_to_a_limit_only(piped):
    def write(descriptor):
        with os.fdopen(descriptor, "wb", buffering=0) as pipe, contextlib.suppress(BrokenPipeError):
            pipe.write(bytes(2 * MIB))

    path = piped(write)
    with pytest.raises(OSError, match="larger than 1 MiB") as caught:
        read_given(path, MIB)
    assert caught.value.filename == str(path)
    os.read(int(path.name), 2 * MIB)  # so that the writer ends


def test_a_pipe_with_a_writer_that_writes_nothing_is_an_error(piped, monkeypatch):
    monkeypatch.setattr(files, "_SILENCE_S", 0.2)
    end = threading.Event()

    def write(descriptor):
        end.wait()
        os.close(descriptor)

    with pytest.raises(ConfigError, match="not a regular file, and nothing came through the pipe for 0 s"):
        load_config(piped(write))
    end.set()


def test_a_pipe_whose_writer_ended_without_a_byte_is_an_error(piped):
    with pytest.raises(ConfigError, match=r"not a regular file, and nobody writes to the pipe|not JSON"):
        load_config(piped(os.close))


def test_paths_in_a_configuration_from_a_pipe_are_relative_to_the_working_directory(piped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TEXTS["configuration"][:-1] + ', "OutFolder": "records"}'
    assert load_config(piped(write_slowly(text, 0))).out_folder.absolute() == tmp_path / "records"


@pytest.mark.parametrize("name", ["manifest.json", "model.npz", "schema.json", "selftest.npz", "card.md"])
def test_a_pipe_in_a_bundle_is_one_error_at_once(tmp_path, name):
    bundle = write_bundle(tmp_path)
    (bundle / name).unlink(missing_ok=True)
    os.mkfifo(bundle / name)
    with pytest.raises(BundleError, match=rf"{name}: cannot be read: not a regular file"):
        load_bundle(bundle)


def test_the_command_line_does_not_wait_either(tmp_path, capsys):
    os.mkfifo(tmp_path / "c.json")
    with pytest.raises(SystemExit) as caught:
        cli.main(["config", "check", str(tmp_path / "c.json")])
    assert caught.value.code == 2
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path}/c.json: cannot be read: not a regular file, and nobody writes to the pipe\n"
    )


def test_a_trace_may_be_a_pipe(tmp_path):
    """As the standard input may."""
    os.mkfifo(tmp_path / "trace.pcap")
    script = "import sys; from trafficrefinery.capture.traces.reader import TraceReader\nfor _ in TraceReader([sys.argv[1]]): pass"
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path / "trace.pcap"])
    head = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65_535, 1)
    (tmp_path / "trace.pcap").write_bytes(head)
    assert process.wait(60) == 0


# Sizes


def test_text_is_read_up_to_a_limit(tmp_path):
    path = tmp_path / "labels.csv"
    with path.open("wb") as opened:
        opened.truncate(1 << 40)
    for reader in (read_labels, read_truth, load_config):
        with pytest.raises((UsageError, ConfigError), match=r"cannot be read: larger than 64 MiB"):
            reader(path)
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_bytes(path, MIB)
    with pytest.raises(OSError, match="larger than 16 MiB"):
        read_json(path)


def test_json_that_is_nested_deeply_is_no_traceback(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 1_000_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(path)
    bundle = write_bundle(tmp_path)
    (bundle / "manifest.json").write_text("[" * 1_000_000)
    with pytest.raises(BundleError, match=r"manifest.json: is not the manifest of a bundle: is nested too deeply"):
        load_bundle(bundle)


def signed(bundle):
    """With the digests of what is in it."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(bundle.iterdir())
        if path.name != "manifest.json"
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def npy(shape, dtype="<f4", data=b""):
    """A file of NumPy that says more than it holds."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue() + data


def with_member(path, content, name="bins.npy", **options):
    with zipfile.ZipFile(path) as packed:
        members = {one: packed.read(one) for one in packed.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for one, data in {**members, name: content}.items():
            packed.writestr(one, data, **(options if one == name else {}))


BOMBS = {
    "many zeros": (lambda: npy((100 * MIB,), data=bytes(400 * MIB)), {}, "unpacks to 400 MiB; at most 256 are allowed"),
    "a header alone": (lambda: npy((1 << 40,)), {}, "does not hold as many numbers as it says"),
    "a product that wraps": (lambda: npy((1 << 33, 1 << 33)), {}, "does not hold as many numbers as it says"),
    "a negative size": (lambda: npy((-1,)), {}, "does not hold as many numbers as it says"),
    "long strings": (lambda: npy((1,), "|S1000000000"), {}, "does not hold numbers"),
    "objects": (lambda: npy((1,), "|O", pickle.dumps(1)), {}, "does not hold numbers"),
    "records": (lambda: npy((1,), [("a", "<f4")], bytes(4)), {}, "does not hold numbers"),
    "no array": (lambda: b"text", {}, "."),
    "another packing": (lambda: npy((0,)), {"compress_type": zipfile.ZIP_LZMA}, "is compressed in a way that NumPy"),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", ["model.npz", "selftest.npz"])
def test_a_bundle_that_unpacks_to_more_than_it_is_is_refused(tmp_path, bomb, name):
    content, options, message = BOMBS[bomb]
    bundle = write_bundle(tmp_path)
    with_member(bundle / name, content(), **options)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(signed(bundle))
    assert str(bundle) in str(caught.value)


def test_a_long_table_of_contents_is_refused(tmp_path):
    path = tmp_path / "many.npz"
    with zipfile.ZipFile(path, "w") as packed:
        for number in range(20_000):
            packed.writestr(f"{number:050d}", b"")
    for reader in (zip_names, lambda path: read_arrays(path, MIB)):
        with pytest.raises(ValueError, match="its table of contents is too long"):
            reader(path)


def test_rows_of_a_self_test_have_the_columns_of_the_model(tmp_path):
    """The loop over the trees reads without looking, as far as the columns of the model reach."""
    bundle = write_bundle(tmp_path)
    np.savez(bundle / "selftest.npz", rows=np.zeros((3, 1), np.float32), outputs=np.zeros((3, 3)))
    with pytest.raises(BundleError, match=r"its rows are not as the model takes them: \(3, 1\)"):
        load_bundle(signed(bundle))


@pytest.mark.parametrize("name", ["roots", "feature", "threshold", "left", "nan_left", "start"])
def test_arrays_of_a_forest_are_flat(tmp_path, name):
    bundle = write_bundle(tmp_path)
    with np.load(bundle / "model.npz") as packed:
        arrays = dict(packed)
    np.savez(bundle / "model.npz", **{**arrays, name: arrays[name].reshape(-1, 1)})
    with pytest.raises(BundleError, match=r"not well-formed|do not belong together"):
        load_bundle(signed(bundle))


def test_a_calibration_of_text_is_one_error(tmp_path):
    bundle = write_bundle(tmp_path)
    content = json.loads((bundle / "calibration.json").read_text())
    (bundle / "calibration.json").write_text(json.dumps({**content, "temperature": "warm"}))
    with pytest.raises(BundleError):
        load_bundle(signed(bundle))


PICKLES = {
    "a place in the memo": b"\x80\x02}r\xff\xff\xff\x3f.",
    "a place as text": b"\x80\x02}p1000000000\n.",
    "a long text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b".",
    "long bytes": b"\x80\x05\x96" + struct.pack("<Q", 8 << 30) + b".",
    "a long frame": b"\x80\x04\x95" + struct.pack("<Q", 8 << 30) + b".",
    "a long number": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b".",
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_few_bytes_of_a_pickle_do_not_take_gigabytes(tmp_path, kind):
    path = tmp_path / "frame.pkl"
    path.write_bytes(PICKLES[kind])
    with pytest.raises(UsageError) as caught:
        read_frame(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert ("needs more than 256 MiB of memory, which" in said) or ("not a pickled DataFrame" in said)


def test_a_long_index_is_no_list(tmp_path):
    path = tmp_path / "frame.pkl"
    path.write_bytes(frame_pickle({"a": [1.0, 2.0]}).replace(b"K\x02", b"\x8a\x05\x00\x00\x00\x00\x40"))
    with pytest.raises(UsageError):
        read_frame(path)


def test_a_table_of_small_numbers_in_lists_is_read(tmp_path):
    """It grows more than others."""
    path = tmp_path / "frame.pkl"
    path.write_bytes(frame_pickle({"a": [float(i) for i in range(200_000)], "s": ["x"] * 200_000}))
    assert len(read_frame(path)["a"]) == 200_000


def test_a_dataset_that_asks_for_more_memory_than_there_is_is_one_error(tmp_path, monkeypatch):
    path = tmp_path / "bomb.parquet"
    text = "x" * MIB
    table = pa.table({"session": pa.DictionaryArray.from_arrays([0] * 4_000, [text])})
    pq.write_table(table, path, store_schema=False)  # so that it is read as plain text
    assert path.stat().st_size < 4 * MIB
    monkeypatch.setattr("trafficrefinery.records.reading.available_bytes", lambda: 512 * MIB)
    with pytest.raises(MemoryError):
        read_table(path)
    with pytest.raises(UsageError, match=r"bomb.parquet: needs more memory than there is \([\d,]+ MiB\)"):
        read_dataset(path)


def test_a_record_without_an_end_is_one_error(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(zstandard.compress(bytes(500 * MIB)))
    assert path.stat().st_size < MIB
    with pytest.raises(UsageError, match=r"records.jsonl: holds no records: a line has more than 64 MiB"):
        list(whole_lines(path))


def test_the_limit_on_memory_ends_with_its_block():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), memory_limit(64 * MIB):
        bytearray(1 << 30)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytearray(1 << 28)) == 1 << 28
    assert available_bytes() > MIB
