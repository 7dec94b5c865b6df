"""Capture files that nobody would write: pcap and pcapng with fields changed, cut, joined and compressed in all ways.

However a file is read, in large windows or small ones, plain or compressed, alone or with others, its frames are the
same; what cannot be read is damage with a position, and nothing else happens.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np

from support.fuzz.laws import BrokenLawError
from support.naive.frames import Frame
from support.pcapng_blocks import COMPRESSIONS, block, enhanced, interface, obsolete, section
from trafficrefinery.capture.traces import reader as file_module
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.errors import TraceError

VALUES = (0, 1, 3, 4, 8, 11, 12, 13, 15, 16, 20, 24, 27, 28, 31, 32, 36, 60, 127, 128, 255, 65_535, 65_536, 262_144,
          2**20, 2**20 + 1, 2**24, 2**24 + 4, 2**31 - 1, 2**31, 2**32 - 16, 2**32 - 4, 2**32 - 1)  # fmt: skip
PCAP_MAGIC = (0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34)


class Read(NamedTuple):
    """What a reader found: numbers of the frames, a checksum of their bytes, and where the damage is."""

    fields: bytes
    checksum: int
    frames: int
    damage: tuple[int | None, ...]


def some_file(rng: np.random.Generator) -> bytes:
    """A pcap or pcapng file; in every second one, some fields are wrong."""
    pieces = _pcap(rng) if rng.random() < 0.4 else _pcapng(rng)
    data = bytearray(b"".join(pieces))
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(1, 4))):
            _change(rng, data, int(rng.choice(starts)))
    return bytes(data)


def _change(rng: np.random.Generator, data: bytearray, start: int) -> None:
    """Make something wrong in the record or block at `start`."""
    kind = int(rng.integers(6))
    at = min(start + 4 * int(rng.integers(8)), max(len(data) - 4, 0))
    if kind <= 2:
        value = int(rng.choice(VALUES)) if rng.random() < 0.8 else int(rng.integers(2**32))
        data[at : at + 4] = struct.pack("<I" if rng.random() < 0.7 else ">I", value)
    elif kind == 3:
        data[at : at + 1] = rng.bytes(1)
    elif kind == 4:
        del data[start : start + int(rng.integers(1, 60))]
    else:
        data[start:start] = data[start : start + int(rng.integers(1, 60))]
    if rng.random() < 0.1:
        del data[int(rng.integers(len(data) + 1)) :]


def _frames(rng: np.random.Generator) -> list[Frame]:
    sizes = rng.choice([0, 1, 14, 60, 200, 1500], int(rng.integers(0, 60)))
    ts_ns = int(rng.choice([0, 1_600_000_000 * 10**9]))
    made = []
    for size in sizes.tolist():
        ts_ns += int(rng.integers(0, 10**9))
        made.append(Frame(ts_ns, rng.bytes(size), size + int(rng.choice([0, 0, 1000])), 1))
    return made


def _pcap(rng: np.random.Generator) -> list[bytes]:
    order, magic = str(rng.choice(["<", ">"])), int(rng.choice(PCAP_MAGIC))
    header = struct.pack(order + "IHHiIII", magic, 2, int(rng.choice([2, 4])), 0, 0, 262_144, int(rng.choice([1, 113])))
    unit_ns, more = (1 if magic == 0xA1B23C4D else 1000), bytes(8 if magic == 0xA1B2CD34 else 0)
    return [header] + [
        struct.pack(order + "IIII", frame.ts_ns // 10**9, frame.ts_ns % 10**9 // unit_ns, len(frame.data),
                    frame.wire_bytes) + more + frame.data
        for frame in _frames(rng)
    ]  # fmt: skip


def _pcapng(rng: np.random.Generator) -> list[bytes]:
    pieces = []
    for _ in range(int(rng.integers(1, 4))):
        order = str(rng.choice(["<", ">"]))
        pieces.append(section(order))
        pieces += [
            interface(
                order, link=int(rng.choice([0, 1, 101, 276])), snap=int(rng.choice([0, 0, 40])),
                resolution=int(rng.choice([0, 3, 6, 9, 19, 0x80, 0x8A, 0xBF])), offset_s=int(rng.choice([0, 5, -99])),
            )
            for _ in range(int(rng.integers(1, 4)))
        ]  # fmt: skip
        for frame in _frames(rng):
            kind, number = int(rng.integers(8)), int(rng.integers(3))
            if kind == 0:
                pieces.append(obsolete(order, frame.ts_ns, frame, number))
            elif kind == 1:
                body = struct.pack(order + "I", len(frame.data)) + frame.data
                pieces.append(block(order, 3, body))
            elif kind == 2:
                pieces.append(block(order, int(rng.choice([4, 5, 10, 0xBAD])), frame.data))
            else:
                pieces.append(enhanced(order, frame.ts_ns, frame, number))
    return pieces


def _spoilt(rng: np.random.Generator, data: bytes) -> bytes:
    """Compressed data with a few bytes changed, or cut off."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 3))):
        if changed:
            changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed[: int(rng.integers(len(changed) + 1))] if rng.random() < 0.4 else changed)


