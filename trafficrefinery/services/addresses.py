"""Addresses that DNS answers gave, in a compiled hash table; bounded."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import helper, kernel, prepare
from trafficrefinery.jit.memory import table, table_of

from .names import counter

ANY_CLIENT = (0, 0)

ADDRESS_ENTRY = np.dtype(
    [
        ("client_hi", "u8"),  # 0, 0: any client
        ("client_lo", "u8"),
        ("server_hi", "u8"),
        ("server_lo", "u8"),
        ("expires_ns", "i8"),  # the last moment at which the entry holds
        ("service", "i4"),
        ("name_id", "i4"),
        ("used", "u4"),
        ("reserved", "u4", (3,)),  # up to one cache line
    ],
    align=True,
)
_COUNT, _HAND, _REPLACED, _MAX_ENTRIES = range(4)
"""Of AddressTables.state: entries, where the search for one to replace goes on, entries that gave way although they
held, and how many there may be."""
_EVICTION_WINDOW = 32
_MIN_ENTRIES = 512


class AddressTables(NamedTuple):
    """The arrays of an `AddressTable`, as compiled code takes them."""

    entries: NDArray[np.void]  # of ADDRESS_ENTRY, a power of two
    seed: NDArray[np.uint64]
    state: NDArray[np.int64]


_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)


@helper
def _mix(value: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64: every bit of the input reaches every bit of the output."""
    value = (value ^ (value >> _SHIFT_1)) * _MIX_1
    value = (value ^ (value >> _SHIFT_2)) * _MIX_2
    return value ^ (value >> _SHIFT_3)


@helper
def _home(
    tables: AddressTables, client_hi: np.uint64, client_lo: np.uint64, server_hi: np.uint64, server_lo: np.uint64
) -> int:
    value = _mix(tables.seed[0] ^ client_hi)
    value = _mix(value ^ client_lo)
    value = _mix(value ^ server_hi)
    value = _mix(value ^ server_lo)
    return int(np.int64(value & np.uint64(len(tables.entries) - 1)))


@helper
def _find(
    tables: AddressTables, client_hi: np.uint64, client_lo: np.uint64, server_hi: np.uint64, server_lo: np.uint64
) -> int:
    """The index of a key, or ~(the free index where it would go)."""
    index = _home(tables, client_hi, client_lo, server_hi, server_lo)
    last = len(tables.entries) - 1
    for _ in range(len(tables.entries)):
        slot = tables.entries[index]
        if slot.used == 0:
            break
        if (
            slot.server_lo == server_lo
            and slot.client_lo == client_lo
            and slot.server_hi == server_hi
            and slot.client_hi == client_hi
        ):
            return index
        index = (index + 1) & last
    return ~index


@helper
def _find_valid(
    tables: AddressTables,
    client_hi: np.uint64,
    client_lo: np.uint64,
    server_hi: np.uint64,
    server_lo: np.uint64,
    ts_ns: int,
) -> int:
    index = _find(tables, client_hi, client_lo, server_hi, server_lo)
    if index < 0 or tables.entries[index].expires_ns < ts_ns:
        return -1
    return index


@helper
def lookup_address(
    tables: AddressTables,
    client_hi: np.uint64,
    client_lo: np.uint64,
    server_hi: np.uint64,
    server_lo: np.uint64,
    ts_ns: int,
) -> int:
    """The entry of a server, by what this client asked for, or else by what anyone did; -1 if none holds at `ts_ns`."""
    if tables.state[_COUNT] == 0:
        return -1
    index = _find_valid(tables, client_hi, client_lo, server_hi, server_lo, ts_ns)
    if index < 0:
        index = _find_valid(tables, np.uint64(0), np.uint64(0), server_hi, server_lo, ts_ns)
    return index


@helper
def _copy(source: NDArray[np.void], from_index: int, target: NDArray[np.void], to_index: int) -> None:
    taken, given = source[from_index], target[to_index]
    given.client_hi, given.client_lo = taken.client_hi, taken.client_lo
    given.server_hi, given.server_lo = taken.server_hi, taken.server_lo
    given.expires_ns, given.service, given.name_id = taken.expires_ns, taken.service, taken.name_id
    given.used = taken.used


