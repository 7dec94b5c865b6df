"""The trace reader against a naive twin, dpkt, and Wireshark's tools; merging against sorting; damage; the writer."""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import os
import random
import shutil
import struct
import subprocess
import sys
import zlib
from decimal import Decimal
from pathlib import Path

import dpkt
import numpy as np
import pytest
import zstandard

from support.pcapng_blocks import (
    COMPRESSIONS,
    Frame,
    block,
    enhanced,
    frames_of,
    interface,
    merged_naively,
    naive_frames,
    obsolete,
    option,
    pcap_file,
    pcapng_file,
    read,
    section,
)
from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.capture.traces import reader as file_module
from trafficrefinery.capture.traces.reader import PcapWriter, TraceReader
from trafficrefinery.errors import OutputError, TraceError, UsageError
from trafficrefinery.jit import COMPILED, records
from trafficrefinery.system.writing import Whole

pytestmark = pytest.mark.modes


# --- what the tests write, by hand -----------------------------------------------------------------------------------


def unrounded(order, whole, padding_bytes):
    """A block whose two lengths leave its padding out."""
    size = struct.pack(order + "I", len(whole) - padding_bytes)
    return whole[:4] + size + whole[8:-4] + size


def some_frames(count, *, seed=1, start_ns=1_500_000_000_123_456_000, step_ns=1_000_000, most_bytes=200):
    source, ts_ns = random.Random(seed), start_ns
    for _ in range(count):
        ts_ns += source.randrange(0, step_ns, 1000)
        data = source.randbytes(source.randrange(most_bytes))
        yield Frame(ts_ns, data, len(data) + source.choice((0, 0, 1000)), 1)


# --- the naive twin ---------------------------------------------------------------------------------------------------


def stored(folder: Path, data: bytes, name="trace") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.fixture
def small_window(monkeypatch):
    """Records of a few hundred bytes then lie across the ends of windows."""
    monkeypatch.setattr(file_module, "STEP_BYTES", 1000)
    monkeypatch.setattr(file_module, "PIECE_BYTES", 100)


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34])
def test_every_kind_of_pcap_gives_the_frames_that_were_written(tmp_path, order, magic):
    frames = list(some_frames(100))
    data = pcap_file(frames, order=order, magic=magic)
    assert read(stored(tmp_path, data)) == (frames, [])
    assert naive_frames(data) == (frames, None)


@pytest.mark.parametrize("unit_ns", [1, 1000])
def test_pcap_agrees_with_dpkt(tmp_path, unit_ns):
    path = tmp_path / "trace"
    frames = list(some_frames(50))
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file, nano=unit_ns == 1)
        for frame in frames:
            writer.writepkt(frame.data, ts=Decimal(frame.ts_ns) / 10**9)
    found, damage = read(path)
    with path.open("rb") as file:
        # In microseconds, dpkt gives the time as a float.
        theirs = [(round(Decimal(ts) * 10**9 / unit_ns) * unit_ns, data) for ts, data in dpkt.pcap.Reader(file)]
    assert [(frame.ts_ns, frame.data) for frame in found] == theirs
    assert [frame.data for frame in found] == [frame.data for frame in frames]
    assert damage == []


