"""Traces in pcap and pcapng, written and read naively."""

from __future__ import annotations

import gzip
import heapq
import struct
from typing import NamedTuple

import zstandard

from trafficrefinery.capture.traces.reader import TraceReader


class Frame(NamedTuple):
    """A frame, whole: equal frames are the same packet."""

    ts_ns: int
    data: bytes
    wire_bytes: int
    link_type: int


def pcap_file(frames, *, order="<", magic=0xA1B23C4D, link=1, version=(2, 4)):
    unit_ns = 1 if magic == 0xA1B23C4D else 1000
    out = struct.pack(order + "IHHiIII", magic, *version, 0, 0, 65535, link)
    for frame in frames:
        seconds, rest_ns = divmod(frame.ts_ns, 10**9)
        out += struct.pack(order + "IIII", seconds, rest_ns // unit_ns, len(frame.data), frame.wire_bytes)
        if magic == 0xA1B2CD34:
            out += struct.pack(order + "IHBB", 1, 8, 0, 0)
        out += frame.data
    return out


def block(order, kind, body):
    body += bytes(-len(body) % 4)
    size = len(body) + 12
    return struct.pack(order + "II", kind, size) + body + struct.pack(order + "I", size)


def option(order, code, value):
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order="<", version=(1, 0), options=b""):
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, *version, -1) + options)


def interface(order="<", *, link=1, snap=0, resolution=None, offset_s=None):
    options = option(order, 2, b"eth0")
    if resolution is not None:
        options += option(order, 9, bytes([resolution]))
    if offset_s is not None:
        options += option(order, 14, struct.pack(order + "q", offset_s))
    return block(order, 1, struct.pack(order + "HHI", link, 0, snap) + options + option(order, 0, b""))


def enhanced(order, units, frame, number=0, options=b""):
    data = frame.data + bytes(-len(frame.data) % 4)
    fixed = struct.pack(order + "IIIII", number, units >> 32, units & 0xFFFFFFFF, len(frame.data), frame.wire_bytes)
    return block(order, 6, fixed + data + options)


def obsolete(order, units, frame, number=0):
    fixed = struct.pack(order + "HHIIII", number, 7, units >> 32, units & 0xFFFFFFFF, len(frame.data), frame.wire_bytes)
    return block(order, 2, fixed + frame.data)


