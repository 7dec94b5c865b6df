"""Packets into the states of some classes, batch by batch, as the packet loop does it: each batch can be timed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.engine.feature_classes.fuse import Profile, fuse
from trafficrefinery.jit import address_of, records
from trafficrefinery.jit.memory import Reserved, table

from . import check_loop, log
from .check_runs import addresses, tasks
from .clock import cpu_ns
from .recording import Packets

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
        log.schedule(self._packets, flows, self._opens, profile.interval_ns, packets.grace_ns, actions)
        self.step = np.array(fuse([profile]).profiles[0])
        self.nothing = np.array([self.step[0], check_loop.ADD_NOTHING, check_loop.COLLECT_NOTHING, *self.step[3:]])
        self._memory = Reserved(self.flow_count, profile.state_dtype())
        self._states = self._memory.array
        self._rows = table(1, profile.row_dtype())
        self._adding = self._tasks_of_adding(flows)
        self._flows, self._due = flows, np.flatnonzero(actions)
        self._due_flows, self._due_actions = flows[self._due], actions[self._due]

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
            actions = np.concatenate(
                [np.full(len(part), what) for part in ahead for what in (check_loop.WARM, check_loop.ADD)]
            )
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
        parts: Any = self._adding  # of records
        if not calls:
            parts = [part.copy() for part in parts]
            for part in parts:
                part["action"] &= ~check_loop.ADD
        for due, adding in zip(self._tasks_due(), parts, strict=True):
            if len(due):
                check_loop.run(step, self._raw, due, self._interval_s)
            before = cpu_ns()
            check_loop.run(step, self._raw, adding, self._interval_s)
            taken.append(cpu_ns() - before)
        return np.array(taken, np.float64)

    def collect(self) -> Rows:
        """Feed all packets, each at its time, and take some of the rows that they make, spread evenly over all."""
        ends = self._due[self._due_actions == check_loop.COLLECT]
        total = len(ends) + self.flow_count
        ends = ends[:: -(-total // _MOST_ROWS)]
        last = np.arange(self.flow_count)[:: -(-total // _MOST_ROWS)]
        ended = self._flows[ends]
        states = np.zeros(len(ends) + len(last), self._states.dtype)
        rows: Any = np.zeros(len(states), self._rows.dtype)  # of records
        rows["flow"] = self._headers[np.append(ended, last)]
        rows["flow"]["start_ns"] = np.append(self._started_before(ends), self._opens[last])
        actions = np.full(self.packet_count, check_loop.ADD)
        actions[self._due] |= self._due_actions
        todo = tasks(
            actions, addresses(self._packets), addresses(self._states)[self._flows], address_of(self._rows)
        )  # fmt: skip
        done = 0
        for number, end in enumerate(ends.tolist()):
            check_loop.run(self.step, self._raw, todo[done:end], self._interval_s)
            states[number] = self._states[ended[number]]
            done = end
        check_loop.run(self.step, self._raw, todo[done:], self._interval_s)
        states[len(ends) :] = self._states[last]
        copies = states.copy()
        check_loop.run(
            self.step, self._raw, tasks(check_loop.COLLECT, 0, addresses(copies), addresses(rows)), self._interval_s
        )
        return Rows(rows, states, total)

    def _started_before(self, ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """Start of the interval that ends with each of some packets: that of the packet of the flow before."""
        order = np.argsort(self._flows, kind="stable")
        before = np.empty(self.packet_count, np.int64)
        before[order[1:]] = order[:-1]
        found: NDArray[np.int64] = np.asarray(self._packets["interval_start_ns"])[before[ends]]
        return found

    def time_collect(self, states: NDArray[Any], step: NDArray[np.int64]) -> int:
        """The CPU time of one collection of some states, which stay as they are, in ns."""
        copies = states.copy()
        todo = tasks(check_loop.COLLECT, 0, addresses(copies), address_of(self._rows))
        before = cpu_ns()
        check_loop.run(step, self._raw, todo, self._interval_s)
        return cpu_ns() - before
