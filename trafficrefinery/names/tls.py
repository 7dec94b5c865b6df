"""TLS ClientHello: the server name (SNI, RFC 6066) and application protocols that a client asks for."""

from __future__ import annotations

from typing import NamedTuple

from trafficrefinery.names import Status, printable_name
from trafficrefinery.names.assembly import ByteAssembly, seq_offset

_LIMIT_BYTES = 16 * 1024
_MAX_SEGMENTS = 64  # of one flow; bounds the work on hellos sent byte by byte
_MAX_STRAY_SEGMENTS = 3  # before the start of a hello whose SYN was not seen
_MAX_RECORD_BYTES = 16384 + 2048
_HANDSHAKE_RECORD = 22
_CLIENT_HELLO = 1
_SERVER_NAME, _ALPN = 0, 16


class ClientHello(NamedTuple):
    """What is read of a ClientHello; `complete` is False when it is cut or damaged before its end."""

    sni: str | None
    alpn: tuple[str, ...]
    complete: bool


def read_client_hello(handshake: bytes) -> ClientHello | None:
    """Read a handshake message, from its type byte; None when it is no ClientHello.

    A message cut off in the middle gives what lies before the cut.
    """
    if len(handshake) < 6 or handshake[0] != _CLIENT_HELLO or handshake[4] != 3:
        return None
    hello_end = 4 + int.from_bytes(handshake[1:4])
    hello = handshake[:hello_end]
    position = 4 + 2 + 32  # behind version and random
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        position += width + int.from_bytes(hello[position : position + width])
    if position == hello_end:
        return ClientHello(None, (), complete=True)  # without extensions, as in SSL 3
    end = position + 2 + int.from_bytes(hello[position : position + 2])
    position += 2
    sni: str | None = None
    alpn: tuple[str, ...] = ()
    while position < end:
        start = position + 4
        position = start + int.from_bytes(hello[start - 2 : start])
        if max(start, position) > len(hello):
            return ClientHello(sni, alpn, complete=False)
        kind = int.from_bytes(hello[start - 4 : start - 2])
        if kind == _SERVER_NAME and sni is None:
            sni = _server_name(hello[start:position])
        elif kind == _ALPN:
            alpn = _protocols(hello[start:position])
    return ClientHello(sni, alpn, complete=position <= len(hello))


def _server_name(extension: bytes) -> str | None:
    position = 2  # behind the length of the list
    while position + 3 <= len(extension):
        start = position + 3
        kind, position = extension[position], start + int.from_bytes(extension[start - 2 : start])
        if position > len(extension):
            break
        if kind == 0:
            return printable_name(extension[start:position])
    return None


def _protocols(extension: bytes) -> tuple[str, ...]:
    found: list[str] = []
    position = 2  # behind the length of the list
    while position < len(extension):
        start = position + 1
        position = start + extension[position]
        if position > len(extension):
            break
        found.append(extension[start:position].decode("ascii", "backslashreplace"))
    return tuple(found)


def starts_client_hello(payload: bytes) -> bool:
    """Whether these bytes can be the start of a TLS record with a ClientHello; six bytes decide surely."""
    return (
        payload[:1] == b"\x16"
        and payload[1:2] in (b"", b"\x03")
        and payload[2:3] <= b"\x04"
        and (len(payload) < 5 or 0 < int.from_bytes(payload[3:5]) <= _MAX_RECORD_BYTES)
        and payload[5:6] in (b"", b"\x01")
    )


def _handshake_bytes(stream: bytes) -> bytes | None:
    """The content of the handshake records at the start of a stream; None when another record is among them."""
    content = bytearray()
    position = 0
    while position < len(stream):
        header = stream[position : position + 5]
        if header[0] != _HANDSHAKE_RECORD or header[1:2] not in (b"", b"\x03"):
            return None
        record_bytes = int.from_bytes(header[3:5])
        if len(header) == 5 and record_bytes > _MAX_RECORD_BYTES:
            return None
        content += stream[position + 5 : position + 5 + record_bytes]
        if len(content) >= 4 and len(content) >= 4 + int.from_bytes(content[1:4]):
            break  # what follows the hello is not looked at
        position += 5 + record_bytes
    return bytes(content)


class ClientHelloReader:
    """Puts the ClientHello of one TCP flow together, from the client's segments in any order.

    The name is reported as soon as it is there, even when the hello goes on; its absence only at the hello's end.

    Args:
        isn_plus_1: sequence number of the first payload byte; None when the SYN was not seen. Then the first
            segment that looks like the start of a hello is taken for the start.
    """

    def __init__(self, isn_plus_1: int | None = None) -> None:
        self.sni: str | None = None
        self.alpn: tuple[str, ...] = ()
        self.status = Status.NEED_MORE
        self._start_seq = isn_plus_1
        self._stream = ByteAssembly(_LIMIT_BYTES)
        self._strays: list[tuple[int, bytes]] = []
        self._segments = 0
        self._truncated = False

    def feed(self, seq: int, payload: bytes, truncated: bool = False) -> Status:
        """Take the payload of a segment; `truncated` when the capture cut it off.

        `seq` is of the first payload byte (of a SYN with data: the initial sequence number plus one).
        """
        if self.status is not Status.NEED_MORE or not payload:
            return self.status
        self._segments += 1
        self._truncated |= truncated
        if self._start_seq is None and not self._find_start(seq, payload):
            return self.status
        ready_bytes = self._stream.ready_bytes
        self._stream.add(seq_offset(seq, self._start_seq or 0), payload)
        if self._stream.ready_bytes > ready_bytes:
            self.status = self._read()
        if self.status is Status.NEED_MORE and self._segments >= _MAX_SEGMENTS:
            self.status = Status.NOT_FOUND
        return self.status

    def _find_start(self, seq: int, payload: bytes) -> bool:
        if starts_client_hello(payload):
            self._start_seq = seq
            for stray_seq, stray in self._strays:
                offset = seq_offset(stray_seq, seq)
                if offset > 0:  # what lies before the start is of something else
                    self._stream.add(offset, stray)
            self._strays.clear()
            return True
        self._strays.append((seq, payload[:_LIMIT_BYTES]))
        if len(self._strays) >= _MAX_STRAY_SEGMENTS:
            self.status = Status.NOT_TLS
        return False

    def _read(self) -> Status:
        stream = self._stream.prefix()
        handshake = _handshake_bytes(stream) if starts_client_hello(stream) else None
        if handshake is None or handshake[:1] not in (b"", b"\x01"):
            return Status.NOT_TLS
        hello = read_client_hello(handshake)
        if hello is None and len(handshake) >= 6:
            return Status.NOT_TLS
        announced_bytes = 4 + int.from_bytes(handshake[1:4])
        if hello is not None and (hello.sni is not None or hello.complete):
            self.sni, self.alpn = hello.sni, hello.alpn
            return Status.FOUND
        whole = len(handshake) >= 4 and len(handshake) >= announced_bytes
        if whole or self._truncated or len(stream) >= _LIMIT_BYTES:
            return Status.NOT_FOUND
        return Status.NEED_MORE
