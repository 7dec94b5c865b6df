"""Frames that carry DNS."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import dpkt

HEADER_BYTES = {0: 4, 12: 0, 101: 0, 108: 4, 228: 0, 229: 0}  # loopback and raw IP
ETHER_TYPE_AT = {1: (12, 14), 113: (14, 16), 276: (0, 20)}  # where the type is, and the end of the header
PPP_IP = (b"\x00\x21", b"\x00\x57")


class Segment(NamedTuple):
    """A whole (not fragmented, not tunnelled) TCP segment or UDP datagram."""

    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    seq: int
    is_syn: bool
    payload: bytes
    truncated: bool

    @property
    def flow(self) -> tuple[Any, ...]:
        return self[:5]


def frames(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Link type and bytes of each frame, up to where the file is damaged."""
    magic = file.read(4)
    file.seek(0)
    reader = dpkt.pcapng.Reader(file) if magic == b"\x0a\x0d\x0d\x0a" else dpkt.pcap.Reader(file)
    try:
        for _, frame in reader:
            yield reader.datalink(), bytes(frame)
    except (dpkt.dpkt.Error, ValueError, KeyError):
        return


def ip_packet(link_type: int, frame: bytes) -> bytes:
    """The outermost IP packet of a frame."""
    if link_type in HEADER_BYTES:
        return frame[HEADER_BYTES[link_type] :]
    if link_type == 9:
        frame = frame.removeprefix(b"\xff\x03")
        return frame[2:] if frame[:2] in PPP_IP else b""
    if link_type not in ETHER_TYPE_AT:
        return b""
    at, header_bytes = ETHER_TYPE_AT[link_type]
    ether_type, rest = int.from_bytes(frame[at : at + 2]), frame[header_bytes:]
    while ether_type in (0x8100, 0x88A8, 0x9100):
        ether_type, rest = int.from_bytes(rest[2:4]), rest[4:]
    if ether_type in (0x8847, 0x8848):
        while len(rest) >= 4 and not rest[2] & 1:
            rest = rest[4:]
        return rest[4:]
    if ether_type == 0x8864:
        return rest[8:] if rest[6:8] in PPP_IP else b""
    return rest if ether_type in (0x0800, 0x86DD) else b""


def segment(packet: bytes) -> Segment | None:
    """The TCP segment or UDP datagram of an IP packet."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        if int.from_bytes(packet[6:8]) & 0x3FFF:
            return None
        protocol, start, end = packet[9], 4 * (packet[0] & 15), int.from_bytes(packet[2:4])
        source, destination = (socket.inet_ntop(socket.AF_INET, packet[at : at + 4]) for at in (12, 16))
    elif version == 6 and len(packet) >= 40:
        protocol, start, end = packet[6], 40, 40 + int.from_bytes(packet[4:6])
        source, destination = (socket.inet_ntop(socket.AF_INET6, packet[at : at + 16]) for at in (8, 24))
        while protocol in (0, 43, 60) and len(packet) >= start + 8:
            protocol, start = packet[start], start + 8 * (1 + packet[start + 1])
    else:
        return None
    end = max(end, start) if end else len(packet)  # segmentation offload leaves the length zero
    header, truncated = packet[start : start + 20], end > len(packet)
    if protocol == 6 and len(header) == 20:
        payload = packet[start + 4 * (header[12] >> 4) : end]
        seq, is_syn = int.from_bytes(header[4:8]), bool(header[13] & 2)
    elif protocol == 17 and len(header) >= 8:
        payload, seq, is_syn = packet[start + 8 : end], 0, False
    else:
        return None
    ports = int.from_bytes(header[0:2]), int.from_bytes(header[2:4])
    return Segment(protocol, source, ports[0], destination, ports[1], seq, is_syn, payload, truncated)