@helper
def _remove(tables: AddressTables, index: int) -> None:
    """Free a slot and move those behind it up, so that no key is cut off from its home slot."""
    entries = tables.entries
    last = len(entries) - 1
    hole, index = index, (index + 1) & last
    while entries[index].used != 0:
        slot = entries[index]
        home = _home(tables, slot.client_hi, slot.client_lo, slot.server_hi, slot.server_lo)
        if ((index - home) & last) >= ((index - hole) & last):
            _copy(entries, index, entries, hole)
            hole = index
        index = (index + 1) & last
    entries[hole].used = np.uint32(0)
    tables.state[_COUNT] -= 1


@helper
def _replace(tables: AddressTables, ts_ns: int) -> bool:
    """Remove an entry that has expired or, of the next 32, the one that will first; whether it still held."""
    entries, last = tables.entries, len(tables.entries) - 1
    index, victim, seen = int(tables.state[_HAND]), -1, 0
    while seen < _EVICTION_WINDOW and seen < tables.state[_COUNT]:
        if entries[index].used != 0:
            seen += 1
            if victim < 0 or entries[index].expires_ns < entries[victim].expires_ns:
                victim = index
            if entries[index].expires_ns < ts_ns:
                break
        index = (index + 1) & last
    tables.state[_HAND] = index
    held = bool(entries[victim].expires_ns >= ts_ns)
    _remove(tables, victim)
    return held