def read(paths: list[Path], frames_per_block: int) -> Read | None:
    """All frames of some traces; None when one is refused."""
    try:
        reader = TraceReader(paths, frames_per_block=frames_per_block)
    except TraceError as error:
        if "\n" in str(error):
            raise BrokenLawError(f"an error of several lines: {error}") from None
        return None
    fields, checksum, count = [], 0, 0
    with reader:
        for buffer, frames in reader:
            table = np.asarray(frames)
            ends = table["offset"] + table["captured_bytes"]
            if table["offset"].min() < 0 or ends.max() > len(buffer):
                raise BrokenLawError("a frame lies outside of its buffer")
            if (table["wire_bytes"] < table["captured_bytes"]).any():
                raise BrokenLawError("a frame is shorter on the wire than in the file")
            for offset, end in zip(table["offset"].tolist(), ends.tolist(), strict=True):
                checksum = zlib.crc32(buffer[offset:end].data, checksum)
            fields += [table[name].astype(np.int64) for name in ("ts_ns", "captured_bytes", "wire_bytes", "link_type")]
            count += len(table)
    by_field = [np.concatenate([np.zeros(0, np.int64), *fields[i::4]]).tobytes() for i in range(4)]
    return Read(b"".join(by_field), checksum, count, tuple(error.position for error in reader.damage))


def obey(rng: np.random.Generator, files: int, folder: Path) -> int:
    """Check all laws on some files, which are in `folder` one after the other; the number of frames in them.

    Raises:
        BrokenLawError: one does not hold.
    """
    for old in folder.glob("other*"):
        old.unlink()
    return sum(_obey(rng, folder, number) for number in range(files))


def _obey(rng: np.random.Generator, folder: Path, number: int) -> int:
    data = some_file(rng)
    plain, other = folder / "plain", folder / f"other{number % 2}"
    plain.write_bytes(data)
    whole = read([plain], 8192)
    (folder / "spoilt").write_bytes(_spoilt(rng, COMPRESSIONS[str(rng.choice(sorted(COMPRESSIONS)))](data)))
    compression = str(rng.choice(sorted(COMPRESSIONS)))
    packed = folder / "packed"
    packed.write_bytes(COMPRESSIONS[compression](data))
    readings = {"compressed as " + compression: read([packed], 1024)}
    with mock.patch.multiple(file_module, STEP_BYTES=200, PIECE_BYTES=64, _FIRST_BYTES=int(rng.choice([1, 100]))):
        readings["in small windows"] = read([plain], 3)
        readings["compressed, in small windows"] = read([packed], 100)
        read([folder / "spoilt"], 1024)
    for what, found in readings.items():
        if found != whole:
            raise BrokenLawError(f"a file {what} is not read as it is otherwise: {_brief(found)}, {_brief(whole)}")
    if whole is None:
        return 0
    other.write_bytes(data)
    both = read(sorted([plain, *folder.glob("other*")]), 100)
    alone = [read([path], 100) for path in sorted([plain, *folder.glob("other*")])]
    if both is None or both.frames != sum(found.frames for found in alone if found is not None):
        raise BrokenLawError(f"together there are {_brief(both)}, alone {[_brief(found) for found in alone]}")
    return whole.frames


def _brief(found: Read | None) -> str:
    return "refused" if found is None else f"{found.frames} frames, damage at {found.damage}, {found.checksum:08x}"
