"""Frames that a mirror port shows twice: where a packet came in and where it went out, or before and after routing.

Two frames are the same packet when their innermost IP packets are equal but for TTL or hop limit and header checksum,
within a millisecond. What a host sends again has another IPv4 identification. IPv6, and IPv4 with an identification of
zero (RFC 6864), have nothing of the kind. There, pure TCP acknowledgements, which repeat for good reason, are
duplicates only when their TTL, MAC addresses or VLAN tags differ; other packets that are equal are taken for
duplicates, as no host repeats those within a millisecond, but for applications that send each datagram twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import helper, kernel
from trafficrefinery.jit.memory import table
from trafficrefinery.packets.parser import PACKET, parse
from trafficrefinery.packets.tunnels import tunnel_table

from .frames import Block

WINDOW_NS = 1_000_000
SEED_OF_TRACES = 0x2545F4914F6CDD1D
"""A replay finds the same duplicates each time."""
SETS, WAYS = 4096, 4  # a millisecond of 15 million packets a second

_SEEN = np.dtype([("hash", "u8"), ("ts_ns", "i8"), ("place", "u8")])
_NEVER_NS = -(1 << 62)

U64 = np.uint64
_1, _2, _4, _6, _7, _8, _9, _12, _14, _16 = (U64(n) for n in (1, 2, 4, 6, 7, 8, 9, 12, 14, 16))
_20, _23, _24, _40 = (U64(n) for n in (20, 23, 24, 40))
_PRIME_1, _PRIME_2 = U64(0x9E3779B185EBCA87), U64(0xC2B2AE3D27D4EB4F)
_SHIFT, _FOLD = U64(29), U64(32)
# Bytes as they lie, read little-endian: TTL and checksum are in the second word of IPv4, the hop limit in the first of
# IPv6.
_WITHOUT_TTL, _WITHOUT_HOP_LIMIT = U64(0xFFFFFFFF_0000FF00), U64(0x00FFFFFF_FFFFFFFF)

Whole = int | np.int64  # what a number is depends on TRAFFICREFINERY_JIT
Records = Any  # from jit.records(): elements with attributes, which NumPy's types do not know


@helper
def _word(buffer: NDArray[np.uint8], at: np.uint64, stop: np.uint64) -> np.uint64:
    """Up to 8 bytes from `at` on, little-endian."""
    value = U64(0)
    if at + _8 <= stop:
        for i in range(_8):
            value |= U64(buffer[at + U64(i)]) << (_8 * U64(i))
    else:
        for i in range(stop - at):
            value |= U64(buffer[at + U64(i)]) << (_8 * U64(i))
    return value


@helper
def _mixed(h: np.uint64, word: np.uint64) -> np.uint64:
    h = (h ^ word) * _PRIME_1
    return h ^ (h >> _SHIFT)


@helper
def _half(buffer: NDArray[np.uint8], at: np.uint64) -> np.uint64:
    return (U64(buffer[at]) << _8) | U64(buffer[at + _1])


@helper
def _network_header(buffer: NDArray[np.uint8], frame: Records, tunnels: NDArray[np.int64], r: Records) -> np.uint64:
    """Where the innermost IP header of a frame is; the end of the frame when there is none."""
    at, stop = U64(frame.offset), U64(frame.offset) + U64(frame.captured_bytes)
    if frame.link_type == 1 and at + _24 <= stop:  # TCP without a tag, which is most frames
        kind = _half(buffer, at + _12)
        if (kind == 0x0800 and buffer[at + _23] == 6) or (kind == 0x86DD and buffer[at + _20] == 6):
            return at + _14
    r.raw_offset = -1
    parse(buffer, frame, tunnels, 0, r)
    return U64(r.raw_offset) if r.raw_offset >= 0 else stop


@helper
def _fingerprint(
    buffer: NDArray[np.uint8], at: np.uint64, stop: np.uint64, seed: np.uint64
) -> tuple[np.uint64, np.uint64, bool]:
    """(hash of the packet, its TTL, whether such packets repeat for good reason); the hash is 0 for no packet."""
    left = stop - at
    version = buffer[at] >> 4
    if version == 4 and left >= 20:
        packet_bytes, mask_0, mask_1 = _half(buffer, at + _2), ~U64(0), _WITHOUT_TTL
        ttl, protocol, transport = U64(buffer[at + _8]), buffer[at + _9], at + U64((buffer[at] & 15) * 4)
        has_identity = _half(buffer, at + _4) != 0
    elif version == 6 and left >= 40:
        packet_bytes, mask_0, mask_1 = _half(buffer, at + _4) + _40, _WITHOUT_HOP_LIMIT, ~U64(0)
        ttl, protocol, transport = U64(buffer[at + _7]), buffer[at + _6], at + _40
        has_identity = False
    else:
        return U64(0), U64(0), False
    if packet_bytes > 0 and packet_bytes < left:  # the rest pads the frame
        stop = at + packet_bytes
    repeats = False
    if protocol == 6 and not has_identity and transport + U64(14) <= stop:
        header_bytes = U64((buffer[transport + _12] >> 4) * 4)
        repeats = bool(transport + header_bytes >= stop and buffer[transport + U64(13)] & 7 == 0)
    h, other = seed, seed ^ _PRIME_2
    h = _mixed(h, _word(buffer, at, stop) & mask_0)
    other = _mixed(other, _word(buffer, at + _8, stop) & mask_1)
    at += _16
    while at + _16 <= stop:  # two sums at once, as each waits for its multiplication
        h = _mixed(h, _word(buffer, at, stop))
        other = _mixed(other, _word(buffer, at + _8, stop))
        at += _16
    while at < stop:
        h = _mixed(h, _word(buffer, at, stop))
        at += _8
    h = _mixed(h * _PRIME_2, other)
    return (h ^ (h >> _FOLD)) | _1, ttl, repeats


@kernel
def find_duplicates(
    buffer: NDArray[np.uint8], frames: Records, seen: Records, seed: np.uint64, drop: bool,
    tunnels: NDArray[np.int64], packet: Records,
) -> tuple[int, int]:  # fmt: skip
    """Count the frames that were seen before; with `drop` the others move up. Returns (how many stay, duplicates)."""
    kept, duplicates = 0, 0
    for i in range(len(frames)):
        frame = frames[i]
        stop = U64(frame.offset) + U64(frame.captured_bytes)
        at = _network_header(buffer, frame, tunnels, packet[0])
        is_duplicate = False
        if at < stop:
            key, ttl, repeats = _fingerprint(buffer, at, stop, seed)
            if key != 0:
                place = _mixed(ttl, U64(frame.stripped_tag))
                link = U64(frame.offset)
                while link < at:
                    place = _mixed(place, _word(buffer, link, at))
                    link += _8
                is_duplicate = _note(seen, key, np.int64(frame.ts_ns), place, repeats)
        if is_duplicate:
            duplicates += 1
        if not (drop and is_duplicate):
            if kept != i:
                frames[kept] = frames[i]
            kept += 1
    return kept, duplicates


@helper
def _note(seen: Records, key: np.uint64, ts_ns: np.int64, place: np.uint64, repeats: bool) -> bool:
    """Whether a packet was seen; else remember it, in place of the oldest of its set."""
    first = np.int64((key >> _1) & U64(SETS - 1)) * WAYS
    oldest: Whole = first
    for i in range(first, first + WAYS):
        entry = seen[i]
        if entry.hash == key and -WINDOW_NS <= ts_ns - entry.ts_ns <= WINDOW_NS:  # abs(-2^63) is below zero
            if not repeats or entry.place != place:
                return True
            oldest = i
            break
        if entry.ts_ns < seen[oldest].ts_ns:
            oldest = i
    entry = seen[oldest]
    entry.hash = key
    entry.ts_ns = ts_ns
    entry.place = place
    return False


class DuplicateFinder:
    """Stands between a source and a worker.

    Args:
        drop: leave duplicates out; else they are only counted.
        decapsulate: tunnels whose inner packets are compared, as in the configuration.
        seed: of the hashes, 64 bits; default: a random one, so that nobody can make two packets look the same.
    """

    def __init__(self, drop: bool, decapsulate: Iterable[str] = (), seed: int | None = None) -> None:
        self._drop, self.duplicates_total = drop, 0
        self._tunnels, self._packet = tunnel_table(decapsulate), table(1, PACKET)
        self._seen = table(SETS * WAYS, _SEEN)
        self._seen["ts_ns"] = _NEVER_NS
        self._seed = U64(secrets.randbits(64) if seed is None else seed)

    def filter(self, block: Block) -> Block:
        """The frames that go on; those of `block` are moved when some are left out."""
        kept, duplicates = find_duplicates(
            block.buffer, block.frames, self._seen, self._seed, self._drop, self._tunnels, self._packet
        )
        self.duplicates_total += duplicates
        return Block(block.buffer, block.frames[:kept])
