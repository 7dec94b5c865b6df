"""Addresses anonymised by Crypto-PAn: two that share exactly their first n bits still do.

The scheme is that of Xu, Fan, Ammar and Moon ("Prefix-Preserving IP Address Anonymization", ICNP 2002) with AES-128,
as in their reference implementation: whether bit n is flipped is the first bit of the encrypted n bits before it,
filled up with secret ones. Addresses are held as elsewhere: 128 bits, IPv4 as IPv4-mapped. IPv4 stays IPv4.
"""

from __future__ import annotations

import binascii
import errno
import hmac
import os
import shlex
import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import Self

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from trafficrefinery.errors import ConfigError
from trafficrefinery.system.files import open_regular

KEY_BYTES = 32
CONFIG_KEY = "Privacy.KeyFile"
_MAKE_KEY = f"(umask 077; set -C; head -c {KEY_BYTES} /dev/urandom > "
"""set -C: a file that is there is not overwritten; umask: nobody else can read the key, not even for a moment."""
MAX_KNOWN = 1 << 20  # addresses that are kept with what they became: 40 MiB
_BLOCKS = 1 << 16  # encrypted in one call: 1 MiB
_MAPPED = 0xFFFF  # the upper 96 bits of an IPv4-mapped address
_32 = np.uint64(32)


