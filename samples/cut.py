"""Cuts the payload of a trace to the headers, but not in DNS, TLS ClientHellos and QUIC Initials."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dpkt
import zstandard

PCAP_NS_MAGIC = 0xA1B23C4D
GLOBAL_HEADER = struct.Struct("<IHHiIII")
RECORD_HEADER = struct.Struct("<IIII")
SNAP_BYTES = 65535
TLS_PORT, DNS_PORT = 443, 53
INITIAL_TYPE = {1: 0, 0x6B3343CF: 1}  # QUIC version → packet type of an Initial (RFC 9000, RFC 9369)


class Frame(NamedTuple):
    ts: tuple[int, int]  # seconds, nanoseconds
    data: bytes
    ethernet: Any


def frames(path: Path) -> Iterator[Frame]:
    """All frames of a nanosecond pcap file."""
    data = path.read_bytes()
    magic, _, _, _, _, _, link_type = GLOBAL_HEADER.unpack_from(data)
    if (magic, link_type) != (PCAP_NS_MAGIC, 1):
        raise ValueError(f"{path}: not an Ethernet trace in nanoseconds")
    at = GLOBAL_HEADER.size
    while at < len(data):
        seconds, nanoseconds, captured_bytes, wire_bytes = RECORD_HEADER.unpack_from(data, at)
        at += RECORD_HEADER.size
        if captured_bytes != wire_bytes:
            raise ValueError(f"{path}: a frame is cut already")
        frame = data[at : at + captured_bytes]
        yield Frame((seconds, nanoseconds), frame, dpkt.ethernet.Ethernet(frame))
        at += captured_bytes


def hello_ranges(path: Path) -> dict[tuple[Any, ...], tuple[int, int]]:
    """Connection from its client's side → first sequence number and size in bytes of its ClientHello."""
    first: dict[tuple[Any, ...], int] = {}
    found: dict[tuple[Any, ...], tuple[int, int]] = {}
    for frame in frames(path):
        ip = frame.ethernet.data
        tcp = getattr(ip, "data", None)
        if not isinstance(tcp, dpkt.tcp.TCP) or tcp.dport != TLS_PORT:
            continue
        key = (ip.src, ip.dst, tcp.sport, tcp.dport)
        if tcp.flags & dpkt.tcp.TH_SYN:
            first[key] = tcp.seq + 1 & 0xFFFFFFFF
        elif tcp.seq == first.get(key) and len(tcp.data) > 5 and tcp.data[0] == 22 and tcp.data[5] == 1:
            found[key] = (tcp.seq, 5 + int.from_bytes(tcp.data[3:5], "big"))
    return found


def is_initial(payload: bytes) -> bool:
    if len(payload) < 5 or not payload[0] & 0x80:
        return False
    return INITIAL_TYPE.get(int.from_bytes(payload[1:5], "big")) == payload[0] >> 4 & 3


def kept_bytes(frame: Frame, hellos: dict[tuple[Any, ...], tuple[int, int]]) -> int:
    """How many bytes of a frame stay."""
    ip = frame.ethernet.data
    transport = getattr(ip, "data", None)
    if not isinstance(transport, dpkt.tcp.TCP | dpkt.udp.UDP) or DNS_PORT in (transport.sport, transport.dport):
        return len(frame.data)
    if isinstance(transport, dpkt.tcp.TCP):
        first, size_bytes = hellos.get((ip.src, ip.dst, transport.sport, transport.dport), (0, 0))
        whole = transport.seq - first & 0xFFFFFFFF < size_bytes and len(transport.data) > 0
    else:
        whole = is_initial(transport.data)
    return len(frame.data) if whole else len(frame.data) - len(transport.data)


def cut(source: Path, target: Path) -> int:
    """Write the cut and compressed trace; the number of its packets."""
    hellos = hello_ranges(source)
    parts = [GLOBAL_HEADER.pack(PCAP_NS_MAGIC, 2, 4, 0, 0, SNAP_BYTES, 1)]
    # The two directions are stamped on two processors and stored in batches: on the wire they came in order of time.
    for frame in sorted(frames(source), key=lambda frame: frame.ts):
        kept = kept_bytes(frame, hellos)
        parts += [RECORD_HEADER.pack(*frame.ts, kept, len(frame.data)), frame.data[:kept]]
    target.write_bytes(zstandard.ZstdCompressor(level=19).compress(b"".join(parts)))
    return len(parts) // 2
