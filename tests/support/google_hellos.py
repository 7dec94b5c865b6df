"""Google QUIC packets with a CHLO."""

from __future__ import annotations


def google(version: bytes, message: bytes, number: int = 1) -> bytes:
    """A packet with a CHLO, as the versions frame it."""
    stream = b"\xa0\x01" + (len(message).to_bytes(2)) + message
    if version in (b"Q044", b"Q046"):
        header = b"\xc3" + version + b"\x50" + b"8 bytes!" + number.to_bytes(4)
    else:
        header = b"\x0d" + b"8 bytes!" + version + bytes([number])
    private = b"\x01" if version < b"Q034" else b""
    return (header + bytes(range(12)) + private + stream).ljust(1350, b"\0")