def test_pcapng_agrees_with_dpkt(tmp_path):
    path = tmp_path / "trace"
    frames = list(some_frames(50))
    with path.open("wb") as file:
        writer = dpkt.pcapng.Writer(file)
        for frame in frames:
            writer.writepkt(frame.data, ts=frame.ts_ns / 1e9)
    found, damage = read(path)
    with path.open("rb") as file:
        theirs = [(round(float(ts) * 1e6), data) for ts, data in dpkt.pcapng.Reader(file)]
    assert [(frame.ts_ns // 1000, frame.data) for frame in found] == theirs
    assert damage == []


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("resolution", [None, 0, 3, 6, 9, 10, 12, 19, 0x80, 0x80 + 10, 0x80 + 31, 0x80 + 32, 0x80 + 63])
def test_every_time_resolution_of_pcapng(tmp_path, order, resolution):
    frame = Frame(0, b"frame", 5, 1)
    units = [
        0,
        1,
        999_999,
        1_500_000_000_123_456_789,
        2**64 - 1,
        2**33 + 7,
        2**54 + 7,
        2**63 // 10**9,
        2**63 // 1000,
        2**63 // 1000 + 1,
    ]
    for offset_s in (None, 0, 1_500_000_000, -5, 2**62, -(2**63), 2**63 // 10**9, -(2**63 // 10**9) - 1):
        data = section(order) + interface(order, resolution=resolution, offset_s=offset_s)
        data += b"".join(enhanced(order, number, frame) for number in units)
        found, damage = read(stored(tmp_path, data))
        assert (found, damage) == (naive_frames(data)[0], [])
    assert len(found) == len(units)


def test_a_microsecond_and_a_power_of_two_second_are_what_they_say(tmp_path):
    frame = Frame(0, b"", 0, 1)
    data = section() + interface() + interface(resolution=0x80 + 1, offset_s=10)
    data += enhanced("<", 1_000_001, frame, 0) + enhanced("<", 3, frame, 1)
    assert [frame.ts_ns for frame in read(stored(tmp_path, data))[0]] == [1_000_001_000, 11_500_000_000]


@pytest.mark.parametrize("resolution", [20, 0x7F, 0xC0, 0xFF])
def test_a_time_resolution_beyond_64_bits_is_damage(tmp_path, resolution):
    data = section() + interface() + enhanced("<", 1, Frame(0, b"x", 1, 1))
    frames, (damage,) = read(stored(tmp_path, data + interface(resolution=resolution)))
    assert len(frames) == 1
    assert damage.position == len(data)


def test_sections_interfaces_and_all_packet_blocks_of_pcapng(tmp_path):
    a, b, c = (Frame(0, data, len(data) + 100, 1) for data in (b"a", b"bcd" * 30, b"efgh" * 50))
    data = b""
    for order in "<><":
        data += section(order, options=option(order, 4, b"an editor")) + interface(order, link=1)
        data += block(order, 4, b"names") + interface(order, link=113, snap=40, resolution=9)
        data += enhanced(order, 5_000_000, a, 0, option(order, 2, b"\0\0\0\1")) + enhanced(order, 77, b, 1)
        data += block(order, 5, bytes(20)) + block(order, 0x80001234, bytes(400))
        data += obsolete(order, 6_000_000, c, 1) + block(order, 3, struct.pack(order + "I", 500) + bytes(range(200)))
        for number in range(20):  # more than there is room for at first
            data += interface(order, link=200 + number)
        data += enhanced(order, 7_000_000, a, 21)
    found, damage = read(stored(tmp_path, data))
    assert damage == []
    assert (found, None) == naive_frames(data)
    assert [(frame.ts_ns, frame.link_type, len(frame.data), frame.wire_bytes) for frame in found[:5]] == [
        (5_000_000_000, 1, 1, 101),
        (77, 113, 90, 190),
        (6_000_000, 113, 200, 300),
        (6_000_000, 1, 200, 500),  # a simple packet: of the first interface, at the last time that was seen
        (7_000_000_000, 219, 1, 101),
    ]
    assert len(found) == 15


def test_a_simple_packet_is_cut_at_the_snap_length(tmp_path):
    data = section() + interface(snap=6) + block("<", 3, struct.pack("<I", 10) + b"0123456789")
    assert read(stored(tmp_path, data)) == ([Frame(0, b"012345", 10, 1)], [])


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("make", [pcap_file, pcapng_file])
def test_compression_is_recognised_by_content(tmp_path, compression, make):
    frames = list(some_frames(60))
    assert read(stored(tmp_path, COMPRESSIONS[compression](make(frames)), "no.suffix")) == (frames, [])


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("make", [pcap_file, pcapng_file])
@pytest.mark.usefixtures("small_window")
def test_records_across_the_ends_of_windows_are_whole(tmp_path, compression, make, monkeypatch):
    frames = list(some_frames(200, most_bytes=3000))
    if compression == "plain":  # through a window, like a pipe; mapped files must step by pages
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(make(frames))))
        assert read("-", frames_per_block=7) == (frames, [])
    else:
        assert read(stored(tmp_path, COMPRESSIONS[compression](make(frames))), frames_per_block=7) == (frames, [])


def test_a_mapped_file_is_read_in_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(file_module, "STEP_BYTES", 4096)
    frames = list(some_frames(200, most_bytes=9000))
    assert read(stored(tmp_path, pcap_file(frames))) == (frames, [])


def test_the_memory_of_a_mapped_file_is_given_back(tmp_path):
    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")  # of files

    large = pcap_file([Frame(1, bytes(2**20), 2**20, 1)])
    path = stored(tmp_path, large + large[24:] * 63)
    with TraceReader([path], frames_per_block=1) as reader:
        before = resident_bytes()
        assert max(resident_bytes() for _ in reader) < before + 5 * file_module.STEP_BYTES


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_standard_input(tmp_path, compression, monkeypatch):
    frames = list(some_frames(100))
    with stored(tmp_path, COMPRESSIONS[compression](pcapng_file(frames))).open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert read("-") == (frames, [])
        assert not file.closed


def test_a_named_pipe(tmp_path):
    frames = list(some_frames(100))
    path = tmp_path / "pipe"
    os.mkfifo(path)
    trace = stored(tmp_path, gzip.compress(pcap_file(frames), mtime=0))
    with subprocess.Popen(["sh", "-c", f"cat {trace} > {path}"]), TraceReader([path]) as reader:
        assert frames_of(reader) == frames
        assert reader.total_bytes is None


@pytest.mark.parametrize("make", [pcap_file, pcapng_file])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_trace_without_packets_is_empty_and_whole(tmp_path, make, compression):
    assert read(stored(tmp_path, COMPRESSIONS[compression](make([])))) == ([], [])


def test_odd_values_of_pcap(tmp_path):
    longer, late = Frame(1_000, b"abc", 2, 1), Frame(5_999_999_999, b"", 0, 1)
    data = bytearray(pcap_file([longer, late], magic=0xA1B2C3D4, link=0xF400_0001))
    data[-12:-8] = struct.pack("<I", 0xFFFF_FFFF)  # microseconds
    frames = [Frame(1_000, b"abc", 3, 1), Frame(5 * 10**9 + 0xFFFF_FFFF * 1000, b"", 0, 1)]
    assert read(stored(tmp_path, bytes(data))) == (frames, [])


def test_old_pcap_may_have_its_lengths_the_other_way_round(tmp_path):
    header = pcap_file([], version=(2, 3))
    data = header + struct.pack("<IIII", 1, 0, 1500, 3) + b"abc" + struct.pack("<IIII", 2, 0, 3, 1500) + b"def"
    assert read(stored(tmp_path, data))[0] == [Frame(10**9, b"abc", 1500, 1), Frame(2 * 10**9, b"def", 1500, 1)]


def test_a_frame_may_have_four_times_what_wireshark_allows(tmp_path):
    frames = [Frame(1, bytes(2**20), 2**20, 1), Frame(2, b"x", 1, 1)]
    for compress in (bytes, gzip.compress, zstandard.compress):
        for make in (pcap_file, pcapng_file):
            assert read(stored(tmp_path, compress(make(frames)))) == (frames, [])


@pytest.mark.parametrize("frames_per_block", [1, 3, 1024, 5000])
def test_block_size_does_not_change_frames(tmp_path, frames_per_block):
    frames = list(some_frames(2500, most_bytes=5))
    path = stored(tmp_path, pcap_file(frames))
    assert read(path, frames_per_block=frames_per_block) == (frames, [])


# --- errors and damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "trace: is empty; capture or copy it again"),
        (gzip.compress(b"", mtime=0), "trace: is empty; capture or copy it again"),
        (zstandard.compress(b""), "trace: is empty; capture or copy it again"),
        (
            b"\x7fELF\1\2\3",
            "trace: not a capture file: it starts with 7f 45 4c 46; pcap and pcapng are read, plain or compressed",
        ),
        (b"\n", "trace: not a capture file: it starts with 0a; "),
        (gzip.compress(b"<html>", mtime=0), "trace: not a capture file: it starts with 3c 68 74 6d; "),
        (pcap_file([])[:23], "trace: byte 23: ends inside the file header"),
        (pcapng_file([])[:27], "trace: byte 27: ends inside the file header"),
        (pcap_file([], version=(3, 0)), "trace: is pcap version 3.0, and only 2.x is read"),
        (gzip.compress(pcap_file([]), mtime=0)[:10], "trace: byte 0: the compressed data ends too early"),
        (zstandard.compress(pcap_file([]))[:6], "trace: byte 0: the compressed data ends too early"),
        (b"\x1f\x8b\xff\xff", "trace: byte 0: the compressed data is damaged"),
    ],
)
def test_what_is_no_trace_is_refused_at_once_with_a_reason(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    stored(tmp_path, pcap_file([]), "good")
    stored(tmp_path, content)
    with pytest.raises(TraceError) as caught:
        TraceReader(["good", "trace"])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_refused_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(TraceError, match=r"^absent: no such file; check its name$"):
        TraceReader(["absent"])
    with pytest.raises(TraceError, match=r"^folder: is a directory; name the traces in it, as in folder/\*$"):
        TraceReader(["folder"])
    with pytest.raises(UsageError, match="standard input can be read once only"):
        TraceReader(["-", "-"])

    def refuse(*_arguments, **_more):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(TraceError, match=r"^secret: cannot be read \(Permission denied\); check its permissions$"):
        TraceReader(["secret"])


@pytest.mark.parametrize("make", [pcap_file, pcapng_file])
def test_a_trace_cut_anywhere_gives_the_whole_frames_before_the_cut(tmp_path, make):
    frames = list(some_frames(5, most_bytes=12))
    data = make(frames)
    ends = [len(make(frames[:count])) for count in range(len(frames) + 1)]
    for cut in range(ends[0], len(data) + 1):
        found, damage = read(stored(tmp_path, data[:cut]))
        count = sum(end <= cut for end in ends) - 1
        assert found == frames[:count]
        assert [error.position for error in damage] == ([] if cut in ends else [ends[count]])


def with_bad(data, at, value):
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


@pytest.mark.parametrize(
    ("make", "at", "value", "message"),
    [
        (pcap_file, 8, 2**20 + 1, "a record with an impossible length"),
        (pcap_file, 8, 0xFFFF_FFFF, "a record with an impossible length"),
        (pcap_file, 8, 2**20, "the last record is cut off"),
        (pcapng_file, 4, 0, "a record with an impossible length"),
        (pcapng_file, 4, 11, "a record with an impossible length"),
        (pcapng_file, 4, 12, "a block whose two lengths differ"),
        (pcapng_file, 4, 46, "a block whose two lengths differ"),
        (pcapng_file, 4, 2**24 + 4, "a record with an impossible length"),
        (pcapng_file, 4, 0xFFFF_FFFC, "a record with an impossible length"),
        (pcapng_file, 4, 2**24, "the last record is cut off"),
        (pcapng_file, 8, 1, "a packet of an interface that is not described before it"),
        (pcapng_file, 20, 0x7FFF_FFFF, "a record with an impossible length"),
        (pcapng_file, 20, 250, "a record with an impossible length"),
        (pcapng_file, 0, 0x0A0D0D0A, "a section of an unknown byte order or version"),
    ],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_an_impossible_record_ends_its_trace_and_only_that(tmp_path, make, at, value, message, compress):
    frames = list(some_frames(9))
    position = len(make(frames[:5]))
    bad = stored(tmp_path, compress(with_bad(make(frames), position + at, value)), "bad")
    good = stored(tmp_path, make(frames[5:]), "good")
    found, (damage,) = read(bad, good)
    assert found == frames
    assert damage.position == position
    assert str(damage).startswith(f"{bad}: byte {position}: {message}")


def blocks_without_their_padding(order):
    frames = [Frame(1_500_000_000_000_000_000 + i, bytes([i]) * (61 + i), 61 + i, 1) for i in range(3)]
    name = struct.pack(order + "HH", 2, 5) + b"eth00" + bytes(3)
    blocks = [
        unrounded(order, block(order, 1, struct.pack(order + "HHI", 1, 0, 0) + name), 3),
        interface(order, resolution=9),
        unrounded(order, enhanced(order, frames[0].ts_ns, frames[0], 1), 3),
        unrounded(order, obsolete(order, frames[1].ts_ns, frames[1], 1), 2),
        unrounded(order, block(order, 0xABCD, b"unknown"), 1),
        unrounded(order, enhanced(order, frames[2].ts_ns, frames[2], 1), 1),
    ]
    start = unrounded(order, section(order, options=option(order, 4, b"abc") + option(order, 0, b"")), 1)
    return start + b"".join(blocks), frames


@pytest.mark.parametrize("order", "<>")
def test_blocks_whose_length_leaves_out_their_padding_are_read(tmp_path, order):
    data, frames = blocks_without_their_padding(order)
    assert read(stored(tmp_path, data)) == (frames, [])
    assert naive_frames(data) == (frames, None)


@pytest.mark.parametrize("order", "<>")
def test_tshark_reads_blocks_whose_length_leaves_out_their_padding(tmp_path, order, tshark):
    data, frames = blocks_without_their_padding(order)
    command = [tshark, "-n", "-r", str(stored(tmp_path, data)), "-T", "fields", "-e", "frame.len"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert lines == [str(frame.wire_bytes) for frame in frames]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [1, 2, 3, 4, 6, 0x0A0D0D0A])
def test_a_block_too_short_for_its_kind_is_damage(tmp_path, order, kind):
    start = section(order) + interface(order)
    for body_bytes in range(0, 40, 4):
        data = start + block(order, kind, bytes(body_bytes)) + enhanced(order, 1, Frame(0, b"x", 1, 1))
        found, damage = read(stored(tmp_path, data))
        expected, position = naive_frames(data)
        assert (found, [error.position for error in damage]) == (expected, [] if position is None else [position])


@pytest.mark.parametrize(
    ("compress", "bad_byte", "message"),
    [
        (gzip.compress, -8, "incorrect data check"),
        (COMPRESSIONS["gzip members"], -8, "incorrect data check"),
        (COMPRESSIONS["zstd"], -1, "checksum"),
        (COMPRESSIONS["zstd blocks"], -1, "checksum"),
    ],
)
def test_a_wrong_checksum_loses_no_frames(tmp_path, compress, bad_byte, message):
    frames = list(some_frames(1000))
    data = bytearray(compress(pcap_file(frames)))
    data[bad_byte] ^= 1
    found, (damage,) = read(stored(tmp_path, bytes(data)))
    assert found == frames
    assert damage.position == len(pcap_file(frames))
    assert message in str(damage)


@pytest.mark.parametrize("compression", [name for name in COMPRESSIONS if name != "plain"])
def test_a_compressed_trace_that_is_cut_gives_what_can_be_decompressed(tmp_path, compression):
    frames = list(some_frames(1000))
    data = COMPRESSIONS[compression](pcap_file(frames))
    for cut in range(200, len(data) - 100, len(data) // 20):
        try:
            found, damage = read(stored(tmp_path, data[:cut]))
        except TraceError as error:  # nothing of the first block is there
            found, damage = [], [error]
        assert found == frames[: len(found)]
        assert len(damage) <= 1
        assert damage or "members" in compression or "frames" in compression
        if "zstd" not in compression or "blocks" in compression or "frames" in compression:
            assert len(found) > 900 * cut / len(data) - 100


def test_a_gzip_trace_that_is_cut_gives_all_that_zlib_finds_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(file_module, "PIECE_BYTES", 50)
    data = gzip.compress(pcap_file([Frame(i, bytes(100), 100, 1) for i in range(50)]))
    for cut in range(60, len(data)):
        rest = zlib.decompressobj(wbits=31).decompress(data[:cut])
        found, (damage,) = read(stored(tmp_path, data[:cut]))
        assert found == naive_frames(rest)[0]
        assert damage.position == len(rest)


def test_bytes_behind_the_compressed_data_are_damage(tmp_path):
    frames = list(some_frames(10))
    for compress in (gzip.compress, zstandard.compress):
        found, (damage,) = read(stored(tmp_path, compress(pcap_file(frames)) + b"garbage"))
        assert found == frames
        assert damage.position == len(pcap_file(frames))


@pytest.mark.parametrize("compression", ["none", "gzip members", "zstd frames", "zstd blocks"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.7, 0.99])
def test_a_file_that_is_cut_while_it_is_read_is_damage_and_what_came_before_is_read(
    tmp_path, monkeypatch, compression, share
):
    monkeypatch.setattr(file_module, "STEP_BYTES", 1 << 18)
    monkeypatch.setattr(file_module, "PIECE_BYTES", 1 << 16)
    frames = list(some_frames(3000, most_bytes=1500))
    path = stored(tmp_path, COMPRESSIONS.get(compression, bytes)(pcap_file(frames)))
    stored_bytes = path.stat().st_size
    with TraceReader([path], frames_per_block=100) as reader:
        blocks = iter(reader)
        found = frames_of([next(blocks)])
        os.truncate(path, int(stored_bytes * share))
        found += frames_of(blocks)
        assert 0 < len(found) < 3000
        assert found == frames[: len(found)]
        (damage,) = reader.damage
        assert damage.position >= len(pcap_file(found))
        now_bytes = int(stored_bytes * share)
        assert f"the file was cut while it was read, from {stored_bytes} to {now_bytes} bytes; " in str(damage)


def test_a_file_that_is_cut_and_grows_again_while_it_is_read_is_reported_with_its_sizes(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"a" * 1000)
    with path.open("rb", buffering=0) as file:
        source = file_module._Input(file, 1000)
        assert source.read(600) == b"a" * 600
        os.truncate(path, 100)
        assert source.read(600) == b""
        assert source.cut() == "the file was cut while it was read, from 1000 to 100 bytes"
        os.truncate(path, 1200)
        assert (
            source.cut() == "the file of 1000 bytes was cut and written anew while it was read; it has 1200 bytes now"
        )


def test_what_is_appended_to_a_file_while_it_is_read_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(file_module, "STEP_BYTES", 1 << 18)
    frames = list(some_frames(1000, most_bytes=1500))
    path = stored(tmp_path, pcap_file(frames))
    with TraceReader([path], frames_per_block=100) as reader:
        blocks = iter(reader)
        found = frames_of([next(blocks)])
        with path.open("ab") as file:
            file.write(pcap_file(frames)[24:])
        with TraceReader([path], sizes=reader.sizes) as second:
            assert len(frames_of(second)) == 1000
        assert len(found) + sum(len(block.frames) for block in blocks) == 1000
        assert reader.damage == []


# --- several traces ---------------------------------------------------------------------------------------------------


def parts_of(tmp_path, traces, make=pcap_file, compress=bytes):
    return [stored(tmp_path, compress(make(frames)), f"part{i}") for i, frames in enumerate(traces)]


@pytest.mark.parametrize("frames_per_block", [5, 64, 1024])
@pytest.mark.parametrize("traces", [2, 3, 7])
def test_interleaved_traces_come_sorted_by_time_and_equal_times_in_the_order_given(tmp_path, traces, frames_per_block):
    # Steps of 0 to 9 us: many equal times.
    parts = [list(some_frames(700, seed=seed, step_ns=10_000, most_bytes=40)) for seed in range(traces)]
    paths = parts_of(tmp_path, parts)
    together = sorted((frame for part in parts for frame in part), key=lambda frame: frame.ts_ns)
    assert read(*paths, frames_per_block=frames_per_block) == (together, [])
    assert merged_naively(parts) == together


def test_bursts_are_merged_whether_handed_on_or_copied(tmp_path):
    source = random.Random(7)
    for _ in range(3):
        parts = [[], [], []]
        ts_ns = 0
        for _ in range(25):
            part = source.choice(parts)
            for _ in range(source.choice((1, 3, 200, 255, 256, 257, 700))):
                ts_ns += source.choice((0, 1000))
                part.append(Frame(ts_ns, struct.pack("<Q", len(part)), 8, 1))
        paths = parts_of(tmp_path, parts, compress=source.choice((bytes, zstandard.compress)))
        assert read(*paths) == (merged_naively(parts), [])


def test_time_that_goes_backwards_stays_as_it_is_stored(tmp_path):
    source = random.Random(3)
    parts = [[Frame(source.randrange(5000) * 1000, source.randbytes(9), 9, 1) for _ in range(1500)] for _ in range(3)]
    for part in parts:
        assert read(*parts_of(tmp_path, [part])) == (part, [])
    assert read(*parts_of(tmp_path, parts)) == (merged_naively(parts), [])


@pytest.mark.parametrize("compress", [bytes, zstandard.compress])
def test_a_trace_in_parts_is_the_whole_trace_however_the_parts_are_named(tmp_path, compress):
    frames = list(some_frames(1200, step_ns=3000, most_bytes=9))
    assert len({frame.ts_ns for frame in frames}) < len(frames)
    for cut in (1, 17, 600, 1024, 1190):
        # A cut between equal times: the order in which the parts are named then decides.
        while frames[cut].ts_ns == frames[cut - 1].ts_ns:
            cut += 1  # noqa: PLW2901
        first, second = parts_of(tmp_path, [frames[:cut], frames[cut:]], compress=compress)
        assert read(first, second) == (frames, [])
        assert read(second, first) == (frames, [])
    first, second = parts_of(tmp_path, [frames[:700], frames[700:]], make=pcapng_file)
    assert read(first, second)[0] == frames


def test_traces_that_do_not_overlap_are_not_copied(tmp_path):
    frames = list(some_frames(5000))
    paths = parts_of(tmp_path, [frames[2500:], frames[:2500]])
    with TraceReader(paths) as reader:
        assert sum(len(block.frames) for block in reader) == 5000
        assert reader._merged is None


def test_finely_interleaved_traces_come_in_large_blocks(tmp_path):
    frames = [Frame(i, b"x", 1, 1) for i in range(4000)]
    with TraceReader(parts_of(tmp_path, [frames[::2], frames[1::2]])) as reader:
        assert sum(1 for _ in reader) <= 8


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_traces_are_open_only_while_their_time_lasts(tmp_path):
    frames = list(some_frames(600))
    paths = parts_of(tmp_path, [frames[i : i + 10] for i in range(0, 600, 10)], compress=zstandard.compress)
    before = open_files()
    with TraceReader(paths) as reader:
        most = max(open_files() for _ in reader)
    assert most <= before + 3
    assert read(*paths) == (frames, [])


def test_different_formats_and_standard_input_are_merged(tmp_path, monkeypatch):
    parts = [list(some_frames(300, seed=seed)) for seed in range(4)]
    paths = [
        stored(tmp_path, pcap_file(parts[0], order=">"), "a"),
        stored(tmp_path, gzip.compress(pcapng_file(parts[1], order=">"), mtime=0), "b"),
        stored(tmp_path, zstandard.compress(pcap_file(parts[3])), "d"),
    ]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pcapng_file(parts[2]))))
    assert read(paths[0], paths[1], "-", paths[2]) == (merged_naively(parts), [])


