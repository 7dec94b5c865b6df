"""Which session a client's traffic belongs to: when one starts, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.config import Sessions

Integers = NDArray[np.int64]


class OpenSessions:
    """The sessions of one service; each has a slot, which is used again when the session is forgotten.

    Media are segments that were completed, or that run and are large. Time goes by intervals: a gap in a client's
    media (or packets) lasts from the end of the last interval with some to the start of the next.

    - A session starts with media after a gap of at least `StartGap`, unless one is open.
    - It is open until a gap of `EndGap` in the client's packets of the service.
    - Where `EndGap` is the shorter, media after less than `StartGap` open the same session again.

    Of 16 recorded sessions of ten minutes, starting one after each gap of 30 s in the media would split eleven: a
    player with a full buffer pauses for longer, and of small segments none counts as media.

    Attributes:
        start_ns: of each slot, when its session started.
        started, ended, refused: sessions so far; refused are those beyond `MaxSessions`.
    """

    def __init__(self, rule: Sessions) -> None:
        self._rule = rule
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._clients: list[str] = []
        self.start_ns = np.zeros(0, np.int64)
        self._media_end_ns, self._packet_end_ns = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._used = np.zeros(0, np.bool_)
        self.started = self.ended = self.refused = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def capacity(self) -> int:
        """Slots that there are."""
        return len(self.start_ns)

    def assign(
        self, interval: tuple[int, int], clients: Sequence[str], media: NDArray[np.bool_], start_ns: Integers
    ) -> tuple[Integers, NDArray[np.bool_]]:
        """The slots of clients with traffic in an interval, -1 for those without a session; and which are new.

        Args:
            interval: its start and end, ns.
            media: whether a client has media in it.
            start_ns: when a client's session starts, if one does.
        """
        begins_ns, ends_ns = interval
        self.forget(begins_ns)
        slots = np.fromiter((self._slots.get(client, -1) for client in clients), np.int64, len(clients))
        new = media & (slots < 0)
        for index in np.flatnonzero(new).tolist():
            slots[index] = self._start(clients[index], int(start_ns[index]))
        new &= slots >= 0
        known = np.flatnonzero(slots >= 0)
        self._media_end_ns[slots[known[media[known]]]] = ends_ns
        open_again = media[known] | (begins_ns - self._packet_end_ns[slots[known]] < self._rule.end_gap_ns)
        self._packet_end_ns[slots[known[open_again]]] = ends_ns
        slots[known[~open_again]] = -1
        return slots, new

    def forget(self, now_ns: int) -> None:
        """Forget the sessions that media can no longer open again."""
        no_media = now_ns - self._media_end_ns >= self._rule.start_gap_ns
        no_packet = now_ns - self._packet_end_ns >= self._rule.end_gap_ns
        for slot in np.flatnonzero(no_media & no_packet & self._used).tolist():
            del self._slots[self._clients[slot]]
            self._used[slot] = False
            self._free.append(slot)
            self.ended += 1

    def _start(self, client: str, start_ns: int) -> int:
        if self._free:
            slot = self._free.pop()
        elif len(self._clients) < self._rule.max_sessions:
            slot = len(self._clients)
            self._clients.append(client)
            self._reserve(slot + 1)
        else:
            self.refused += 1
            return -1
        self._slots[client], self._clients[slot] = slot, client
        self.start_ns[slot], self._used[slot] = start_ns, True
        self.started += 1
        return slot

    def _reserve(self, slots: int) -> None:
        if slots > self.capacity:
            more = max(slots, 2 * self.capacity, 64) - self.capacity
            self._used = np.concatenate((self._used, np.zeros(more, np.bool_)))
            self.start_ns = np.concatenate((self.start_ns, np.zeros(more, np.int64)))
            self._media_end_ns = np.concatenate((self._media_end_ns, np.zeros(more, np.int64)))
            self._packet_end_ns = np.concatenate((self._packet_end_ns, np.zeros(more, np.int64)))
