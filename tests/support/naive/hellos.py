"""Naive reading of a ClientHello: slices and no bounds, as the records and the message say it. Twin of `names.hello`."""

from __future__ import annotations

import re
from typing import NamedTuple

from trafficrefinery.services.names import HAS_ECH, MAY_HAVE_ECH, NO_ECH, Status, printable_name

MAX_RECORD_BYTES = 16384 + 2048


class Hello(NamedTuple):
    status: Status
    name: str | None = None
    ech: int = NO_ECH


NOT_TLS, NEED_MORE = Hello(Status.OTHER), Hello(Status.NEED_MORE)


def message(handshake: bytes) -> Hello:
    """A handshake message from its type byte, as far as it is there."""
    if handshake[:1] not in (b"", b"\x01") or handshake[4:5] not in (b"", b"\x03"):
        return NOT_TLS
    if len(handshake) < 4:
        return NEED_MORE
    whole = 4 + int.from_bytes(handshake[1:4])
    cut = Status.NOT_FOUND if len(handshake) >= whole else Status.NEED_MORE
    if len(handshake) < 6:
        return Hello(cut)
    rest = Reader(handshake[6:whole])
    try:
        rest.take(32)
        for width in (1, 2, 1):
            rest.vector(width)
        if not rest.data and cut is Status.NOT_FOUND:
            return Hello(Status.FOUND)
        left = int.from_bytes(rest.take(2))
    except EOFError:
        return Hello(cut)
    names: list[str | None] = []
    ech = NO_ECH
    while left > 0:
        try:
            kind = int.from_bytes(rest.take(2))
            content = rest.vector(2)
        except EOFError:
            name = next(iter(names), None)
            return Hello(Status.FOUND if name else cut, name, ech or MAY_HAVE_ECH)
        left -= 4 + len(content)
        if kind == 0:
            names.append(server_name(content))
        if kind == 0xFE0D:
            ech = HAS_ECH
    return Hello(Status.FOUND, next(iter(names), None), ech)


def server_name(extension: bytes) -> str | None:
    rest = Reader(extension[2:])
    try:
        while True:
            kind = rest.take(1)
            name = rest.vector(2)
            if kind == b"\0":
                return printable_name(name)
    except EOFError:
        return None


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        if len(self.data) < count:
            raise EOFError
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def vector(self, width: int) -> bytes:
        return self.take(int.from_bytes(self.take(width)))


def starts(stream: bytes) -> bool:
    """Whether a stream can begin with the record of a ClientHello."""
    return (
        stream[:1] == b"\x16"
        and stream[1:2] in (b"", b"\x03")
        and stream[2:3] <= b"\x04"
        and (len(stream) < 5 or 0 < int.from_bytes(stream[3:5]) <= MAX_RECORD_BYTES)
        and stream[5:6] in (b"", b"\x01")
    )


def first_record(stream: bytes) -> Hello:
    """What the first record says of a hello."""
    if not starts(stream):
        return NOT_TLS
    return message(stream[5 : 5 + int.from_bytes(stream[3:5])]) if len(stream) >= 6 else NEED_MORE


def all_records(stream: bytes) -> Hello:
    """What all records at the start of a stream say; another record in the middle of a hello makes it none."""
    if not starts(stream):
        return NOT_TLS if stream else NEED_MORE
    content, damaged = b"", False
    while stream and not damaged:
        header = stream[:5]
        if header[0] != 22 or header[1:2] not in (b"", b"\x03"):
            damaged = True
            break
        if len(header) < 5:
            break
        count = int.from_bytes(header[3:5])
        damaged = count > MAX_RECORD_BYTES
        content += stream[5 : 5 + count]
        stream = stream[5 + count :]
        if len(content) >= 4 and len(content) >= 4 + int.from_bytes(content[1:4]):
            break
    found = message(content)
    return NOT_TLS if damaged and found.status is Status.NEED_MORE else found


def find(stream: bytes) -> int | None:
    """Where a hello begins in a piece of a stream, -1 when a PROXY header may begin, None when nothing does."""
    if not stream:
        return None
    if stream[0] == 22:
        return 0 if starts(stream) else None
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    if signature.startswith(stream[:12]):
        if len(stream) < 16:
            return -1
        behind = 16 + int.from_bytes(stream[14:16])
        return behind if behind >= len(stream) or starts(stream[behind:]) else None
    text = re.match(rb"[\t\n\r -~]*\n(?=\x16)", stream)
    return text.end() if text and starts(stream[text.end() :]) else None


def in_stream(stream: bytes) -> Hello:
    """The same as `all_records`, also behind what a proxy or a client says first."""
    at = find(stream)
    if at is None:
        return NOT_TLS
    return NEED_MORE if at < 0 or at >= len(stream) else all_records(stream[at:])


def google(message: bytes) -> Hello:
    """A CHLO of Google's QUIC."""
    if len(message) < 8:
        return NEED_MORE
    if message[:4] != b"CHLO":
        return NOT_TLS
    count = int.from_bytes(message[4:6], "little")
    values = message[8 + 8 * count :]
    start = 0
    for at in range(8, 8 + 8 * count, 8):
        entry = message[at : at + 8]
        if len(entry) < 8:
            return NEED_MORE
        stop = int.from_bytes(entry[4:], "little")
        if stop < start:
            return Hello(Status.NOT_FOUND)
        if entry[:4] == b"SNI\0":
            name = values[start:stop]
            whole = len(message) >= 8 + 8 * count + stop
            return Hello(Status.FOUND, printable_name(name)) if whole else NEED_MORE
        start = stop
    return Hello(Status.FOUND)


def in_crypto(stream: bytes) -> Hello:
    """What a client's CRYPTO frames begin with: the message of TLS, or a CHLO."""
    return google(stream) if stream[:1] == b"C" else message(stream)
