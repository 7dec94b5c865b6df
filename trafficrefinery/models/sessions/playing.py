"""Which flows carry a service's media, and whether a session plays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.config.model import MEDIA
from trafficrefinery.services.matching import in_domains

if TYPE_CHECKING:
    import polars as pl

Integers = NDArray[np.int64]
LEAST_SEGMENTS = 4
"""A player asks again and again; a page has few large objects. Players open a connection for each segment, too."""
RUNNING_KBPS = 1_000
"""From this rate on, a segment that is not complete counts as one in each interval: a film in one response."""


class MediaFlows:
    """Tells of the flows of a service which may carry media, by their names.

    Args:
        domains: `MediaDomains` of its filter; without any, and without a name, a flow may.
    """

    def __init__(self, domains: Sequence[str]) -> None:
        self._domains = domains
        self._known: dict[str | None, bool] = {None: True}

    def of(self, flow: Mapping[str, pl.Series]) -> NDArray[np.bool_]:
        """One for each flow of a batch."""
        if not self._domains:
            return np.ones(len(flow["client_ip"]), np.bool_)
        names = flow["domain"].to_list()
        if len(self._known) > 100_000:
            self._known = {None: True}
        for name in set(names) - self._known.keys():
            self._known[name] = in_domains(str(name), self._domains)
        return np.fromiter((self._known[name] for name in names), np.bool_, len(names))


def running(columns: Mapping[str, pl.Series], least_bytes: float) -> NDArray[np.bool_]:
    """Flows in which a segment that is not complete brought so many bytes in the interval, by PacketCounters."""
    requests, pending = (columns[f"{MEDIA}.{name}"].to_numpy() for name in ("pending_requests", "pending_bytes"))
    new_bytes = np.minimum(pending, columns["PacketCounters.bytes_down"].to_numpy())
    found: NDArray[np.bool_] = (requests > 0) & (new_bytes >= least_bytes)
    return found


def media_segments(
    columns: Mapping[str, pl.Series], may: NDArray[np.bool_], interval_ns: int, *, counts_packets: bool
) -> Integers:
    """Segments of each flow in an interval that may be media.

    Args:
        may: which flows may carry media.
        counts_packets: there are PacketCounters, which tell how fast a segment runs.
    """
    found: Integers = np.where(may, columns[f"{MEDIA}.segments"].to_numpy(), 0).astype(np.int64)
    if counts_packets:
        found = np.maximum(found, may & running(columns, RUNNING_KBPS * interval_ns / 8e6))
    return found


class Playing:
    """Whether the sessions of a service play, by slot.

    One plays from the interval on in which it has `LEAST_SEGMENTS` of media without a gap between them, until a gap.

    Args:
        gap_ns: without media in it, nothing is played.
    """

    def __init__(self, gap_ns: int) -> None:
        self._gap_ns = gap_ns
        self._segments, self._media_end_ns = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def reserve(self, more: int) -> None:
        """Have so many slots more."""
        self._segments = np.concatenate((self._segments, np.zeros(more, np.int64)))
        self._media_end_ns = np.concatenate((self._media_end_ns, np.zeros(more, np.int64)))

    def clear(self, slots: Integers) -> None:
        """Begin anew, for other sessions."""
        self._segments[slots] = 0

    def add(self, interval: tuple[int, int], slots: Integers, segments: Integers) -> NDArray[np.bool_]:
        """Whether sessions play in an interval, start and end in ns, with so many media segments each."""
        begins_ns, ends_ns = interval
        paused = begins_ns - self._media_end_ns[slots] >= self._gap_ns
        before = np.where(paused, 0, self._segments[slots])
        self._segments[slots] = np.minimum(before + segments, LEAST_SEGMENTS)
        some = slots[segments > 0]
        self._media_end_ns[some] = ends_ns
        plays: NDArray[np.bool_] = self._segments[slots] >= LEAST_SEGMENTS
        return plays
