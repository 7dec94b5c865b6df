"""The flow cache: a hash index over flow headers, and slots for headers and states.

The index is open addressing with linear probing. An entry is a uint64: the upper half are bits of the flow's hash,
which say where the entry belongs and spare the comparison of most keys; the lower half is the header's slot + 1.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import numpy as np

from trafficrefinery.jit import helper, prefetch
from trafficrefinery.memory import Reserved

NONE_NS = -(1 << 62)
"""`open_start_ns` of a flow without a packet in the open interval."""

HEADER = np.dtype(
    [
        # first cache line: what every packet needs
        ("a_hi", "u8"),
        ("a_lo", "u8"),
        ("b_hi", "u8"),
        ("b_lo", "u8"),
        ("last_ns", "i8"),  # latest packet
        ("open_start_ns", "i8"),  # start of the interval that is being filled
        ("state_slot", "i4"),
        ("a_port", "u2"),
        ("b_port", "u2"),
        ("protocol", "u1"),
        ("flags", "u1"),
        ("profile", "u1"),  # NO_PROFILE while no service is known
        ("matched_by", "u1"),
        ("service", "i2"),
        ("packets", "u2"),  # of the first packets, up to FIRST_PACKETS
        # second: what only new flows and collected intervals need
        ("first_ns", "i8"),
        ("hash", "u8"),
        ("name_id", "i4"),
        ("pool_slot", "i4"),
        ("isn", "u4"),  # sequence number of the first payload byte from the side that sent the SYN
        ("isn_side", "u1"),  # 1: a, 2: b, 0: no SYN seen
        ("hello_side", "u1"),  # side whose ClientHello is being put together
        ("spare", "u8", (4,)),  # fills two cache lines
    ],
    align=True,
)
USED, CLIENT_IS_A, FIXED, NAME_DONE, REPORTED = 1, 2, 4, 8, 16
NO_PROFILE = 255
BY_NOTHING, BY_PREFIX, BY_DNS, BY_QUIC_SNI, BY_SNI = 0, 1, 2, 3, 4
MATCHED_BY = (None, "prefix", "dns", "quic_sni", "sni")
FIRST_PACKETS = 16
"""A service can still be found, or change to a better match, in the first packets of a flow."""


_CHUNK_SHIFT = 14
CHUNK = 1 << _CHUNK_SHIFT
_LOWER = np.uint64(0xFFFFFFFF)
_UPPER = np.uint64(0xFFFFFFFF00000000)
_ONE = np.uint64(1)
_EMPTY = np.uint64(0)
_32 = np.uint64(32)
# Slots.meta
CURRENT, IN_USE, CAPACITY, PEAK = range(4)


class Slots(NamedTuple):
    """Free slots of one table, in chunks: a chunk that has become empty gives its memory back.

    `next_free` chains the free slots of a chunk (slot + 1, 0 ends); `fresh` counts the slots of a chunk that were
    ever taken; `emptied` marks chunks whose pages may be released.
    """

    next_free: Any  # uint32[capacity]
    free_head: Any  # uint32[chunks]
    fresh: Any  # uint32[chunks]
    live: Any  # uint32[chunks]
    emptied: Any  # uint8[chunks]
    meta: Any  # int64[4]


@helper
def take(slots):  # type: ignore[no-untyped-def]
    """A free slot, or -1 when all are in use."""
    if slots.meta[IN_USE] >= slots.meta[CAPACITY]:
        return -1
    chunk = slots.meta[CURRENT]
    chunks = len(slots.live)
    while True:
        head = np.int64(slots.free_head[chunk])
        if head > 0:
            slot = head - 1
            slots.free_head[chunk] = slots.next_free[slot]
            break
        if np.int64(slots.fresh[chunk]) < CHUNK:
            slot = (chunk << _CHUNK_SHIFT) + np.int64(slots.fresh[chunk])
            if slot < slots.meta[CAPACITY]:
                slots.fresh[chunk] += np.uint32(1)
                break
        chunk = (chunk + 1) % chunks
        slots.meta[CURRENT] = chunk
    slots.live[chunk] += np.uint32(1)
    slots.emptied[chunk] = 0
    slots.meta[IN_USE] += 1
    if slot >= slots.meta[PEAK]:
        slots.meta[PEAK] = slot + 1
    return slot


@helper
def give(slots, slot):  # type: ignore[no-untyped-def]
    """Return a slot."""
    chunk = slot >> _CHUNK_SHIFT
    slots.next_free[slot] = slots.free_head[chunk]
    slots.free_head[chunk] = np.uint32(slot + 1)
    slots.live[chunk] -= np.uint32(1)
    slots.meta[IN_USE] -= 1
    if slots.live[chunk] == 0 and chunk != slots.meta[CURRENT]:
        slots.free_head[chunk] = np.uint32(0)
        slots.fresh[chunk] = np.uint32(0)
        slots.emptied[chunk] = 1


@helper
def mix(x):  # type: ignore[no-untyped-def]
    """Finaliser of a 64-bit hash: every bit of the result depends on every bit of x."""
    x ^= x >> _32
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> _32
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> _32
    return x


@helper
def flow_hash(r, seed):  # type: ignore[no-untyped-def]
    """Hash of the canonical 5-tuple; without the seed nobody can aim at one bucket."""
    ports = (np.uint64(r.a_port) << np.uint64(24)) | (np.uint64(r.b_port) << np.uint64(8)) | np.uint64(r.protocol)
    x = (r.a_lo ^ seed) * np.uint64(0x9E3779B97F4A7C15)
    x = ((x ^ (x >> _32)) ^ r.b_lo) * np.uint64(0xC2B2AE3D27D4EB4F)
    x = ((x ^ (x >> _32)) ^ ports ^ (r.a_hi * np.uint64(0x165667B19E3779F9)) ^ (r.b_hi + seed)) * np.uint64(
        0xD6E8FEB86659FD93
    )
    return mix(x)


@helper
def partition_of(a_hi, a_lo, b_hi, b_lo, partitions):  # type: ignore[no-untyped-def]
    """The worker of a pair of addresses, in either order: directions, fragments and flows of two hosts meet."""
    h = mix((a_lo + b_lo) ^ (a_lo ^ b_lo) * np.uint64(0x9E3779B97F4A7C15) ^ (a_hi + b_hi) ^ (a_hi * b_hi))
    return np.int64(((h >> _32) * np.uint64(partitions)) >> _32)


@helper
def same_flow(header, r):  # type: ignore[no-untyped-def]
    return (
        header.a_lo == r.a_lo
        and header.b_lo == r.b_lo
        and header.a_port == r.a_port
        and header.b_port == r.b_port
        and header.protocol == r.protocol
        and header.a_hi == r.a_hi
        and header.b_hi == r.b_hi
    )


@helper
def guess(index, hash_):  # type: ignore[no-untyped-def]
    """The slot of the first entry with the hash's upper half, or -1: without touching headers."""
    mask = np.uint64(len(index) - 1)
    at = (hash_ >> _32) & mask
    while True:
        entry = index[np.int64(at)]
        if entry == _EMPTY:
            return -1
        if (entry ^ hash_) & _UPPER == _EMPTY:
            return np.int64(entry & _LOWER) - 1
        at = (at + _ONE) & mask


