"""The services of server names that were seen before, for the packet loop. All bytes of a name are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.flowcache import mix
from trafficrefinery.jit import borrowed, helper, inlined, kernel, table_at
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


@kernel
def remember(partition: Any, name: NDArray[np.uint8], service: int, name_id: int) -> None:
    """Keep the service of the name that was asked for: -1 for none, PUBLIC_NAME for one of an ECH configuration.

    Args:
        partition: a record with `handshakes.NAMING` as `naming`.
    """
    n = borrowed(partition)[0].naming
    name = borrowed(name)
    if n.memo_count == 0 or len(name) > MAX_NAME_BYTES:
        return
    memo = table_at(n.memo, n.memo_count, MEMO)
    value = hash_name(name, 0, len(name), n.seed)
    at = _set_of(memo, value) + (0 if service >= 0 else MEMO_WAYS // 2)
    memo[at + 1] = memo[at]
    entry = memo[at]
    entry.hash = value
    entry.service = service
    entry.name_id = name_id
    entry.name_bytes = len(name)
    entry.ech = n.ech
    for k in range(len(name)):
        entry.name[k] = _lower(u8(name, k))