def test_frames_larger_than_the_merge_buffer_in_sum(tmp_path, monkeypatch):
    monkeypatch.setattr(file_module, "STEP_BYTES", 4096)
    parts = [[Frame(10 * i + start, bytes([i]) * 1500, 1500, 1) for i in range(20)] for start in (1, 2)]
    assert read(*parts_of(tmp_path, parts)) == (merged_naively(parts), [])


def test_extreme_times_are_merged(tmp_path):
    frame = Frame(0, b"x", 1, 1)
    times = (0, 5, 2**63 - 1, 2**63, 2**64 - 1)  # the last two are before the epoch
    for first, second in itertools.product(times, times):
        parts = [
            section() + interface(resolution=9) + b"".join(enhanced("<", units, frame) for units in (first, second))
            for _ in range(2)
        ]
        traces = [naive_frames(part)[0] for part in parts]
        paths = [stored(tmp_path, part, f"{i}") for i, part in enumerate(parts)]
        assert read(*paths) == (merged_naively(traces), [])


def test_a_trace_that_vanishes_before_its_time_is_damage(tmp_path):
    frames = list(some_frames(20))
    first, second = parts_of(tmp_path, [frames[:10], frames[10:]])
    with TraceReader([first, second]) as reader:
        second.unlink()
        assert frames_of(reader) == frames[:10]
        assert str(reader.damage[0]) == f"{second}: no such file; check its name"


