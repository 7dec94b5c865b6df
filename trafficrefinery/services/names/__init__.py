"""Readers of names: DNS answers, TLS ClientHellos, QUIC Initials. `services.sources` lists those of flows.

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
    """What a reader knows after the bytes it was given, of what the client says first."""

    NEED_MORE = 0  # it begins here, and goes on behind these bytes
    FOUND = 1  # it was read; its name may still be absent (None)
    OTHER = 2  # something else is here
    NOT_FOUND = 3  # given up: it is damaged, a bound was reached, or the captured bytes end before the name
    UNSURE = 4  # it may begin here, or behind what goes on: too few bytes are there
    UNKNOWN_VERSION = 5  # it begins here, in a version that is not read


NEED_MORE, FOUND, OTHER, NOT_FOUND, UNSURE, UNKNOWN_VERSION = (int(status) for status in Status)
NO_ECH, HAS_ECH, MAY_HAVE_ECH = 0, 1, 2
"""What a hello says of Encrypted Client Hello; the last, when it is cut before its last extension."""


def printable_name(name: bytes) -> str | None:
    """A host name as it is compared and printed: lower case, no final dot; None when it cannot be one."""
    name = name.rstrip(b".")
    if not 0 < len(name) <= 255 or not all(0x21 <= byte <= 0x7E for byte in name):
        return None
    return name.decode("ascii").lower()
