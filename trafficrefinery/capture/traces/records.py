"""Records of pcap and pcapng: compiled walkers that find the frames, the merge by time, and the way back to pcap.

A walker is given `buffer[start:end]`, fills `frames`, and returns `(count, next, status)`: `next` lies behind the last
record that was used, `status` says why it stopped there; called again at `next` it goes on. It reads nothing outside
`buffer[start:end]`, and every frame that it reports lies inside. Offsets are unsigned: Numba then spares the test for
negative indices, and the four loads of a number become one (6 ns a record instead of 15).
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import helper, kernel, prefetch, records

# Why a walker stopped.
FULL = 0  # `frames` is full
MORE = 1  # the record at `next` is not whole
SECTION = 2  # pcapng: a section header, for Python to read
INTERFACE = 3  # pcapng: an interface description, whole, for Python to read
BAD_LENGTH = 4
BAD_TRAILER = 5
BAD_INTERFACE = 6
BAD_RESOLUTION = 7
BAD_SECTION = 8

DAMAGE = {
    BAD_LENGTH: "a record with an impossible length",
    BAD_TRAILER: "a block whose two lengths differ",
    BAD_INTERFACE: "a packet of an interface that is not described before it",
    BAD_RESOLUTION: "an interface with a time resolution finer than 64 bits can count",
    BAD_SECTION: "a section of an unknown byte order or version",
}

# The longest frame and block that are believed. libpcap and Wireshark stop at frames of 262,144 bytes (but for USB and
# D-Bus) and at blocks of 16 MiB.
MAX_FRAME_BYTES = 4 * 262_144
MAX_BLOCK_BYTES = 16 * 1024 * 1024

PCAP_MAGIC = {0xA1B2C3D4: (16, 1000), 0xA1B23C4D: (16, 1), 0xA1B2CD34: (24, 1000)}  # record header bytes, ns per unit
PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
_SECTION_BLOCK = 0x0A0D0D0A  # reads the same in both byte orders
_ORDER_MAGIC = b"\x1a\x2b\x3c\x4d"

# An interface of a pcapng section. Times in units of 10^-n s: ns = units * multiplier // divisor, and shift is -1;
# in units of 2^-n s: shift is n.
INTERFACE_STATE = np.dtype(
    [
        ("link_type", "u8"),
        ("snap_bytes", "u8"),  # 0: no limit
        ("multiplier", "u8"),
        ("divisor", "u8"),
        ("shift", "i8"),
        ("offset_ns", "i8"),
        ("most_units", "u8"),  # that are a time before the offset is added
    ],
    align=True,
)

Records = Any  # from jit.records(): elements with attributes, which NumPy's types do not know
Whole = int | np.int64  # what a number is depends on TRAFFICREFINERY_JIT
U64 = np.uint64
_1, _2, _3, _4, _8, _12, _16, _20, _24, _28, _32 = (U64(n) for n in (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32))
_BYTE, _LOW_HALF, _BYTE_1 = U64(0xFF), U64(0xFFFF_FFFF), U64(0xFF00)
_NS = U64(1_000_000_000)
_MOST_NS = 2**63 - 1
NO_TIME = np.int64(-(2**63))
"""In place of a time that 64 bits of nanoseconds do not hold."""
_LINE_BYTES, _AHEAD_BYTES, _SMALL_BYTES = U64(64), U64(4096), U64(128)


@helper
def _u32(buffer: NDArray[np.uint8], at: np.uint64, big_endian: bool) -> np.uint64:
    value = (
        U64(buffer[at]) | (U64(buffer[at + _1]) << _8) | (U64(buffer[at + _2]) << _16) | (U64(buffer[at + _3]) << _24)
    )
    if big_endian:
        value = ((value & _BYTE) << _24) | ((value & _BYTE_1) << _8) | ((value >> _8) & _BYTE_1) | (value >> _24)
    return value


@helper
def _padded(block_bytes: np.uint64) -> np.uint64:
    """Some programs write the length of a pcapng block without the padding behind it, which is there."""
    return (block_bytes + _3) & ~_3


@helper
def _read_ahead(buffer: NDArray[np.uint8], at: np.uint64, record_bytes: np.uint64) -> None:
    """Where the next header lies is known only from this one; without a guess each costs a memory latency."""
    line = at + _AHEAD_BYTES
    stop = line + record_bytes
    while line < stop:
        prefetch(buffer, np.int64(line))
        line += _LINE_BYTES


@kernel
def walk_pcap(
    buffer: NDArray[np.uint8],
    start: int,
    end: int,
    big_endian: bool,
    swapped_lengths: bool,
    header_bytes: int,
    ns_per_unit: int,
    link_type: int,
    frames: Records,
    before_ns: Whole,
) -> tuple[Whole, Whole, int, Whole]:
    """Index pcap records; `header_bytes` is 16, or 24 in Kuznetzov's variant.

    Before version 2.4 the length on the wire could come first: with `swapped_lengths`, the smaller one is taken.

    Returns:
        How many there are, where the next one begins, why no more were indexed, and how many are older than the one
        before them, whose time is `before_ns` at first.
    """
    count, at, stop, header, unit_ns = 0, U64(start), U64(end), U64(header_bytes), U64(ns_per_unit)
    before = np.int64(before_ns)
    backward: Whole = 0
    while count < len(frames):
        data = at + header
        if data > stop:
            return count, np.int64(at), MORE, backward
        captured_bytes, wire_bytes = _u32(buffer, at + _8, big_endian), _u32(buffer, at + _12, big_endian)
        if captured_bytes > wire_bytes:
            if swapped_lengths:
                captured_bytes, wire_bytes = wire_bytes, captured_bytes
            else:
                wire_bytes = captured_bytes
        if captured_bytes > U64(MAX_FRAME_BYTES):
            return count, np.int64(at), BAD_LENGTH, backward
        if captured_bytes > stop - data:
            return count, np.int64(at), MORE, backward
        frame = frames[count]
        # A fraction of more than a second is added as it stands.
        ts_ns = np.int64(_u32(buffer, at, big_endian) * _NS + _u32(buffer, at + _4, big_endian) * unit_ns)
        backward += ts_ns < before
        before = frame.ts_ns = ts_ns
        frame.offset = np.int64(data)
        frame.captured_bytes = captured_bytes
        frame.wire_bytes = wire_bytes
        frame.link_type = link_type
        if captured_bytes >= _SMALL_BYTES:  # the hardware guesses right with small records
            _read_ahead(buffer, at, header + captured_bytes)
        count += 1
        at = data + captured_bytes
    return count, np.int64(at), FULL, backward


@helper
def _units_to_ns(units: np.uint64, interface: Records) -> np.int64:
    """Rounded down; NO_TIME where 64 bits do not hold it. A fraction in 2^-n s is multiplied in two halves, so that
    nothing overflows."""
    if units > interface.most_units:
        return NO_TIME
    if interface.shift < 0:
        ns = units * U64(interface.multiplier)
        if interface.divisor > 1:
            ns //= U64(interface.divisor)
    else:
        shift = U64(interface.shift)
        fraction = units & ((_1 << shift) - _1)
        low = (fraction & _LOW_HALF) * _NS
        high = (fraction >> _32) * _NS + (low >> _32)
        ns = (units >> shift) * _NS + (high >> (shift - _32) if shift >= _32 else low >> shift)
    total_ns = np.int64(ns + U64(interface.offset_ns))
    return NO_TIME if interface.offset_ns > 0 and total_ns < 0 else total_ns


@kernel
def walk_pcapng(
    buffer: NDArray[np.uint8],
    start: Whole,
    end: int,
    big_endian: bool,
    interfaces: Records,
    interface_count: int,
    clock_ns: NDArray[np.int64],
    frames: Records,
    before_ns: Whole,
) -> tuple[Whole, Whole, int, Whole]:
    """Index packet blocks, as `walk_pcap`; `clock_ns[0]` is the last time that was seen, which simple packets take."""
    count, at, stop = 0, U64(start), U64(end)
    before = np.int64(before_ns)
    backward: Whole = 0
    while count < len(frames):
        left = stop - at
        if left < _12:
            return count, np.int64(at), MORE, backward
        kind = _u32(buffer, at, big_endian)
        if kind == U64(_SECTION_BLOCK):
            return count, np.int64(at), SECTION, backward
        block_bytes = _u32(buffer, at + _4, big_endian)
        if block_bytes < _12 or block_bytes > U64(MAX_BLOCK_BYTES):
            return count, np.int64(at), BAD_LENGTH, backward
        block_bytes = _padded(block_bytes)
        if block_bytes > left:
            return count, np.int64(at), MORE, backward
        if _padded(_u32(buffer, at + block_bytes - _4, big_endian)) != block_bytes:
            return count, np.int64(at), BAD_TRAILER, backward
        if kind == _1:
            return count, np.int64(at), INTERFACE, backward
        enhanced = kind == U64(6) or kind == _2  # or the obsolete packet block, which differs in the interface only
        if enhanced or kind == _3:
            fixed_bytes = _32 if enhanced else _16
            if block_bytes < fixed_bytes:
                return count, np.int64(at), BAD_LENGTH, backward
            room = block_bytes - fixed_bytes
            number, data = U64(0), at + _12
            if enhanced:
                number, data = _u32(buffer, at + _8, big_endian), at + _28
                if kind == _2:
                    number = number >> _16 if big_endian else number & U64(0xFFFF)
            if number >= U64(interface_count):
                return count, np.int64(at), BAD_INTERFACE, backward
            interface = interfaces[np.int64(number)]
            if enhanced:
                captured_bytes = _u32(buffer, at + _20, big_endian)
                wire_bytes = _u32(buffer, at + _24, big_endian)
                units = (_u32(buffer, at + _12, big_endian) << _32) | _u32(buffer, at + _16, big_endian)
            else:
                wire_bytes = _u32(buffer, at + _8, big_endian)
                captured_bytes, units = min(wire_bytes, room), U64(0)
                if interface.snap_bytes > 0:
                    captured_bytes = min(captured_bytes, U64(interface.snap_bytes))
            if captured_bytes > room or captured_bytes > U64(MAX_FRAME_BYTES):
                return count, np.int64(at), BAD_LENGTH, backward
            if enhanced:
                clock_ns[0] = _units_to_ns(units, interface)
            frame = frames[count]
            frame.ts_ns = clock_ns[0]
            backward += frame.ts_ns < before
            before = frame.ts_ns
            frame.offset = np.int64(data)
            frame.captured_bytes = captured_bytes
            frame.wire_bytes = max(captured_bytes, wire_bytes)
            frame.link_type = interface.link_type
            if captured_bytes >= _SMALL_BYTES:
                _read_ahead(buffer, at, block_bytes)
            count += 1
        at += block_bytes
    return count, np.int64(at), FULL, backward


@helper
def _next_trace(frames: Records, active: NDArray[np.int64], cursors: NDArray[np.int64]) -> Whole:
    """The trace whose next frame is the oldest; of equal ones the first that was named."""
    best: Whole = active[0]
    for row in active[1:]:
        if frames[row, cursors[row, 0]].ts_ns < frames[best, cursors[best, 0]].ts_ns:
            best = row
    return best


@kernel
def leading_run(
    frames: Records, active: NDArray[np.int64], cursors: NDArray[np.int64], until_ns: int
) -> tuple[Whole, Whole]:
    """(trace, frames): the trace that is next, and how many of its frames come before any other's and `until_ns`.

    Row i of `frames` holds the frames of trace i from `cursors[i, 0]` up to `cursors[i, 1]`; `active` has the rows in
    use, in the order in which the traces were named.
    """
    row = _next_trace(frames, active, cursors)
    at, stop = cursors[row, 0] + 1, cursors[row, 1]
    for other in active:
        if other != row:
            head_ns = frames[other, cursors[other, 0]].ts_ns
            # Of equal times, the trace that was named first goes first.
            until_ns = min(until_ns, head_ns if other < row else head_ns + 1)
    while at < stop and frames[row, at].ts_ns < until_ns:
        at += 1
    return row, at - cursors[row, 0]


@kernel
def merge(
    frames: Records,
    active: NDArray[np.int64],
    cursors: NDArray[np.int64],
    until_ns: int,
    room_bytes: int,
    merged: Records,
    origins: NDArray[np.int64],
) -> int:
    """Order frames by time into `merged`, with offsets in the buffer that `gather` will fill; returns how many.

    Stops when a trace has no frames left here, before `until_ns`, and when `merged` or the buffer is full, but not
    before the first frame. `origins[i]` is the row and the offset that frame i had.
    """
    count = 0
    used_bytes: Whole = 0
    while count < len(merged):
        row = _next_trace(frames, active, cursors)
        at = cursors[row, 0]
        frame = frames[row, at]
        captured_bytes = np.int64(frame.captured_bytes)
        if count > 0 and (frame.ts_ns >= until_ns or used_bytes + captured_bytes > room_bytes):
            break
        merged[count] = frame
        merged[count].offset = used_bytes
        origins[count, 0], origins[count, 1] = row, frame.offset
        used_bytes += captured_bytes
        count += 1
        cursors[row, 0] = at + 1
        if at + 1 == cursors[row, 1]:
            break
    return count


@helper
def _copy(buffer: NDArray[np.uint8], source: Whole, out: NDArray[np.uint8], target: Whole, count: Whole) -> None:
    """Faster than an assignment of slices, which Numba does not turn into wide moves."""
    first_in, first_out = U64(source), U64(target)
    for i in range(U64(count)):
        out[first_out + i] = buffer[first_in + i]


@kernel
def gather(
    buffer: NDArray[np.uint8], row: int, origins: NDArray[np.int64], merged: Records, out: NDArray[np.uint8]
) -> None:
    """Copy the bytes of the merged frames that came from trace `row`."""
    for i in range(len(merged)):
        if origins[i, 0] == row:
            _copy(buffer, origins[i, 1], out, merged[i].offset, np.int64(merged[i].captured_bytes))


@helper
def _put_u32(out: NDArray[np.uint8], at: Whole, value: Whole) -> None:
    for i in range(4):
        out[at + i] = np.uint8((value >> (8 * i)) & 0xFF)


@kernel
def write_pcap(
    buffer: NDArray[np.uint8],
    frames: Records,
    chosen: NDArray[np.int64],
    start: Whole,
    link_type: int,
    out: NDArray[np.uint8],
    used_bytes: Whole,
) -> tuple[Whole, Whole, int]:
    """Append records (little-endian, nanoseconds) of `frames[chosen[start:]]` to `out` until one does not fit.

    Returns (how far in `chosen`, bytes used in `out`, frames of another link type, which are left out).
    """
    left_out = 0
    for i in range(start, len(chosen)):
        frame = frames[chosen[i]]
        if frame.link_type != link_type:
            left_out += 1
            continue
        captured_bytes = np.int64(frame.captured_bytes)
        if captured_bytes > MAX_FRAME_BYTES:
            captured_bytes = np.int64(MAX_FRAME_BYTES)
        data = used_bytes + 16
        if data + captured_bytes > len(out):
            return i, used_bytes, left_out
        ts_ns = np.int64(frame.ts_ns)
        _put_u32(out, used_bytes, ts_ns // 1_000_000_000)
        _put_u32(out, used_bytes + 4, ts_ns % 1_000_000_000)
        _put_u32(out, used_bytes + 8, captured_bytes)
        _put_u32(out, used_bytes + 12, np.int64(frame.wire_bytes))
        _copy(buffer, frame.offset, out, data, captured_bytes)
        used_bytes = data + captured_bytes
    return len(chosen), used_bytes, left_out


class Window(Protocol):
    """The bytes of a trace that are at hand: `buffer[start:end]`."""

    buffer: NDArray[np.uint8]
    start: int
    end: int


class PcapRecords:
    """The records behind a pcap file header.

    Raises:
        ValueError: the version or magic number is not one that is read.
    """

    def __init__(self, header: bytes) -> None:
        self._big_endian = header[0] == 0xA1
        magic, major, minor, _, _, _, link = struct.unpack((">" if self._big_endian else "<") + "IHHIIII", header)
        self._header_bytes, self._ns_per_unit = PCAP_MAGIC[magic]
        if major != 2:
            raise ValueError(f"is pcap version {major}.{minor}, and only 2.x is read; convert it with editcap")
        self._swapped_lengths = minor < 4
        self._link_type = link & 0x03FF_FFFF  # the bits above say how long the frame check sequence is

    def walk(self, window: Window, frames: Records, before_ns: Whole) -> tuple[Whole, Whole, int, Whole]:
        """Index the next records; see `walk_pcap`."""
        return walk_pcap(
            window.buffer,
            window.start,
            window.end,
            self._big_endian,
            self._swapped_lengths,
            self._header_bytes,
            self._ns_per_unit,
            self._link_type,
            frames,
            before_ns,
        )


class PcapngRecords:
    """The blocks of a pcapng file; the rare ones, which change how the others are read, are read here."""

    def __init__(self) -> None:
        self._big_endian = False
        self._interfaces, self._interface_count = records(np.zeros(8, INTERFACE_STATE)), 0
        self._clock_ns = np.zeros(1, np.int64)

    def walk(self, window: Window, frames: Records, before_ns: Whole) -> tuple[Whole, Whole, int, Whole]:
        """Index the next records; see `walk_pcap`."""
        start: Whole = window.start
        while True:
            count, start, status, backward = walk_pcapng(
                window.buffer,
                start,
                window.end,
                self._big_endian,
                self._interfaces,
                self._interface_count,
                self._clock_ns,
                frames,
                before_ns,
            )
            if count or status not in (SECTION, INTERFACE):
                return count, start, status, backward
            block = window.buffer[start : window.end]
            block_bytes, status = self._read_section(block) if status == SECTION else self._read_interface(block)
            if status != FULL:
                return 0, start, status, backward
            start += block_bytes

    def _read_section(self, block: NDArray[np.uint8]) -> tuple[int, int]:
        """(bytes, status) of a section header block; the interfaces of the section before it are forgotten."""
        order = block[8:12].tobytes()
        if order not in (_ORDER_MAGIC, _ORDER_MAGIC[::-1]):
            return 0, BAD_SECTION
        self._big_endian = order == _ORDER_MAGIC
        byte_order = ">" if self._big_endian else "<"
        (block_bytes,) = struct.unpack(byte_order + "I", block[4:8].tobytes())
        block_bytes += -block_bytes % 4  # see _padded
        if not 28 <= block_bytes <= MAX_BLOCK_BYTES:
            return 0, BAD_LENGTH
        if block_bytes > len(block):
            return 0, MORE
        (major,) = struct.unpack(byte_order + "H", block[12:14].tobytes())
        (trailer,) = struct.unpack(byte_order + "I", block[block_bytes - 4 : block_bytes].tobytes())
        if major != 1:
            return 0, BAD_SECTION
        self._interface_count = 0
        return block_bytes, FULL if trailer + -trailer % 4 == block_bytes else BAD_TRAILER

    def _read_interface(self, block: NDArray[np.uint8]) -> tuple[int, int]:
        """(bytes, status) of an interface description block."""
        byte_order = ">" if self._big_endian else "<"
        (block_bytes,) = struct.unpack(byte_order + "I", block[4:8].tobytes())
        block_bytes += -block_bytes % 4
        if block_bytes < 20:
            return 0, BAD_LENGTH
        body = block[:block_bytes].tobytes()
        link_type, snap_bytes = struct.unpack_from(byte_order + "H2xI", body, 8)
        resolution, offset_s, at = 6, 0, 16
        while at + 4 <= block_bytes - 4:
            code, value_bytes = struct.unpack_from(byte_order + "HH", body, at)
            if at + 4 + value_bytes > block_bytes - 4:
                return 0, BAD_LENGTH
            if code == 9 and value_bytes == 1:
                resolution = body[at + 4]
            elif code == 14 and value_bytes == 8:
                (offset_s,) = struct.unpack_from(byte_order + "q", body, at + 4)
            at += 4 + (value_bytes + 3) // 4 * 4
        binary, power = resolution >> 7, resolution & 0x7F
        if power > (63 if binary else 19):
            return 0, BAD_RESOLUTION
        if self._interface_count == len(self._interfaces):
            self._interfaces = records(np.resize(self._interfaces, 2 * self._interface_count))
        interface = self._interfaces[self._interface_count]
        interface["link_type"], interface["snap_bytes"] = link_type, snap_bytes
        interface["shift"] = power if binary else -1
        interface["multiplier"] = 1 if binary else 10 ** max(0, 9 - power)
        interface["divisor"] = 1 if binary else 10 ** max(0, power - 9)
        is_told = abs(offset_s) <= _MOST_NS // 10**9
        interface["offset_ns"] = offset_s * 10**9 if is_told else NO_TIME
        units_per_s = 2**power if binary else 10**power
        interface["most_units"] = min(((_MOST_NS + 1) * units_per_s - 1) // 10**9, 2**64 - 1) if is_told else 0
        self._interface_count += 1
        return block_bytes, FULL