def test_progress_rises_to_the_total(tmp_path):
    frames = list(some_frames(5000))
    paths = parts_of(tmp_path, [frames[::2], frames[1::2]])
    paths.append(stored(tmp_path, gzip.compress(pcap_file(frames), mtime=0), "z"))
    with TraceReader(paths) as reader:
        assert reader.total_bytes == sum(path.stat().st_size for path in paths)
        positions = [reader.position_bytes for _ in reader]
        assert positions == sorted(positions)
        assert positions[0] < positions[-1] <= reader.total_bytes == reader.position_bytes


# --- the writer -------------------------------------------------------------------------------------------------------


def test_written_frames_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(file_module, "STEP_BYTES", 8192)
    frames = list(some_frames(600, most_bytes=3000))
    source, copy, single = tmp_path / "source", tmp_path / "copy.pcap", tmp_path / "single.pcap"
    source.write_bytes(pcap_file(frames))
    with TraceReader([source]) as reader, PcapWriter(copy) as bulk, PcapWriter(single) as writer:
        for frames_block in reader:
            bulk.write_frames(frames_block)
        for frame in frames:
            writer.write(frame.ts_ns, frame.data, frame.wire_bytes)
        assert not copy.exists()
    assert read(copy) == read(single) == (frames, [])
    assert copy.read_bytes() == single.read_bytes()
    assert bulk.frames == writer.frames == 600
    with copy.open("rb") as file:
        theirs = [(int(Decimal(ts) * 10**9), data) for ts, data in dpkt.pcap.Reader(file)]
    assert theirs == [(frame.ts_ns, frame.data) for frame in frames]


