"""Packets into the states of some classes, batch by batch, as the packet loop does it: each batch can be timed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.checking import loop
from trafficrefinery.checking.runs import addresses, tasks
from trafficrefinery.fuse import Profile, fuse
from trafficrefinery.jit import address_of, records
from trafficrefinery.memory import Reserved
from trafficrefinery.profiling import log
from trafficrefinery.profiling.clock import cpu_ns
from trafficrefinery.profiling.recording import Packets

BATCH_PACKETS = 1024
"""That are timed at once: a hundred times longer than the clock takes."""
_AHEAD = 64  # packets that are brought into the caches before they are added, as in the packet loop
_MOST_ROWS = 2000


class Rows(NamedTuple):
    """A sample of rows, and the states that they were made from.

    Args:
        total: rows that all packets make.
    """

    rows: NDArray[Any]
    states: NDArray[Any]
    total: int


class Feed:
    """Packets, and the states of a profile that they go into.

    Args:
        chosen: bool, which of the packets; default: all.
    """

    def __init__(self, profile: Profile, packets: Packets, chosen: NDArray[np.bool_] | None = None) -> None:
        self._raw, self._interval_s = packets.raw, profile.interval_ns / 1e9
        if chosen is None or chosen.all():
            self._packets, numbers = packets.packets, packets.flows
        else:
            self._packets, numbers = records(np.asarray(packets.packets)[chosen]), packets.flows[chosen]
        known, flows = np.unique(numbers, return_inverse=True)
        self.flow_count, self.packet_count = len(known), len(flows)
        self._headers = packets.headers[known]
        actions = np.empty(len(flows), np.int64)
        self._opens = np.full(self.flow_count, -1, np.int64)
        log.schedule(self._packets, flows, self._opens, profile.interval_ns, actions)
        self.step = np.array(fuse([profile]).profiles[0])
        self.nothing = np.array([self.step[0], loop.ADD_NOTHING, loop.COLLECT_NOTHING])
        self._memory = Reserved(self.flow_count, profile.state_dtype())
        self._states = self._memory.array
        self._rows = np.zeros(1, profile.row_dtype())
        self._adding = self._tasks_of_adding(flows)
        self._due = np.flatnonzero(actions)
        self._due_flows, self._due_actions = flows[self._due], actions[self._due]
        self._starts = self._packets["interval_start_ns"]

    @property
    def bounds(self) -> NDArray[np.int64]:
        """Where batches begin, and the end."""
        return np.append(np.arange(0, self.packet_count, BATCH_PACKETS), self.packet_count)

    def _tasks_of_adding(self, flows: NDArray[np.int64]) -> list[NDArray[Any]]:
        packets, states = addresses(self._packets), addresses(self._states)[flows]
        parts = []
        for begin, end in pairwise(self.bounds):
            order = np.arange(begin, end)
            ahead = [order[i : i + _AHEAD] for i in range(0, len(order), _AHEAD)]
            twice = np.concatenate([part for part in ahead for _ in range(2)])
            actions = np.concatenate([np.full(len(part), what) for part in ahead for what in (loop.WARM, loop.ADD)])
            parts.append(tasks(actions, packets[twice], states[twice], 0))
        return parts

    def _tasks_due(self) -> list[NDArray[Any]]:
        """What is begun and collected before each batch; into one row, which is written over."""
        made = tasks(self._due_actions, 0, addresses(self._states)[self._due_flows], address_of(self._rows))
        cuts = np.searchsorted(self._due, self.bounds)
        return [made[begin:end] for begin, end in pairwise(cuts)]

    def time_batches(self, step: NDArray[np.int64], *, calls: bool = True) -> NDArray[np.float64]:
        """Feed all packets; the CPU time of each batch in ns. Without calls, they are only brought into the caches."""
        taken = []
        parts = self._adding
        if not calls:
            parts = [part.copy() for part in parts]
            for part in parts:
                part["action"] &= ~loop.ADD
        for due, adding in zip(self._tasks_due(), parts, strict=True):
            if len(due):
                loop.run(step, self._raw, due, self._interval_s)
            before = cpu_ns()
            loop.run(step, self._raw, adding, self._interval_s)
            taken.append(cpu_ns() - before)
        return np.array(taken, np.float64)

    def collect(self) -> Rows:
        """Feed all packets, and take some of the rows that they make, spread evenly over all."""
        collected = np.flatnonzero(self._due_actions == loop.COLLECT)
        total = len(collected) + self.flow_count
        stride = -(-total // _MOST_ROWS)
        wanted = collected[::stride]
        last = np.arange(self.flow_count)[:: -(-self.flow_count // (_MOST_ROWS // 2))]
        states = np.zeros(len(wanted) + len(last), self._states.dtype)
        rows = np.zeros(len(states), self._rows.dtype)
        rows["flow"] = self._headers[np.append(self._due_flows[wanted], last)]
        rows["flow"]["start_ns"] = np.append(self._opened_before(wanted), self._opens[last])
        cuts = np.searchsorted(self._due, self.bounds)
        for due, adding, begin, end in zip(self._tasks_due(), self._adding, cuts[:-1], cuts[1:], strict=True):
            sampled = np.flatnonzero((wanted >= begin) & (wanted < end))
            states[sampled] = self._states[self._due_flows[wanted[sampled]]]
            if len(due):
                loop.run(self.step, self._raw, due, self._interval_s)
            loop.run(self.step, self._raw, adding, self._interval_s)
        states[len(wanted) :] = self._states[last]
        filled = states.copy()
        loop.run(self.step, self._raw, tasks(loop.COLLECT, 0, addresses(filled), addresses(rows)), self._interval_s)
        return Rows(rows, states, total)

    def _opened_before(self, which: NDArray[np.int64]) -> NDArray[np.int64]:
        """Start of the interval that each of some COLLECTs ends."""
        opens = np.asarray(self._starts)[self._due]
        order = np.argsort(self._due_flows, kind="stable")
        before = np.empty(len(opens), np.int64)
        before[order[1:]] = opens[order[:-1]]
        found: NDArray[np.int64] = before[which]
        return found

    def time_collect(self, states: NDArray[Any], step: NDArray[np.int64]) -> int:
        """The CPU time of one collection of some states, which stay as they are, in ns."""
        copies = states.copy()
        todo = tasks(loop.COLLECT, 0, addresses(copies), address_of(self._rows))
        before = cpu_ns()
        loop.run(step, self._raw, todo, self._interval_s)
        return cpu_ns() - before
