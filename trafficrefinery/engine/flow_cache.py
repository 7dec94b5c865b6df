"""The flow cache: a hash index over flow headers, and slots for headers and states.

The index is open addressing with linear probing. An entry is a uint64: the upper half are bits of the flow's hash,
which say where the entry belongs and spare the comparison of most keys; the lower half is the header's slot + 1.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import address_of, helper, inlined, kernel, prefetch, table_at
from trafficrefinery.jit.memory import Reserved, table

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
        ("state_word", "u4"),  # see state_of: the state's slot; above it, packets of the open interval
        ("next_seq", "u4"),  # behind the last payload byte of the side that opened the connection; 0 before
        ("a_port", "u2"),
        ("b_port", "u2"),
        ("service", "i2"),  # NO_SERVICE_YET while none is known
        ("transport", "u1"),  # UDP; else 2 × where the side is that did not open the connection, see `connection`
        ("marks", "u1"),
        # second: what only new flows, SYN, FIN, RST and collected intervals need
        ("first_ns", "i8"),  # as the trace says, also after its clock was set back
        ("hash", "u8"),
        ("first_ip_bytes", "u8"),  # IP total lengths of the first packets
        ("name_id", "i4"),
        ("pool_slot", "i4"),
        ("base_a", "u4"),  # see `connection`
        ("base_b", "u4"),
        ("earlier_a", "u4"),
        ("earlier_b", "u4"),
        ("hello_a", "i2"),  # from `base` to where a hello of this side may begin, see `handshakes`
        ("hello_b", "i2"),
        ("passed", "u2"),  # bytes that are no piece of a hello
        ("late_packets", "u2"),  # of the first packets
        ("packets", "u1"),  # first packets that may still change their service, or GIVEN_UP
        ("matched_by", "u1"),  # number of a source, see `services.sources`
        ("hello", "u1"),  # whose hello is being put together, and marks of `handshakes`
        ("hello_ready", "u1"),  # how much of it is there, in 64 bytes
        ("handshake", "u1"),
        ("end", "u1"),  # how the flow ended, an index of `connection.ENDS`
        ("scale_a", "u1"),  # window scale of the SYN (RFC 7323), or NO_SCALE
        ("scale_b", "u1"),
    ],
    align=True,
)
USED, CLIENT_IS_A, FIXED, NAME_DONE, REPORTED = 1, 2, 4, 8, 16
NO_SERVICE_YET = -1
GIVEN_UP = 255
"""HEADER.packets, when there were too many packets to keep; until the next row."""
FIRST_PACKETS = 16
"""So many packets of a flow can still change to another service, found later."""
KEPT_PACKETS = 128
"""So many can while a ClientHello that has begun among the first of them goes on."""

_COUNT_SHIFT = 30
STATE_SLOT = (1 << _COUNT_SHIFT) - 1
ONE_PACKET, MANY_PACKETS = 1 << _COUNT_SHIFT, 3 << _COUNT_SHIFT
"""HEADER.state_word counts the packets of the open interval in ONE_PACKET, up to MANY_PACKETS."""


@inlined
def state_of(profile, h):
    """Address of a flow's state in the states of its profile."""
    return profile.state + (np.int64(h.state_word) & STATE_SLOT) * profile.state_bytes


_CHUNK_SHIFT = 14
CHUNK = 1 << _CHUNK_SHIFT
_LOWER = np.uint64(0xFFFFFFFF)
_UPPER = np.uint64(0xFFFFFFFF00000000)
_ONE = np.uint64(1)
_EMPTY = np.uint64(0)
_32 = np.uint64(32)


SLOTS = np.dtype(
    [
        ("next_free", "i8"),  # address of uint32[capacity]: chains the free slots of a chunk, slot + 1, 0 ends
        ("chunk", "i8"),  # address of CHUNK_STATE[chunks]
        ("chunks", "i8"),
        ("capacity", "i8"),
        ("current", "i8"),  # chunk that slots are taken from
        ("in_use", "i8"),
        ("peak", "i8"),  # no slot at or above was taken since the last release
    ]
)
"""Free slots of one table, in chunks: a chunk that has become empty gives its memory back."""
CHUNK_STATE = np.dtype(
    [
        ("free_head", "u4"),  # slot + 1
        ("fresh", "u4"),  # slots that were ever taken
        ("live", "u4"),
        ("emptied", "u4"),  # 1: its pages may be released
    ]
)
_U4 = np.dtype("u4")