def pcapng_file(frames, order="<", resolution=9):
    return (
        section(order)
        + interface(order, resolution=resolution)
        + b"".join(enhanced(order, frame.ts_ns // 10 ** (9 - resolution), frame) for frame in frames)
    )


class DamageError(Exception):
    """At a position; what was read before it stands."""


def naive_frames(data):
    """(frames, position of the damage or None) of an uncompressed trace with a good file header."""
    frames = []
    read = naive_pcapng if data.startswith(b"\x0a\x0d\x0d\x0a") else naive_pcap
    try:
        frames.extend(read(data, frames))
    except DamageError as damage:
        return frames, damage.args[0]
    return frames, None


def naive_pcap(data, frames):
    order = ">" if data[0] == 0xA1 else "<"
    magic, _, minor, _, _, _, link = struct.unpack(order + "IHHiIII", data[:24])
    unit_ns = 1 if magic == 0xA1B23C4D else 1000
    header_bytes = 24 if magic == 0xA1B2CD34 else 16
    at = 24
    while at < len(data):
        header = data[at : at + header_bytes]
        if len(header) < header_bytes:
            raise DamageError(at)
        seconds, fraction, captured, wire = struct.unpack(order + "IIII", header[:16])
        if minor < 4 and captured > wire:
            captured, wire = wire, captured
        payload = data[at + header_bytes : at + header_bytes + captured]
        if captured > 2**20 or len(payload) < captured:
            raise DamageError(at)
        frames.append(Frame(seconds * 10**9 + fraction * unit_ns, payload, max(wire, captured), link & 0x3FFFFFF))
        at += header_bytes + captured
    return []


def naive_pcapng(data, frames):
    at, order, interfaces, clock_ns = 0, "<", [], 0
    while at < len(data):
        order, kind, body = naive_block(data, at, order)
        if kind == 0x0A0D0D0A:
            interfaces = []
        elif kind == 1:
            interfaces.append(naive_interface(order, body, at))
        elif kind in (2, 3, 6):
            number = {2: struct.unpack_from(order + "H", body)[0], 3: 0, 6: struct.unpack_from(order + "I", body)[0]}
            if number[kind] >= len(interfaces):
                raise DamageError(at)
            link, snap, units_per_s, offset_s = interfaces[number[kind]]
            if kind == 3:
                (wire,) = struct.unpack_from(order + "I", body)
                captured, payload = min(wire, snap or wire, len(body) - 4), body[4:]
            else:
                high, low, captured, wire = struct.unpack_from(order + "IIII", body, 4)
                payload = body[20:]
                since_ns = (high << 32 | low) * 10**9 // units_per_s
                clock_ns = since_ns + offset_s * 10**9
                if max(since_ns, clock_ns) >= 2**63 or abs(offset_s) >= 2**63 // 10**9 + 1:
                    clock_ns = -(2**63)
            if captured > len(payload) or captured > 2**20:
                raise DamageError(at)
            frames.append(Frame(clock_ns, payload[:captured], max(wire, captured), link))
        at += len(body) + 12
    return []


def naive_block(data, at, order):
    """(byte order of the section, kind, body) of the block at a position."""
    if len(data) < at + 12:
        raise DamageError(at)
    is_section = data[at : at + 4] == b"\x0a\x0d\x0d\x0a"
    if is_section:
        if data[at + 8 : at + 12] not in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"):
            raise DamageError(at)
        order = ">" if data[at + 8] == 0x1A else "<"
    kind, size = struct.unpack_from(order + "II", data, at)
    least = {0x0A0D0D0A: 28, 1: 20, 2: 32, 3: 16, 6: 32}.get(kind, 12)
    size += -size % 4  # some writers leave the padding out of the length
    if size < least or size > 2**24 or at + size > len(data):
        raise DamageError(at)
    version, (trailer,) = data[at + 12 : at + 14], struct.unpack(order + "I", data[at + size - 4 : at + size])
    if trailer + -trailer % 4 != size or (is_section and version != struct.pack(order + "H", 1)):
        raise DamageError(at)
    return order, kind, data[at + 8 : at + size - 4]


def naive_interface(order, body, at):
    link, snap = struct.unpack_from(order + "HxxI", body)
    units_per_s, offset_s, rest = 10**6, 0, body[8:]
    while len(rest) >= 4:
        code, size = struct.unpack_from(order + "HH", rest)
        value, rest = rest[4 : 4 + size], rest[4 + size + -size % 4 :]
        if len(value) < size:
            raise DamageError(at)
        if code == 9 and size == 1:
            base, power = (2, value[0] - 128) if value[0] >= 128 else (10, value[0])
            units_per_s = base**power
            if units_per_s >= 2**64:
                raise DamageError(at)
        if code == 14 and size == 8:
            (offset_s,) = struct.unpack(order + "q", value)
    return link, snap, units_per_s, offset_s


def frames_of(reader):
    """All frames; each must lie inside the buffer of its block."""
    frames = []
    for buffer, headers in reader:
        assert len(headers) > 0
        for ts_ns, offset, captured, wire, link, flags in headers.tolist():
            assert 0 <= offset <= offset + captured <= len(buffer)
            assert captured <= wire
            assert flags == 0
            frames.append(Frame(ts_ns, buffer[offset : offset + captured].tobytes(), wire, link))
    return frames


def read(*paths, **arguments):
    with TraceReader(paths, **arguments) as reader:
        frames = frames_of(reader)
        assert reader.total_bytes is None or reader.position_bytes == reader.total_bytes
        return frames, reader.damage


def in_pieces(compress, data, between=b""):
    return between.join(compress(data[i : i + 777]) for i in range(0, len(data), 777))


def zstd_flushed(data):
    """Many small blocks in one frame, its size not in the header."""
    engine = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    pieces = [data[i : i + 777] for i in range(0, len(data), 777)]
    return b"".join(engine.compress(piece) + engine.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for piece in pieces) + (
        engine.flush()
    )


COMPRESSIONS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "gzip members": lambda data: in_pieces(gzip.compress, data),
    "gzip padded": lambda data: in_pieces(gzip.compress, data, bytes(99)) + bytes(99),
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
    "zstd blocks": zstd_flushed,
    "zstd frames": lambda data: in_pieces(zstandard.compress, data, b"\x5e\x2a\x4d\x18\x03\0\0\0abc"),
    "zstd skippable first": lambda data: b"\x50\x2a\x4d\x18\0\0\0\0" + zstandard.compress(data),
}


def merged_naively(traces):
    """Always the oldest head; of equal ones the first: heapq.merge is stable."""
    return list(heapq.merge(*traces, key=lambda frame: frame.ts_ns))
