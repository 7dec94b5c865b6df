"""The services of server names that were seen before, for the packet loop. All bytes of a name are compared."""

from __future__ import annotations

import numpy as np

from trafficrefinery.flowcache import mix
from trafficrefinery.jit import helper, inlined, table_at
from trafficrefinery.names.hello import MAX_NAME_BYTES
from trafficrefinery.wire import u8

PUBLIC_NAME = -2
"""In place of a service: the name is that of an ECH configuration, and the flow's own one is hidden."""

MEMO = np.dtype(
    [
        ("hash", "u8"),  # 0: empty
        ("service", "i4"),  # -1: none
        ("name_id", "i4"),
        ("name_bytes", "i4"),
        ("ech", "i4"),
        ("name", "u1", (MAX_NAME_BYTES + 1,)),
    ],
    align=True,
)
MEMO_SETS, MEMO_WAYS = 2048, 4
"""Two entries of a set are for names of services, two for others: no flood of others drives a name of a service out."""


@inlined
def _lower(byte):
    return byte + 32 if 65 <= byte <= 90 else byte


@inlined
def _set_of(memo, value):
    """Where a name's entries begin."""
    return MEMO_WAYS * np.int64((value >> np.uint64(32)) % np.uint64(len(memo) // MEMO_WAYS))


@helper
def hash_name(buffer, at, name_bytes, seed):
    """Hash of a name, whatever its letter case; never 0."""
    value = np.uint64(seed)
    for i in range(at, at + name_bytes):
        value = (value ^ np.uint64(_lower(u8(buffer, i)))) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
    return mix(value) | np.uint64(1)


@helper
def memo_find(memo, value, buffer, at, name_bytes, ech):
    """The entry of a name, or -1. All its bytes are compared."""
    first = _set_of(memo, value)
    for i in range(first, first + MEMO_WAYS):
        entry = memo[i]
        if entry.hash == value and entry.name_bytes == name_bytes and entry.ech == ech:
            same = True
            for k in range(name_bytes):
                if entry.name[k] != _lower(u8(buffer, at + k)):
                    same = False
                    break
            if same:
                return np.int64(i)
    return np.int64(-1)


@helper
def remember(n, buffer):
    """Keep the service of the name that was asked for, in the packet's buffer.

    Args:
        n: `handshakes.NAMING`, with the answer: -1 for no service, PUBLIC_NAME for the name of an ECH configuration.
    """
    if n.memo_count == 0 or n.name_bytes <= 0:
        return
    memo = table_at(n.memo, n.memo_count, MEMO)
    value = hash_name(buffer, n.name_at, n.name_bytes, n.seed)
    at = _set_of(memo, value) + (0 if n.service >= 0 else MEMO_WAYS // 2)
    memo[at + 1] = memo[at]
    entry = memo[at]
    entry.hash = value
    entry.service = n.service
    entry.name_id = n.name_id
    entry.name_bytes = n.name_bytes
    entry.ech = n.ech
    for k in range(n.name_bytes):
        entry.name[k] = _lower(u8(buffer, n.name_at + k))