@helper
def find(index, headers, r):  # type: ignore[no-untyped-def]
    """The slot of the packet's flow, or -1."""
    mask = np.uint64(len(index) - 1)
    hash_ = r.hash
    at = (hash_ >> _32) & mask
    while True:
        entry = index[np.int64(at)]
        if entry == _EMPTY:
            return -1
        if (entry ^ hash_) & _UPPER == _EMPTY:
            slot = np.int64(entry & _LOWER) - 1
            if same_flow(headers[slot], r):
                return slot
        at = (at + _ONE) & mask


@helper
def insert(index, hash_, slot):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(index) - 1)
    at = (hash_ >> _32) & mask
    while index[np.int64(at)] != _EMPTY:
        at = (at + _ONE) & mask
    index[np.int64(at)] = (hash_ & _UPPER) | np.uint64(slot + 1)


@helper
def remove(index, hash_, slot):  # type: ignore[no-untyped-def]
    """Take an entry out and move the ones behind it up (Knuth, TAOCP 6.4, algorithm R): no tombstones."""
    mask = np.uint64(len(index) - 1)
    at = (hash_ >> _32) & mask
    while np.int64(index[np.int64(at)] & _LOWER) != slot + 1:
        at = (at + _ONE) & mask
    hole = at
    while True:
        at = (at + _ONE) & mask
        entry = index[np.int64(at)]
        if entry == _EMPTY:
            break
        home = (entry >> _32) & mask
        if ((at - home) & mask) >= ((at - hole) & mask):
            index[np.int64(hole)] = entry
            hole = at
    index[np.int64(hole)] = _EMPTY


@helper
def prefetch_index(index, hash_):  # type: ignore[no-untyped-def]
    prefetch(index, np.int64((hash_ >> _32) & np.uint64(len(index) - 1)))


def new_slots(capacity: int) -> Slots:
    """Slots for a table of `capacity` elements."""
    chunks = -(-capacity // CHUNK)
    per_chunk = [np.zeros(chunks, np.uint32) for _ in range(3)]
    meta = np.zeros(4, np.int64)
    meta[CAPACITY] = capacity
    next_free = Reserved(capacity, np.dtype("u4")).array
    return Slots(next_free, *per_chunk, np.zeros(chunks, np.uint8), meta)


class FlowCache(NamedTuple):
    """What the packet loop needs of the cache."""

    index: Any  # uint64[power of two, at least twice the flows]
    headers: Any  # HEADER[max_flows]
    slots: Slots


class Table:
    """A table in reserved memory with its slots."""

    def __init__(self, capacity: int, dtype: np.dtype) -> None:
        self.memory = Reserved(capacity, dtype)
        self.slots = new_slots(capacity)

    def populate_ahead(self, ahead_bytes: int = 256 << 20) -> None:
        """Make the pages exist that the next slots will need. Runs beside the packet loop."""
        ahead = ahead_bytes // self.memory.dtype.itemsize
        top = int(np.flatnonzero(self.slots.fresh).max(initial=-1) + 1) * CHUNK
        self.memory.populate(top + ahead)

    def release_empty(self) -> None:
        """Give back the memory of chunks without a slot in use. Not while the packet loop runs."""
        for chunk in np.flatnonzero(self.slots.emptied):
            self.memory.release(int(chunk) * CHUNK, CHUNK)
            self.slots.emptied[chunk] = 0


def new_index(max_flows: int) -> Reserved:
    """An empty index, at most half full with `max_flows` entries."""
    return Reserved(1 << (2 * max_flows - 1).bit_length(), np.dtype("u8"))


def new_seed() -> np.uint64:
    """A seed that an attacker cannot know."""
    return np.uint64(secrets.randbits(64))