@helper
def take(slots):
    """A free slot of SLOTS, or -1 when all are in use."""
    if slots.in_use >= slots.capacity:
        return -1
    chunk_states = table_at(slots.chunk, slots.chunks, CHUNK_STATE)
    number = slots.current
    while True:
        chunk = chunk_states[number]
        if chunk.free_head > 0:
            slot = np.int64(chunk.free_head) - 1
            chunk.free_head = table_at(slots.next_free, slots.capacity, _U4)[slot]
            break
        slot = (number << _CHUNK_SHIFT) + np.int64(chunk.fresh)
        if chunk.fresh < CHUNK and slot < slots.capacity:
            chunk.fresh += np.uint32(1)
            break
        number = number + 1 if number + 1 < slots.chunks else 0
        slots.current = number
    chunk.live += np.uint32(1)
    chunk.emptied = 0
    slots.in_use += 1
    slots.peak = max(slots.peak, slot + 1)
    return slot


@helper
def give(slots, slot):
    """Return a slot."""
    number = slot >> _CHUNK_SHIFT
    chunk = table_at(slots.chunk, slots.chunks, CHUNK_STATE)[number]
    table_at(slots.next_free, slots.capacity, _U4)[slot] = chunk.free_head
    chunk.free_head = np.uint32(slot + 1)
    chunk.live -= np.uint32(1)
    slots.in_use -= 1
    if chunk.live == 0 and number != slots.current:
        chunk.free_head = 0
        chunk.fresh = 0
        chunk.emptied = 1


@inlined
def mix(x):
    """Finaliser of a 64-bit hash: every bit of the result depends on every bit of x."""
    x ^= x >> _32
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> _32
    x *= np.uint64(0xD6E8FEB86659FD93)
    x ^= x >> _32
    return x


@inlined
def flow_hash(r, seed):
    """Hash of the canonical 5-tuple; without the seed nobody can aim at one bucket."""
    ports = (np.uint64(r.a_port) << np.uint64(24)) | (np.uint64(r.b_port) << np.uint64(8)) | np.uint64(r.protocol)
    # As few multiplications in a row as can be: the packet waits for each of them.
    a = (r.a_lo ^ seed ^ (r.a_hi * np.uint64(0x165667B19E3779F9))) * np.uint64(0x9E3779B97F4A7C15)
    b = (r.b_lo + seed + (r.b_hi * np.uint64(0x85EBCA77C2B2AE63))) * np.uint64(0xC2B2AE3D27D4EB4F)
    return mix(a ^ ((b >> _32) | (b << _32)) ^ ports)


@inlined
def partition_of(a_hi, a_lo, b_hi, b_lo, partitions):
    """The worker of a pair of addresses, in either order: directions, fragments and flows of two hosts meet."""
    h = mix((a_lo + b_lo) ^ (a_lo ^ b_lo) * np.uint64(0x9E3779B97F4A7C15) ^ (a_hi + b_hi) ^ (a_hi * b_hi))
    return np.int64(((h >> _32) * np.uint64(partitions)) >> _32)


@inlined
def same_flow(header, r):
    return (
        header.a_lo == r.a_lo
        and header.b_lo == r.b_lo
        and header.a_port == r.a_port
        and header.b_port == r.b_port
        and (header.transport & 1) == (r.protocol & 1)
        and header.a_hi == r.a_hi
        and header.b_hi == r.b_hi
    )


@inlined
def protocol_of(header):
    """TCP or UDP."""
    return np.uint8(17 if header.transport & 1 else 6)


@inlined
def set_ends(header, r):
    """Give a header, or another record with its fields, the ends of a packet or header."""
    header.a_hi = r.a_hi
    header.a_lo = r.a_lo
    header.b_hi = r.b_hi
    header.b_lo = r.b_lo
    header.a_port = r.a_port
    header.b_port = r.b_port


@inlined
def guess(index, hash_):
    """The slot of the first entry with the hash's upper half, or -1: without touching headers."""
    mask = np.uint64(len(index) - 1)
    at = (hash_ >> _32) & mask
    while True:
        entry = index[at]
        if entry == _EMPTY:
            return -1
        if (entry ^ hash_) & _UPPER == _EMPTY:
            return np.int64(entry & _LOWER) - 1
        at = (at + _ONE) & mask


