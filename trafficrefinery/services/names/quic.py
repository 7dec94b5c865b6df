"""QUIC Initial packets: the hello inside, decrypted with the keys that everyone can derive (RFC 9001, 5.2).

The hello is a ClientHello of TLS, or a CHLO in Google's Q050.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from . import Status
from .assembly import ByteAssembly
from .quic_datagrams import INITIAL_BYTES, MAX_PACKETS, message_name
from .streams import LIMIT_BYTES

_UNREAD_MAX = 32  # datagrams that no key opened, which are not tried again
_UNITS_PER_TRY = 2  # 20 µs
_PADDING = re.compile(rb"[\x00\x01]*")
_CRYPTO = (6, 8)  # frame types; 8 is Google's in Q050, T050 and T051, and can be nothing else in an Initial


class _Version(NamedTuple):
    salt: bytes
    label: str  # prefix of the key labels
    initial_type: int  # the two type bits of an Initial


def _versions() -> dict[int, _Version]:
    v1 = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")  # RFC 9001, 5.2
    v2 = bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9")  # RFC 9369, 3.3.1
    draft_22 = bytes.fromhex("7fbcdb0e7c66bbe9193a96cd21519ebd7a02644a")
    draft_23 = bytes.fromhex("c3eef712c72ebb5a11a7d2432bb46365bef9f502")  # up to draft 28
    draft_29 = bytes.fromhex("afbfec289993d24c9e9786f19c6111e04390a899")  # up to draft 32
    drafts = {22: draft_22} | dict.fromkeys(range(23, 29), draft_23) | dict.fromkeys(range(29, 33), draft_29)
    salts = {0xFF000000 | draft: salt for draft, salt in drafts.items()}
    salts |= {0x00000001: v1, 0xFF000021: v1, 0xFF000022: v1}
    salts |= {0xFACEB001: draft_22, 0xFACEB002: draft_23, 0xFACEB00E: draft_23}  # Facebook's mvfst
    salts[0x51303530] = bytes.fromhex("504574efd066fe2f9d945cfcdbd3a7f0d3b56b45")  # Google's Q050
    salts[0x54303530] = bytes.fromhex("7ff579e5acd072915580304c43a2367c60488310")  # T050
    salts[0x54303531] = bytes.fromhex("7a4edef4e7ccee5fa4506c19124fc8ccda6e033d")  # and T051
    return {version: _Version(salt, "quic", 0) for version, salt in salts.items()} | {
        0x6B3343CF: _Version(v2, "quicv2", 1)
    }


_VERSIONS = _versions()
_LATEST = (_VERSIONS[1], _VERSIONS[0xFF00001D])  # what clients that force a version negotiation derive their keys by


def _candidates(version: int) -> tuple[_Version, ...]:
    if version & 0x0F0F0F0F == 0x0A0A0A0A:  # reserved for that (RFC 9000, 15)
        return _LATEST
    known = _VERSIONS.get(version)
    return () if known is None else (known,)


class InitialKeys(NamedTuple):
    """The keys of the client's Initial packets."""

    key: bytes
    iv: bytes
    header_key: bytes


def initial_keys(version: int, connection_id: bytes) -> InitialKeys:
    """The client's Initial keys for the destination connection id of its first Initial; KeyError: not supported."""
    return _derive(_VERSIONS[version], connection_id)


def _derive(version: _Version, connection_id: bytes) -> InitialKeys:
    salt, label, _ = version
    secret = _expand(hmac.digest(salt, connection_id, "sha256"), "client in", 32)
    return InitialKeys(
        _expand(secret, f"{label} key", 16), _expand(secret, f"{label} iv", 12), _expand(secret, f"{label} hp", 16)
    )


def _expand(secret: bytes, label: str, count: int) -> bytes:
    """HKDF-Expand-Label of TLS 1.3 (RFC 8446, 7.1), for at most one block of output."""
    name = b"tls13 " + label.encode()
    return hmac.digest(secret, count.to_bytes(2) + bytes([len(name)]) + name + b"\x00\x01", "sha256")[:count]


