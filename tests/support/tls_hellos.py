"""ClientHellos, byte by byte."""

from __future__ import annotations

import struct


def vector(width, content):
    return len(content).to_bytes(width) + content


def client_hello(name="www.video.example", alpn=("h2", "http/1.1"), padding_bytes=0):
    """A handshake message with the extensions that browsers send before and after the name."""
    extensions = struct.pack(">HH", 0x3A3A, 0)
    if padding_bytes:
        extensions += struct.pack(">H", 21) + vector(2, bytes(padding_bytes))
    if name is not None:
        extensions += struct.pack(">H", 0) + vector(2, vector(2, b"\0" + vector(2, name.encode())))
    if alpn:
        extensions += struct.pack(">H", 16) + vector(2, vector(2, b"".join(vector(1, p.encode()) for p in alpn)))
    extensions += struct.pack(">H", 23) + vector(2, b"")
    body = b"\x03\x03" + bytes(32) + vector(1, bytes(32)) + vector(2, b"\x13\x01\x13\x02") + vector(1, b"\0")
    return b"\x01" + vector(3, body + vector(2, extensions))


def record(handshake, record_bytes=16384):
    """Handshake bytes in TLS records of at most `record_bytes` each."""
    pieces = [handshake[start : start + record_bytes] for start in range(0, len(handshake), record_bytes)]
    return b"".join(b"\x16\x03\x01" + vector(2, piece) for piece in pieces)