@helper
def put_address(  # noqa: PLR0913, PLR0917 (compiled: a record cannot hold arrays)
    tables: AddressTables,
    client_hi: np.uint64,
    client_lo: np.uint64,
    server_hi: np.uint64,
    server_lo: np.uint64,
    service: Any,
    name_id: Any,
    expires_ns: Any,
    ts_ns: Any,
) -> bool:
    """See `AddressTable.insert`; False, and nothing is written, when the table has to be grown first."""
    index = _find(tables, client_hi, client_lo, server_hi, server_lo)
    if index < 0:
        if tables.state[_COUNT] >= min(tables.state[_MAX_ENTRIES], len(tables.entries) // 2):
            if len(tables.entries) < 2 * tables.state[_MAX_ENTRIES]:
                return False
            tables.state[_REPLACED] += 1 if _replace(tables, ts_ns) else 0
            index = _find(tables, client_hi, client_lo, server_hi, server_lo)
        slot = tables.entries[~index]
        slot.client_hi, slot.client_lo, slot.server_hi, slot.server_lo = client_hi, client_lo, server_hi, server_lo
        slot.expires_ns = expires_ns
        slot.used = np.uint32(1)
        tables.state[_COUNT] += 1
    else:
        slot = tables.entries[index]
        if slot.service != service or slot.expires_ns < expires_ns:
            slot.expires_ns = expires_ns
    slot.service = np.int32(service)
    slot.name_id = np.int32(name_id)
    return True


@helper
def says_nothing_new(  # noqa: PLR0913, PLR0917
    tables: AddressTables,
    client_hi: np.uint64,
    client_lo: np.uint64,
    server_hi: np.uint64,
    server_lo: np.uint64,
    name_id: Any,
    expires_ns: Any,
    ts_ns: Any,
) -> bool:
    """Whether the table has that entry with nine tenths of its time left."""
    index = _find(tables, client_hi, client_lo, server_hi, server_lo)
    if index < 0 or tables.entries[index].name_id != name_id:
        return False
    return bool((tables.entries[index].expires_ns - ts_ns) * 10 > (expires_ns - ts_ns) * 9)


@kernel
def _put(tables: AddressTables, keys: NDArray[np.uint64], values: NDArray[np.int64], first: int, ts_ns: int) -> int:
    """Put entries from `first` on, with (service, name_id, expires_ns); the first that has to wait for more room."""
    for i in range(first, len(keys)):
        key = keys[i]
        if not put_address(tables, key[0], key[1], key[2], key[3], values[i, 0], values[i, 1], values[i, 2], ts_ns):
            return i
    return len(keys)


@kernel
def _move_entries(source: AddressTables, target: AddressTables, ts_ns: int) -> None:
    """Insert all entries of `source` that have not expired into the empty `target`."""
    for index in range(len(source.entries)):
        slot = source.entries[index]
        if slot.used != 0 and slot.expires_ns >= ts_ns:
            free = ~_find(target, slot.client_hi, slot.client_lo, slot.server_hi, slot.server_lo)
            _copy(source.entries, index, target.entries, free)
            target.state[_COUNT] += 1
    target.state[_REPLACED] = source.state[_REPLACED]


@kernel
def _lookup(tables: AddressTables, key: NDArray[np.uint64], ts_ns: int) -> int:
    return lookup_address(tables, key[0], key[1], key[2], key[3], ts_ns)


@dataclass
class AddressTableCounters:
    """What an `AddressTable` has seen."""

    replaced_total: int = counter("Addresses replaced by newer ones before they expired.",
                                  shown="addresses_replaced")  # fmt: skip


class AddressTable:
    """Which service and name a server's address belongs to, for one client or for any; bounded.

    Args:
        max_entries: at this many, an expired entry or one near its end gives way to a new one.
        seed: of the hash. Results do not depend on it, unless entries were replaced.

    Attributes:
        tables: for `lookup_address` and `put_address`; others once the table has grown.
    """

    def __init__(self, max_entries: int = 262_144, seed: int | None = None) -> None:
        if max_entries < 1:
            raise ValueError("max_entries must be at least 1")
        self._max_entries = max_entries
        self._seed = secrets.randbits(64) if seed is None else seed
        self.tables = self._empty(min(_MIN_ENTRIES, max_entries))

    def _empty(self, entries: int) -> AddressTables:
        room = 1 << (2 * entries - 1).bit_length()  # at most half full
        state = table_of([0, 0, 0, self._max_entries], np.int64)
        return AddressTables(table(room, ADDRESS_ENTRY), table_of([self._seed], np.uint64), state)

    @property
    def replaced_total(self) -> int:
        """Entries that gave way although they still held."""
        return int(self.tables.state[_REPLACED])

    def warm_up(self) -> None:
        """Compile, or load from the cache, what the first addresses would wait for."""
        AddressTable(1).insert((0, 0), (0, 0), 0, 0, 0, 0)
        prepare(_move_entries, self.tables, self.tables, 0)

    def __len__(self) -> int:
        """Entries, expired ones that have not given way yet included."""
        return int(self.tables.state[_COUNT])

    def insert(
        self, client: tuple[int, int], server: tuple[int, int], service: int, name_id: int, expires_ns: int, ts_ns: int
    ) -> None:
        """Map a server's address for a client ((0, 0): any) up to `expires_ns`; a later entry of the same key wins.

        Of the same service, the later end counts. `ts_ns` is now: what ended before may be thrown away.
        """
        self.insert_all([((*client, *server), (service, name_id, expires_ns))], ts_ns)

    def insert_all(self, entries: Sequence[tuple[tuple[int, ...], tuple[int, int, int]]], ts_ns: int) -> None:
        """Insert entries of (client and server), (service, name_id, expires_ns), in their order."""
        keys = np.array([key for key, _ in entries], np.uint64).reshape(-1, 4)
        values = np.array([value for _, value in entries], np.int64).reshape(-1, 3)
        done = 0
        while (done := _put(self.tables, keys, values, done, ts_ns)) < len(keys):
            self.grow(ts_ns)

    def grow(self, ts_ns: int) -> None:
        """Make room for more entries; `tables` are others from then on."""
        entries = self.tables.entries
        live = int(np.count_nonzero((entries["used"] != 0) & (entries["expires_ns"] >= ts_ns)))
        grown = self._empty(min(max(2 * live, _MIN_ENTRIES), self._max_entries))
        _move_entries(self.tables, grown, ts_ns)
        self.tables = grown

    def get(self, client: tuple[int, int], server: tuple[int, int], ts_ns: int) -> tuple[int, int] | None:
        """Service and name id of a server for a client, by what it asked or else by what anyone asked."""
        index = _lookup(self.tables, np.array([*client, *server], np.uint64), ts_ns)
        if index < 0:
            return None
        entry = self.tables.entries[index]
        return int(entry["service"]), int(entry["name_id"])
