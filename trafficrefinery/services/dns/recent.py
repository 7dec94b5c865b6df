"""What was seen of late, by the hash of its key, in compiled code: bounded, and the first to come is the first to go.

What is forgotten depends on the order of what came and on nothing else, so it is the same in all workers of a replay.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.jit import address_of, helper, table_at
from trafficrefinery.jit.memory import table

ENTRY = np.dtype(
    [
        ("key", "u8"),  # a hash; 0: free
        ("until_ns", "i8"),  # the last moment at which the entry holds
        ("value", "i8"),
        ("service", "i4"),
        ("next", "i4"),  # of those with the same head: its place + 1
    ],
    align=True,
)
RECENT = np.dtype(
    [("entries", "i8"), ("entries_count", "i8"), ("heads", "i8"), ("heads_count", "i8"), ("hand", "i8"),
     ("replaced", "i8")],  # entries that gave way although they held
)  # fmt: skip
_I4 = np.dtype("i4")
_32 = np.uint64(32)


@helper
def _head(recent, key):
    return np.int64((key >> _32) & np.uint64(recent.heads_count - 1))


@helper
def find_recent(recent, key, now_ns):
    """The place of an entry that holds at `now_ns`, or -1."""
    entries = table_at(recent.entries, recent.entries_count, ENTRY)
    at = np.int64(table_at(recent.heads, recent.heads_count, _I4)[_head(recent, key)]) - 1
    for _ in range(recent.entries_count):  # a bound; chains are short
        if at < 0 or entries[at].key == key:
            break
        at = np.int64(entries[at].next) - 1
    return at if at >= 0 and entries[at].until_ns >= now_ns else np.int64(-1)


@helper
def put_recent(recent, key, until_ns, now_ns):
    """The place of a key's entry, which holds from now on to `until_ns`; when it is new, the oldest one gives way."""
    entries = table_at(recent.entries, recent.entries_count, ENTRY)
    heads = table_at(recent.heads, recent.heads_count, _I4)
    head = _head(recent, key)
    at = np.int64(heads[head]) - 1
    for _ in range(recent.entries_count):
        if at < 0:
            break
        if entries[at].key == key:
            entries[at].until_ns = until_ns
            return at
        at = np.int64(entries[at].next) - 1
    at = np.int64(recent.hand)
    recent.hand = at + 1 if at + 1 < recent.entries_count else 0
    if entries[at].key != 0:
        recent.replaced += 1 if entries[at].until_ns >= now_ns else 0
        _unlink(recent, at)
    entries[at].key = key
    entries[at].until_ns = until_ns
    entries[at].value = 0
    entries[at].service = -1
    entries[at].next = heads[head]
    heads[head] = np.int32(at + 1)
    return at


@helper
def _unlink(recent, at):
    entries = table_at(recent.entries, recent.entries_count, ENTRY)
    heads = table_at(recent.heads, recent.heads_count, _I4)
    head = _head(recent, entries[at].key)
    before = np.int64(heads[head]) - 1
    if before == at:
        heads[head] = entries[at].next
        return
    for _ in range(recent.entries_count):
        if before < 0:
            break
        if entries[before].next == at + 1:
            entries[before].next = entries[at].next
            break
        before = np.int64(entries[before].next) - 1


def new_recent(record: Any, max_entries: int) -> tuple[Any, Any]:
    """Memory for a RECENT record, which is to live as long as that."""
    entries = table(max_entries, ENTRY)
    heads = table(1 << max(2 * max_entries - 1, 1).bit_length(), np.int32)
    record["entries"], record["entries_count"] = address_of(entries), len(entries)
    record["heads"], record["heads_count"] = address_of(heads), len(heads)
    return entries, heads
