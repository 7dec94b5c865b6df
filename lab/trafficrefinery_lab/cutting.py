"""Which bytes of a frame are kept: headers, and the payload of what tells names."""

from __future__ import annotations

from .dns import DNS_PORT
from .requests import TLS_PORT

_TCP, _UDP = 6, 17
_SYN = 2
_ETHERNET_BYTES, _IPV6_BYTES, _UDP_BYTES = 14, 40, 8
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_INITIAL_TYPE = {1: 0, 0x6B3343CF: 1}
"""Version of QUIC: packet type of an Initial (RFC 9000, RFC 9369)."""
_UNSEEN_HELLO_BYTES = 4096  # of which nobody knows the size yet, as its second segment overtook the first


def is_initial(payload: bytes) -> bool:
    """Whether a UDP payload starts with a QUIC Initial packet."""
    if len(payload) < 5 or not payload[0] & 0x80:
        return False
    return _INITIAL_TYPE.get(int.from_bytes(payload[1:5], "big")) == payload[0] >> 4 & 3


class Cutter:
    """Cuts the Ethernet frames of one trace, in their order: it remembers where each ClientHello is."""

    def __init__(self) -> None:
        self._hellos: dict[bytes, tuple[int, int]] = {}  # connection: first sequence number, size in bytes

    def kept_bytes(self, frame: bytes) -> int:
        """How many bytes of a frame stay."""
        kind = frame[12:14]
        if kind == b"\x08\x00":
            protocol, transport = frame[23], _ETHERNET_BYTES + (frame[14] & 15) * 4
        elif kind == b"\x86\xdd":
            protocol, transport = frame[20], _ETHERNET_BYTES + _IPV6_BYTES
        else:
            return len(frame)
        if protocol not in (_TCP, _UDP):
            return len(frame)
        source, destination = (int.from_bytes(frame[transport + at : transport + at + 2], "big") for at in (0, 2))
        if DNS_PORT in (source, destination):
            return len(frame)
        if protocol == _UDP:
            payload = transport + _UDP_BYTES
            return len(frame) if is_initial(frame[payload : payload + 5]) else payload
        return self._tcp_kept_bytes(frame, transport, destination == TLS_PORT)

    def _tcp_kept_bytes(self, frame: bytes, transport: int, to_server: bool) -> int:
        payload = transport + (frame[transport + 12] >> 4) * 4
        if not to_server:
            return payload
        connection = frame[_ETHERNET_BYTES + 12 : transport + 4] if frame[12] == 8 else frame[22 : transport + 4]
        sequence = int.from_bytes(frame[transport + 4 : transport + 8], "big")
        if frame[transport + 13] & _SYN:
            self._hellos[connection] = sequence + 1 & 0xFFFFFFFF, _UNSEEN_HELLO_BYTES
        first, size_bytes = self._hellos.get(connection, (0, 0))
        body = frame[payload : payload + 6]
        if size_bytes and sequence == first and len(body) == 6 and body[0] == _HANDSHAKE and body[5] == _CLIENT_HELLO:
            size_bytes = 5 + int.from_bytes(body[3:5], "big")
            self._hellos[connection] = first, size_bytes
        return len(frame) if (sequence - first) & 0xFFFFFFFF < size_bytes else payload
