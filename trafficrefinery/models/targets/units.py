"""What targets are asked about, and when they can be answered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trafficrefinery.records.inferences import CLIENT, FLOW, SESSION

INTERVAL, SECONDS, PACKETS, END = "interval", "seconds", "packets", "end"


class Unit(NamedTuple):
    """What a row of a table is about, in one interval.

    Args:
        id: column that tells units of one service apart.
        start: column with the time when the unit began, s since the epoch.
        told: when its targets can be answered, see `When.at`.
        many: the word for several of them.
    """

    name: str
    id: str
    start: str
    told: tuple[str, ...]
    many: str

    def keys(self, services: Sequence[str], ids: Sequence[str]) -> Sequence[str]:
        """The same for rows of the same unit; of a client each service is a unit of its own."""
        if self.name != CLIENT:
            return ids
        return [f"{service}\n{one}" for service, one in zip(services, ids, strict=True)]


UNITS = {
    one.name: one
    for one in (
        Unit(SESSION, "session_id", "session_start", (INTERVAL, SECONDS), "sessions"),
        Unit(FLOW, "flow_id", "flow_start", (INTERVAL, SECONDS, PACKETS, END), "flows"),
        Unit(CLIENT, "client_ip", "ts_start", (INTERVAL,), "clients"),
    )
}  # fmt: skip


class When(NamedTuple):
    """When a target is answered: in every interval, or once.

    Args:
        at: `interval`: in every one. `seconds`: in the first interval that ends `after` seconds or more after the
            unit's start. `packets`: in the first interval by whose end the unit has had `after` packets. `end`: in the
            unit's last interval.
    """

    at: str = INTERVAL
    after: float = 0

    def as_json(self) -> object:
        """`"interval"`, `"end"`, `{"seconds": 10}` or `{"packets": 8}`."""
        return {self.at: self.after} if self.at in (SECONDS, PACKETS) else self.at

    @classmethod
    def from_json(cls, content: object) -> When | None:
        """The same from JSON values; None if they are something else."""
        if content in (INTERVAL, END):
            return cls(str(content))
        if not isinstance(content, Mapping) or len(content) != 1:
            return None
        ((at, after),) = content.items()
        if isinstance(after, bool) or not isinstance(after, int | float) or not math.isfinite(after):
            return None
        fits = (at == SECONDS and after >= 0) or (at == PACKETS and after >= 1 and after == int(after))
        return cls(str(at), after) if fits else None
