"""ClientHellos behind and around other bytes."""

from __future__ import annotations

from support.tls_hellos import client_hello, vector

PROXY_V1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n"
PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)
CONNECT = b"CONNECT www.video.example:443 HTTP/1.1\r\nHost: www.video.example:443\r\n\r\n"


def with_extension(kind: int, content: bytes, before: bool, name: str = "www.video.example") -> bytes:
    """A hello with one more extension, before or behind all others."""
    handshake = client_hello(name)
    at = 4 + 2 + 32 + 33 + 6 + 2
    extensions, more = handshake[at + 2 :], kind.to_bytes(2) + vector(2, content)
    body = handshake[4:at] + vector(2, more + extensions if before else extensions + more)
    return b"\x01" + vector(3, body)


def chlo(*entries: tuple[bytes, bytes]) -> bytes:
    """A CHLO of tags and values."""
    made, end = b"", 0
    for tag, value in entries:
        end += len(value)
        made += tag + end.to_bytes(4, "little")
    values = b"".join(value for _, value in entries)
    return b"CHLO" + len(entries).to_bytes(2, "little") + b"\0\0" + made + values


CHLO = chlo((b"PAD\0", b"-" * 40), (b"SNI\0", b"www.Video.example"), (b"VER\0", b"Q043"))
