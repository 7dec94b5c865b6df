"""How the times of a trace run: packets that are older than others before them, and steps back in time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import helper, kernel

FAR_NS = 3600 * 10**9
"""A step by more than this counts only when the next packet agrees: a single packet may have a stray time."""
_NOTHING_FOLLOWS = -(1 << 62)
_PACKETS, _FIRST, _LATEST, _BEFORE, _PENDING, _HAS_PENDING, _BACKWARD, _LATE, _MOST_NS, _STEPS = range(10)


class Times(NamedTuple):
    """The times of the packets of one trace, in the order in which they are stored.

    Args:
        first_ns, latest_ns: the time of the first packet, and the latest time, strays left out; 0 without packets.
        backward: packets whose time is before that of the packet before them.
        late: packets that are older than the latest time before them by more than the grace.
        most_ns: the most by which one of these is older.
        steps: times that the clock went back by more than an hour and stayed there.
    """

    packets: int
    first_ns: int
    latest_ns: int
    backward: int
    late: int
    most_ns: int
    steps: int


class TimeOrder:
    """Takes the times of a trace, block by block; what it counts does not depend on where blocks end."""

    def __init__(self, grace_ns: int) -> None:
        self._grace_ns = grace_ns
        self._counts = np.zeros(10, np.int64)

    @property
    def before_ns(self) -> int:
        """The time that the next one has to follow, within an hour, to be in order."""
        is_plain = self._counts[_PACKETS] and not self._counts[_HAS_PENDING] and self._counts[_LATEST] >= 0
        return int(self._counts[_LATEST]) if is_plain else _NOTHING_FOLLOWS

    def note(self, frames: NDArray[Any], count: int | np.int64, *, in_order: bool = False) -> None:
        """Take the first `count` frames, FRAME records.

        Args:
            in_order: each follows the one before it within an hour, modulo 2^64, and the first one follows `before_ns`.
        """
        if in_order and count and frames["ts_ns"][count - 1] >= 0:
            self._counts[_PACKETS] += count
            self._counts[_LATEST] = self._counts[_BEFORE] = frames["ts_ns"][count - 1]
        else:
            note_times(frames, int(count), self._grace_ns, self._counts)

    def start_over(self) -> None:
        """Forget all: the trace is read from its start again."""
        self._counts[:] = 0

    @property
    def times(self) -> Times:
        """What was found so far."""
        found = self._counts.tolist()
        return Times(found[_PACKETS], found[_FIRST], found[_LATEST], *found[_BACKWARD:])


@helper
def is_far(a: int, b: int) -> bool:
    """Whether two times differ by more than an hour; near the ends of 64 bits their difference may not fit into 64."""
    return abs(float(a) - float(b)) > 2.0 * FAR_NS or abs(a - b) > FAR_NS


@kernel
def note_times(frames: Any, count: int, grace_ns: int, counts: NDArray[np.int64]) -> None:
    """See `Times`."""
    count = min(count, len(frames))
    if counts[_PACKETS] == 0 and count > 0:
        counts[_FIRST] = counts[_LATEST] = counts[_BEFORE] = frames[0].ts_ns
    latest, before, i = counts[_LATEST], counts[_BEFORE], 0
    while i < count:
        if counts[_HAS_PENDING] == 0 and latest >= 0:  # nearly all packets are in order
            while i < count and frames[i].ts_ns >= latest and frames[i].ts_ns - latest <= FAR_NS:
                latest = frames[i].ts_ns
                before = latest
                i += 1
            if i == count:
                break
        ts = frames[i].ts_ns
        i += 1
        if ts < before:
            counts[_BACKWARD] += 1
        before = ts
        if counts[_HAS_PENDING] == 1 and not is_far(ts, counts[_PENDING]):
            if counts[_PENDING] < latest:
                counts[_STEPS] += 1
            latest = max(ts, counts[_PENDING])
            counts[_HAS_PENDING] = 0
            continue
        counts[_HAS_PENDING] = 0
        if is_far(ts, latest):
            counts[_PENDING] = ts
            counts[_HAS_PENDING] = 1
        elif ts >= latest:
            latest = ts
        elif latest - ts > grace_ns:
            counts[_LATE] += 1
            counts[_MOST_NS] = max(counts[_MOST_NS], latest - ts)
    counts[_PACKETS] += count
    counts[_LATEST] = latest
    counts[_BEFORE] = before
