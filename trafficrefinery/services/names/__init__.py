"""Readers of the names that flows tell about themselves: DNS answers, TLS ClientHellos, QUIC Initials.

They take bytes from the network, so none of them raises, and all memory they keep is bounded.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any


def counter(help: str, shown: str = "") -> Any:  # noqa: A002 (as metrics call it); Any: as of dataclasses.field
    """A field of a dataclass of counters: what it counts, as a sentence; and its name where it is shown, see
    `counters`, when that of the field says too little by itself."""
    return dataclasses.field(default=0, metadata={"help": help, **({"shown": shown} if shown else {})})


class Status(enum.IntEnum):
    """What a reader knows after the bytes it was fed; all but NEED_MORE are final."""

    NEED_MORE = 0
    FOUND = 1  # a ClientHello was read; its server name may still be absent (None)
    NOT_TLS = 2  # the flow does not start with a ClientHello
    NOT_FOUND = 3  # given up: a bound was reached, or the captured bytes end before the name


def printable_name(name: bytes) -> str | None:
    """A host name as it is compared and printed: lower case, no final dot; None when it cannot be one."""
    name = name.rstrip(b".")
    if not 0 < len(name) <= 255 or not all(0x21 <= byte <= 0x7E for byte in name):
        return None
    return name.decode("ascii").lower()
