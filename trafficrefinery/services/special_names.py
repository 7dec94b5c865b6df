"""Server names of which more is to be known than their service, in compiled code: a bounded table of their hashes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import address_of, borrowed, helper, kernel, table_at
from trafficrefinery.jit.memory import table

from .name_table import NameTables, text_hash

ECH_PUBLIC_NAME, RESOLVER = 1, 2
"""Kinds, which a name may have several of: the public name of an ECH configuration; a public resolver's over HTTPS."""
MAX_SPECIAL_NAMES = 2048

SPECIAL = np.dtype([("hash", "u8"), ("kinds", "i8")])
SPECIAL_ENTRIES = 2 * MAX_SPECIAL_NAMES
"""A power of two; half of them stay empty."""


@helper
def special_entry(special, hash_):
    """The place of a name's hash (see `name_table.text_hash`), or of the free entry where it would be."""
    at = np.int64((hash_ >> np.uint64(32)) & np.uint64(SPECIAL_ENTRIES - 1))
    while special[at].hash != 0 and special[at].hash != hash_:
        at = np.int64(at + 1 if at + 1 < SPECIAL_ENTRIES else 0)
    return at


@helper
def kinds_of(address, hash_):
    """What is known of a name by its hash: kinds as bits, 0 for none. `address` is of a `SpecialNames`' table."""
    special = table_at(address, SPECIAL_ENTRIES, SPECIAL)
    return np.int64(special[special_entry(special, hash_)].kinds)


@kernel
def _add(tables: Any, special: Any, text: NDArray[np.uint8], kinds: int) -> None:
    special = borrowed(special)
    hash_ = text_hash(borrowed(tables)[0].seed, text, 0, len(text))
    entry = special[special_entry(special, hash_)]
    entry.hash = hash_
    entry.kinds |= kinds


class SpecialNames:
    """The table.

    Args:
        tables: whose hashes are taken for names.

    Attributes:
        address: of the table, for compiled code; it stays where it is.
    """

    def __init__(self, tables: NameTables) -> None:
        self._entries = table(SPECIAL_ENTRIES, SPECIAL)
        self._tables = tables.record
        self._kinds: dict[str, int] = {}
        self.address = address_of(self._entries)

    def add(self, name: str, kind: int) -> bool:
        """Enter one kind of a name: ASCII, in lower case, without a final dot. False when there are too many names."""
        if name not in self._kinds and len(self._kinds) >= MAX_SPECIAL_NAMES:
            return False
        self._kinds[name] = self._kinds.get(name, 0) | kind
        _add(self._tables, self._entries, np.frombuffer(bytearray(name.encode("ascii")), np.uint8), kind)
        return True

    def kinds(self, name: str) -> int:
        """The kinds of a name as bits, 0 for none."""
        return self._kinds.get(name, 0)