def test_selected_frames_of_the_right_link_type_are_written(tmp_path):
    headers = records(np.zeros(6, FRAME))
    for i in range(6):
        headers[i] = (i, i, 2, 2, 113 if i == 4 else 101, 0)
    frames_block = Block(np.arange(10, dtype=np.uint8), headers)
    with PcapWriter(tmp_path / "t", link_type=101) as writer:
        writer.write_frames(frames_block, np.array([True, False, False, False, True, False]))
        writer.write_frames(frames_block, np.array([5, 2]))
        writer.write_frames(frames_block, np.array([], np.int64))
    assert (writer.frames, writer.left_out_frames) == (3, 1)
    assert read(tmp_path / "t")[0] == [Frame(i, bytes([i, i + 1]), 2, 101) for i in (0, 5, 2)]


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "t.pcap"
    with pytest.raises(TypeError), PcapWriter(path) as writer:
        writer.write(1, None)
    assert list(tmp_path.iterdir()) == []
    writer = PcapWriter(path)
    assert list(tmp_path.iterdir()) == [Whole(path).draft]
    writer.close()
    writer.close()
    assert read(path) == ([], [])


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(OutputError, match=r"absent/t: cannot be written: No such file or directory"):
        PcapWriter(tmp_path / "absent" / "t")
    Whole(tmp_path / "t").draft.symlink_to("/dev/full")
    writer = PcapWriter(tmp_path / "t")
    writer.write(1, bytes(1000))
    with pytest.raises(OutputError, match=r"t: cannot be written: No space left on device"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


# --- peers ------------------------------------------------------------------------------------------------------------


def tool(name):
    path = shutil.which(name)
    return path or pytest.skip(f"{name} is not installed (Debian: apt-get install wireshark-common)")


@pytest.mark.parametrize("kind", ["pcap", "nsecpcap", "modpcap", "pcapng"])
def test_formats_that_editcap_writes(tmp_path, kind):
    frames = [frame for frame in some_frames(200) if frame.data]
    source = stored(tmp_path, pcap_file(frames))
    subprocess.run([tool("editcap"), "-F", kind, source, tmp_path / "out"], check=True)
    unit_ns = 1 if kind in ("nsecpcap", "pcapng") else 1000
    found, damage = read(tmp_path / "out")
    assert found == [frame._replace(ts_ns=frame.ts_ns // unit_ns * unit_ns) for frame in frames]
    assert damage == []


def test_merging_agrees_with_mergecap(tmp_path):
    # No two times are equal: mergecap does not say what it does with those.
    frames = [frame._replace(ts_ns=frame.ts_ns + i) for i, frame in enumerate(some_frames(1500))]
    parts = [[], [], []]
    for frame in frames:
        random.Random(frame.ts_ns).choice(parts).append(frame)
    paths = parts_of(tmp_path, parts)
    subprocess.run([tool("mergecap"), "-w", tmp_path / "out", *paths], check=True)
    assert read(tmp_path / "out")[0] == read(*paths)[0] == frames


def seconds_in_ns(text):
    """Wireshark prints a fraction of more than a second as it stands: more than nine digits, or microseconds < 0."""
    seconds, fraction = text.split(".")
    if fraction.startswith("-"):
        return int(seconds) * 10**9 + (int(fraction) + 2**32) * 1000
    return int(seconds) * 10**9 + int(fraction) * 10 ** max(0, 9 - len(fraction))


def test_recorded_traces_agree_with_capinfos_and_the_naive_twin(shared_data):
    paths = sorted(path for path in (shared_data / "ndpi").iterdir() if path.suffix != ".jsonl")
    paths = paths[:: 1 if COMPILED else 10]
    command = [tool("capinfos"), "-TrmQScdae", *paths]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    theirs = {}
    for line in lines:
        name, packets, wire_bytes, first, last = line.strip('"').split('","')
        theirs[name] = (int(packets), int(wire_bytes), seconds_in_ns(first), seconds_in_ns(last))
    different = {}
    for path in paths:
        found, damage = read(path)
        naive, position = naive_frames(path.read_bytes())
        assert found == naive, path.name
        assert [error.position for error in damage] == ([] if position is None else [position]), path.name
        times = [frame.ts_ns for frame in found]
        ours = (len(found), sum(frame.wire_bytes for frame in found), min(times), max(times))
        if str(path) in theirs and ours != theirs[str(path)]:
            different[path.name] = (ours, theirs[str(path)])
    assert different == {}
    assert len(theirs) > 0.99 * len(paths)
