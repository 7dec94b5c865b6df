"""Messages that came before what they follow from, in compiled code: an answer before its query, an address before the
alias that leads to it. They are kept for as long as packets may be out of order (`Grace`), and read again then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.jit import address_of, helper, table_at
from trafficrefinery.jit.memory import table

from .recent import ENTRY, RECENT, find_recent, new_recent, put_recent

_MESSAGES = 2048
KEPT_BYTES = 1232
"""The longest message that is kept: resolvers send no longer ones over UDP (RFC 9715)."""

KEPT = np.dtype(
    [("client_hi", "u8"), ("client_lo", "u8"), ("ts_ns", "i8"), ("is_asked", "i8"), ("bytes", "i8"),
     ("payload", "u1", (KEPT_BYTES,))],
    align=True,
)  # fmt: skip
EARLY = np.dtype([("keys", RECENT), ("kept", "i8"), ("kept_count", "i8"), ("grace_ns", "i8")], align=True)
"""Messages by the hash of what they wait for; each lies where its key does."""


@helper
def keep_message(early, key, buffer, start, end, now_ns):
    """Keep the bytes of a message that waits for `key`, in place of the oldest; where, or -1 when it is too long."""
    if end - start > KEPT_BYTES or early.grace_ns <= 0:
        return np.int64(-1)
    at = put_recent(early.keys, key, now_ns + early.grace_ns, now_ns)
    kept = kept_at(early, at)
    kept.bytes = end - start
    for i in range(end - start):
        kept.payload[i] = buffer[start + i]
    return np.int64(at)


@helper
def take_early(early, key, now_ns):
    """The place of the message that waits for `key`, which waits no more; or -1."""
    at = find_recent(early.keys, key, now_ns)
    if at >= 0:
        table_at(early.keys.entries, early.keys.entries_count, ENTRY)[at].until_ns = -(1 << 62)
    return at


@helper
def kept_at(early, at):
    return table_at(early.kept, early.kept_count, KEPT)[at]


def new_early(record: Any) -> tuple[Any, ...]:
    """Memory for an EARLY record, which is to live as long as that."""
    kept = table(_MESSAGES, KEPT)
    record["kept"], record["kept_count"] = address_of(kept), len(kept)
    return kept, *new_recent(record["keys"], _MESSAGES)
