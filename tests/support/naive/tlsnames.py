"""Naive reading of names: the server name of a TLS ClientHello, and of a QUIC Initial."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")  # QUIC version 1, RFC 9001 section 5.2


def hello_name(handshake: bytes) -> tuple[bool, str | None]:
    """Whether all is known that a handshake message tells of the name, and the name. ValueError: no ClientHello."""
    if handshake[:1] not in (b"", b"\x01"):
        raise ValueError
    if len(handshake) < 4:
        return False, None
    whole = 4 + int.from_bytes(handshake[1:4])
    body, position = handshake[4:whole], 34
    try:
        position += 1 + body[position]
        position += 2 + int.from_bytes(body[position : position + 2])
        position += 1 + body[position]
        position += 2
        while position + 4 <= len(body):
            kind, count = (
                int.from_bytes(body[position : position + 2]),
                int.from_bytes(body[position + 2 : position + 4]),
            )
            if position + 4 + count > len(body):
                break
            if kind == 0:
                return True, body[position + 9 : position + 4 + count].decode()
            position += 4 + count
    except IndexError:
        pass
    return len(handshake) >= whole, None


def keys_of(connection_id: bytes) -> tuple[bytes, bytes, bytes]:
    extract = hmac.HMAC(SALT, hashes.SHA256())
    extract.update(connection_id)
    secret = _expand(extract.finalize(), b"client in", 32)
    return _expand(secret, b"quic key", 16), _expand(secret, b"quic iv", 12), _expand(secret, b"quic hp", 16)


def _expand(secret: bytes, label: bytes, count: int) -> bytes:
    info = count.to_bytes(2) + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
    return HKDFExpand(hashes.SHA256(), count, info).derive(secret)


def _mask(header_key: bytes, sample: bytes) -> bytes:
    return Cipher(algorithms.AES(header_key), modes.ECB()).encryptor().update(sample)


def quic_initial(connection_id: bytes, packet_number: int, offset: int, crypto: bytes) -> bytes:
    """A client Initial of version 1 with one CRYPTO frame, padded to 1,200 bytes."""
    key, iv, header_key = keys_of(connection_id)
    frames = b"\x06" + (offset | 0x4000).to_bytes(2) + (len(crypto) | 0x4000).to_bytes(2) + crypto
    header = b"\xc3\0\0\0\x01" + bytes([len(connection_id)]) + connection_id + b"\0\0"
    frames += bytes(1200 - len(header) - 2 - 4 - 16 - len(frames))
    header += (len(frames) + 20 | 0x4000).to_bytes(2) + packet_number.to_bytes(4)
    nonce = (int.from_bytes(iv) ^ packet_number).to_bytes(12)
    packet = bytearray(header + AESGCM(key).encrypt(nonce, frames, header))
    at = len(header) - 4
    mask = _mask(header_key, bytes(packet[at + 4 : at + 20]))
    packet[0] ^= mask[0] & 15
    packet[at : at + 4] = bytes(a ^ b for a, b in zip(packet[at : at + 4], mask[1:], strict=False))
    return bytes(packet)


def initial_crypto(datagram: bytes) -> tuple[int, bytes] | None:
    """Offset and bytes of the CRYPTO frame of an Initial as `quic_initial` makes it; None when it is none."""
    if len(datagram) < 1200 or datagram[0] & 0xF0 != 0xC0 or datagram[1:5] != b"\0\0\0\x01" or datagram[5] > 20:
        return None
    connection_id = datagram[6 : 6 + datagram[5]]
    key, iv, header_key = keys_of(connection_id)
    at = 6 + len(connection_id) + 4  # behind empty source id and token, and the length
    mask = _mask(header_key, datagram[at + 4 : at + 20])
    if (datagram[0] ^ mask[0]) & 3 != 3:
        return None
    plain = bytes([datagram[0] ^ mask[0] & 15]) + datagram[1:at]
    plain += bytes(a ^ b for a, b in zip(datagram[at : at + 4], mask[1:], strict=False))
    nonce = (int.from_bytes(iv) ^ int.from_bytes(plain[-4:])).to_bytes(12)
    try:
        frames = AESGCM(key).decrypt(nonce, datagram[at + 4 :], plain)
    except InvalidTag:
        return None
    offset, count = (int.from_bytes(frames[i : i + 2]) & 0x3FFF for i in (1, 3))
    return offset, frames[5 : 5 + count]