class Anonymiser:
    """Anonymises addresses with one key, and derives further keys from it.

    Args:
        key: 16 bytes for AES, 16 for the filling.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = key
        # ECB is right here: each block is one use of a pseudo-random function.
        self._encrypt = Cipher(algorithms.AES(key[:16]), modes.ECB()).encryptor().update
        self._filling = np.frombuffer(self._encrypt(key[16:]), np.uint64)
        self._given = np.zeros((1, 2), np.uint64)  # addresses that are known, by their numbers
        self._made, self._numbers = self._anonymised(self._given), _numbers(self._given)
        self.flow_id_key = self.derived_key("flow_id")

    @classmethod
    def of(cls, key_file: Path | None, config_file: str) -> Self | None:
        """With the key that a configuration names; None when it names none."""
        return None if key_file is None else cls.from_file(key_file, config_file)

    @classmethod
    def from_file(cls, path: Path, config_file: str = "<config>") -> Self:
        """With the key in a file: 32 bytes, or as 64 hexadecimal digits.

        Raises:
            ConfigError: the file is none that only its owner, who runs this, can read, or it holds no key.
        """
        try:
            return cls(_read_key(path))
        except ValueError as error:
            raise ConfigError(config_file, CONFIG_KEY, f'"{path}" {error}') from None

    def derived_key(self, purpose: str) -> bytes:
        """A key of 32 bytes for something else, from which neither this key nor those of other purposes can be told."""
        return hmac.digest(self._key, f"trafficrefinery {purpose}".encode(), "sha256")

    def addresses(
        self, hi: NDArray[np.uint64], lo: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Anonymise addresses, given and returned as their upper and lower 64 bits."""
        given = np.stack((hi, lo), axis=1)
        made, found = self._look_up(given)
        if not found.all():
            self._learn(given[~found])
            made, found = self._look_up(given)
            made[~found] = self._anonymised(given[~found])  # more than are kept, or another one has its number
        return made[:, 0], made[:, 1]

    def text(self, address: str) -> str:
        """Anonymise an address in its usual notation, as it stands in records."""
        given = ip_address(address)
        value = int(given) | (_MAPPED << 32 if given.version == 4 else 0)
        hi, lo = self.addresses(*(np.array([half], np.uint64) for half in divmod(value, 1 << 64)))
        packed = struct.pack(">QQ", int(hi[0]), int(lo[0]))
        if value >> 32 == _MAPPED:
            return socket.inet_ntop(socket.AF_INET, packed[12:])
        return socket.inet_ntop(socket.AF_INET6, packed)

    def _look_up(self, given: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """What is known of some addresses, and of which something is."""
        at = np.minimum(np.searchsorted(self._numbers, _numbers(given)), len(self._numbers) - 1)
        return self._made[at], (self._given[at] == given).all(axis=1)

    def _learn(self, addresses: NDArray[np.uint64]) -> None:
        new = addresses[np.unique(_numbers(addresses), return_index=True)[1]][:MAX_KNOWN]
        if len(self._given) + len(new) <= MAX_KNOWN:
            given, made = np.concatenate((self._given, new)), np.concatenate((self._made, self._anonymised(new)))
        else:
            given, made = new, self._anonymised(new)
        numbers = _numbers(given)
        order = np.argsort(numbers)
        self._given, self._made, self._numbers = given[order], made[order], numbers[order]

    def _anonymised(self, given: NDArray[np.uint64]) -> NDArray[np.uint64]:
        hi, lo = given[:, 0], given[:, 1]
        is_v4 = (hi == 0) & (lo >> _32 == _MAPPED)
        made = given.copy()
        made[~is_v4] ^= self._flips(given[~is_v4], 128)
        v4 = np.zeros((int(is_v4.sum()), 2), np.uint64)
        v4[:, 0] = lo[is_v4] << _32
        made[is_v4, 1] ^= self._flips(v4, 32)[:, 0] >> _32
        return made

    def _flips(self, addresses: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
        """Which of the first `bits` bits of each address are to be flipped; arrays of shape (n, 2)."""
        first_bits = np.zeros((len(addresses), 128), np.uint8)
        masks, step = _MASKS[:bits], _BLOCKS // bits
        filling = self._filling & ~masks
        for at in range(0, len(addresses), step):
            given = _big_endian(addresses[at : at + step])
            blocks = (given[:, None, :] & masks) | filling
            encrypted = np.frombuffer(self._encrypt(blocks.tobytes()), np.uint8)
            first_bits[at : at + step, :bits] = encrypted[::16].reshape(-1, bits) >> 7
        return np.packbits(first_bits, axis=1).view(">u8").astype(np.uint64)


def _big_endian(halves: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers whose bytes in memory are those of others in network order, whatever this machine's is."""
    return halves.astype(">u8").view(np.uint64)


_MASKS = _big_endian(np.array([divmod((1 << 128) - (1 << (128 - bits)), 1 << 64) for bits in range(128)], np.uint64))
"""The first 0, 1, … 127 bits of an address."""


def _numbers(addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number for each address: that of IPv4 is its own, of IPv6 two may share one."""
    return addresses[:, 1] ^ addresses[:, 0] * np.uint64(0x9E3779B97F4A7C15)


def _read_key(path: Path) -> bytes:
    """The key in a file. A link is not followed: whoever may change it would choose the key.

    Raises:
        ValueError: what is wrong with the file, and what to do; nothing of that overwrites a key.
    """
    name = shlex.quote(str(path))
    try:
        descriptor = open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise ValueError(f"is missing; a key is made with: {_MAKE_KEY}{name})") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"is a symbolic link; name the file itself: {os.path.realpath(path)}") from None
        if error.errno in (errno.EINVAL, errno.EISDIR):
            raise ValueError("is not a regular file; name one that holds a key") from None
        raise ValueError(f"cannot be read ({error.strerror}); run this as the user that the key belongs to") from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise ValueError(
                f"belongs to user {status.st_uid}, not to {os.geteuid()}, who runs this; run this as that user"
            )
        if status.st_mode & 0o077:
            mode = f"{status.st_mode & 0o7777:04o}"
            raise ValueError(f"is open to others than its owner: its mode is {mode}, not 0600; run: chmod 600 {name}")
        content = os.read(descriptor, 4 * KEY_BYTES)
    finally:
        os.close(descriptor)
    return _key_in(content)


def _key_in(content: bytes) -> bytes:
    if len(content) == KEY_BYTES:
        return content
    digits = content.strip()
    if len(digits) == 2 * KEY_BYTES:
        try:
            return binascii.unhexlify(digits)
        except binascii.Error:
            pass
    raise ValueError(
        f"holds no key: it must be {KEY_BYTES} bytes long, or {2 * KEY_BYTES} hexadecimal digits; name another file, "
        f"in which a key is made with: {_MAKE_KEY}NEW_FILE)"
    )