@inlined
def find(index, headers, r):
    """The slot of the packet's flow, or -1."""
    mask = np.uint64(len(index) - 1)
    hash_ = r.hash
    at = (hash_ >> _32) & mask
    while True:
        entry = index[at]
        if entry == _EMPTY:
            return -1
        if (entry ^ hash_) & _UPPER == _EMPTY:
            slot = np.int64(entry & _LOWER) - 1
            if same_flow(headers[np.uint64(slot)], r):
                return slot
        at = (at + _ONE) & mask


@helper
def insert(index, hash_, slot):
    mask = np.uint64(len(index) - 1)
    at = (hash_ >> _32) & mask
    while index[at] != _EMPTY:
        at = (at + _ONE) & mask
    index[at] = (hash_ & _UPPER) | np.uint64(slot + 1)


@helper
def remove(index, hash_, slot):
    """Take an entry out and move the ones behind it up (Knuth, TAOCP 6.4, algorithm R): no tombstones."""
    mask = np.uint64(len(index) - 1)
    at = (hash_ >> _32) & mask
    while np.int64(index[at] & _LOWER) != slot + 1:
        at = (at + _ONE) & mask
    hole = at
    while True:
        at = (at + _ONE) & mask
        entry = index[at]
        if entry == _EMPTY:
            break
        home = (entry >> _32) & mask
        if ((at - home) & mask) >= ((at - hole) & mask):
            index[hole] = entry
            hole = at
    index[hole] = _EMPTY


@inlined
def prefetch_index(index, hash_):
    prefetch(index, np.int64((hash_ >> _32) & np.uint64(len(index) - 1)))


class SlotTable:
    """A table in reserved memory, with its slots. The memory is whole chunks; `capacity` limits the slots alone.

    Args:
        slots: SLOTS record to set up; it may lie in a larger record.
    """

    def __init__(self, capacity: int, dtype: np.dtype, slots: Any) -> None:
        chunks = -(-capacity // CHUNK)
        self.memory = Reserved(chunks * CHUNK, dtype)
        self._next_free = Reserved(chunks * CHUNK, _U4)
        self._chunks = table(chunks, CHUNK_STATE)
        self._slots = slots
        slots["next_free"], slots["chunk"] = address_of(self._next_free.array), address_of(self._chunks)
        slots["chunks"], slots["capacity"] = len(self._chunks), capacity

    @property
    def in_use(self) -> int:
        """Slots taken and not returned."""
        return int(self._slots["in_use"])

    @property
    def resident_bytes(self) -> int:
        """What it takes of the machine's memory."""
        return self.memory.resident_bytes + self._next_free.resident_bytes

    def populate_ahead(self, limit_bytes: int = 256 << 20) -> None:
        """Make pages exist for as many further slots as are in use, up to `limit_bytes` ahead.

        The first touch of a huge page costs more than inserting a flow. May run beside the packet loop.
        """
        self.memory.populate(self._wanted(limit_bytes), self._top() - CHUNK)  # what is before was taken once

    def _wanted(self, limit_bytes: int = 256 << 20) -> int:
        return self._top() + min(self.in_use, limit_bytes // self.memory.dtype.itemsize)

    def _top(self) -> int:
        used = np.flatnonzero(self._chunks["fresh"])
        return int(used[-1] + 1) * CHUNK if len(used) else 0

    def release_empty(self) -> None:
        """Give back the memory of chunks without a slot in use. Not while the packet loop runs."""
        if not self._chunks["emptied"].any():
            return
        for chunk in np.flatnonzero(self._chunks["emptied"]):
            self.memory.release(int(chunk) * CHUNK, CHUNK)
            self._chunks["emptied"][chunk] = 0
        self.memory.release_behind(self._wanted())
        self._slots["peak"] = min(int(self._slots["peak"]), self._top())


def new_index(max_flows: int) -> Reserved:
    """An empty index, at most half full with `max_flows` entries."""
    return Reserved(1 << (2 * max_flows - 1).bit_length(), np.dtype("u8"))


@kernel
def copy_index(old: NDArray[np.uint64], new: NDArray[np.uint64]) -> None:
    """Insert the entries of an index into a larger empty one."""
    for i in range(len(old)):
        entry = old[i]
        if entry != _EMPTY:
            insert(new, entry, np.int64(entry & _LOWER) - 1)


def new_seed() -> np.uint64:
    """A seed that an attacker cannot know."""
    return np.uint64(secrets.randbits(64))