class _Initial(NamedTuple):
    version: _Version
    connection_id: bytes  # of the destination
    packet: bytes  # from the first header byte to the end of the payload
    number_offset: int  # of the protected packet number


def may_be_initial(datagram: bytes) -> bool:
    """Whether a datagram is large enough and starts like a QUIC packet with a long header."""
    return len(datagram) >= INITIAL_BYTES and datagram[0] & 0xC0 == 0xC0


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A variable-length integer (RFC 9000, 16) and the position behind it; beyond the data when it is cut."""
    if position >= len(data):
        return 0, len(data) + 1
    end = position + (1 << (data[position] >> 6))
    value = int.from_bytes(data[position:end])
    return value & ((1 << (8 * (end - position) - 2)) - 1), end


def _initials(datagram: bytes) -> Iterator[_Initial]:
    """The Initial packets of a datagram, whatever they are coalesced with."""
    start = 0
    for _ in range(MAX_PACKETS):
        if start + 7 > len(datagram) or datagram[start] & 0xC0 != 0xC0:
            return
        versions = _candidates(int.from_bytes(datagram[start + 1 : start + 5]))
        id_start = start + 6
        id_end = id_start + datagram[start + 5]
        if not versions or id_end >= len(datagram) or id_end - id_start > 20:
            return
        position = id_end + 1 + datagram[id_end]
        kind = ((datagram[start] >> 4 & 3) - versions[0].initial_type) & 3  # 0 Initial, 1 0-RTT, 2 Handshake, 3 Retry
        if kind == 3:
            return
        if kind == 0:
            token_bytes, position = _varint(datagram, position)
            position += token_bytes
        payload_bytes, position = _varint(datagram, position)
        end = position + payload_bytes
        if end > len(datagram):
            return
        for version in versions if kind == 0 else ():
            yield _Initial(version, datagram[id_start:id_end], datagram[start:end], position - start)
        start = end


def _decrypt(initial: _Initial, keys: InitialKeys) -> bytes | None:
    """The frames of an Initial packet, or None when the keys do not fit (RFC 9001, 5.3 and 5.4)."""
    packet, offset = bytearray(initial.packet), initial.number_offset
    sample = bytes(packet[offset + 4 : offset + 20])
    if len(sample) < 16:
        return None
    encryptor = Cipher(algorithms.AES(keys.header_key), modes.ECB()).encryptor()
    mask = encryptor.update(sample)
    packet[0] ^= mask[0] & 0x0F
    number_end = offset + 1 + (packet[0] & 3)
    for index in range(offset, number_end):
        packet[index] ^= mask[1 + index - offset]
    number = int.from_bytes(packet[offset:number_end])
    nonce = (int.from_bytes(keys.iv) ^ number).to_bytes(12)
    try:
        return AESGCM(keys.key).decrypt(nonce, bytes(packet[number_end:]), bytes(packet[:number_end]))
    except InvalidTag:
        return None


def _end_of_padding(frames: bytes, position: int) -> int:
    """The position behind PADDING and PING frames."""
    padding = _PADDING.match(frames, position)
    return padding.end() if padding else position


def _crypto_frames(frames: bytes) -> Iterator[tuple[int, bytes]]:
    """Offset and data of the CRYPTO frames; PADDING, PING and ACK are skipped, anything else ends the walk."""
    position = 0
    while (position := _end_of_padding(frames, position)) < len(frames):
        kind = frames[position]
        position += 1
        if kind in (2, 3):
            position = _after_ack(frames, position, ecn=kind == 3)
        elif kind in _CRYPTO:
            offset, position = _varint(frames, position)
            count, position = _varint(frames, position)
            if position + count > len(frames):
                return
            yield offset, frames[position : position + count]
            position += count
        else:
            return


def _after_ack(frames: bytes, position: int, ecn: bool) -> int:
    for _ in range(2):  # largest acknowledged, delay
        _, position = _varint(frames, position)
    ranges, position = _varint(frames, position)
    for _ in range(min(1 + 2 * ranges + 3 * ecn, len(frames))):
        _, position = _varint(frames, position)
    return position


def crypto_name(crypto: bytes) -> tuple[Status, str | None, int]:
    """The hello in the CRYPTO bytes of QUIC: what is known of it, its server name, and what it says of ECH."""
    message = bytearray(crypto)
    status, name_at, name_bytes, ech = message_name(np.frombuffer(message, np.uint8))
    return Status(status), message[name_at : name_at + name_bytes].decode("ascii").lower() or None, ech


class QuicInitialReader:
    """Puts the hello of one QUIC connection together, from the datagrams that the client sends.

    Looked at are Initials of supported versions in datagrams of at least 1,200 bytes. The name is reported as soon as
    it is there. What ends the search are 16 KiB of distinct CRYPTO data; datagrams that come again, that bring CRYPTO
    data again, or that no key opens do not count, as they may be the server's, or anybody's.

    Attributes:
        ech: what the hello says of Encrypted Client Hello, see `names`.
        has_begun: CRYPTO data is there.
        unread_bytes: of distinct datagrams that no key opened, up to a bound.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.ech = 0
        self.status = Status.NEED_MORE
        self.has_begun = False
        self.unread_bytes = 0
        self._frames = 0  # of CRYPTO in the last datagram
        self._tries = 0  # to decrypt a packet of it
        self._unread: set[int] = set()  # hashes of datagrams that no key opened
        self._keys: dict[bytes, InitialKeys] = {}  # first connection id first
        self._crypto = ByteAssembly(LIMIT_BYTES)

    @staticmethod
    def warm_up() -> None:
        """Compile, or load from the cache, what the first datagram would wait for."""
        crypto_name(b"\x01")

    @property
    def memory_bytes(self) -> int:
        """What the reader takes of memory, beside a constant."""
        return self._crypto.memory_bytes

    @property
    def extra_units(self) -> int:
        """Work that the last datagram made, beyond that of a usual one; a unit is 10 µs."""
        return self._frames // 16 + max(self._tries - 2, 0) * _UNITS_PER_TRY

    def feed(self, datagram: bytes) -> Status:
        """Take a UDP payload. NOT_FOUND when the name cannot come any more."""
        self._frames = self._tries = 0
        if self.status is Status.NEED_MORE and may_be_initial(datagram) and hash(datagram) not in self._unread:
            self._read(datagram)
        return self.status

    def _read(self, datagram: bytes) -> None:
        ready_bytes = self._crypto.ready_bytes
        opened = False
        for initial in _initials(datagram):
            frames = self._open(initial)
            opened |= frames is not None
            for offset, data in _crypto_frames(frames or b""):
                self._frames += 1
                self._crypto.add(offset, data)
                self.has_begun = True
        if self._crypto.ready_bytes > ready_bytes:
            self._read_hello()
        if not opened and len(self._unread) < _UNREAD_MAX:
            self._unread.add(hash(datagram))
            self.unread_bytes += len(datagram)

    def _open(self, initial: _Initial) -> bytes | None:
        """The frames of a packet: by the keys that fitted before, or by its own connection id (first, or after Retry).

        A server names a new connection id, which the client then uses with the keys of the first one.
        """
        for keys in self._keys.values():
            self._tries += 1
            frames = _decrypt(initial, keys)
            if frames is not None:
                return frames
        name = initial.version.salt + initial.connection_id
        if name in self._keys:
            return None
        self._tries += 1
        keys = _derive(initial.version, initial.connection_id)
        frames = _decrypt(initial, keys)
        if frames is not None:
            self._unread.clear()  # another key, which may open them
            self._keys = dict([*self._keys.items(), (name, keys)][-2:])
        return frames

    def _read_hello(self) -> None:
        status, self.name, self.ech = crypto_name(self._crypto.prefix())
        if status is Status.OTHER or (status is Status.NEED_MORE and self._crypto.is_full):
            status = Status.NOT_FOUND
        self.status = status
