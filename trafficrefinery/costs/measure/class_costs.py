"""What a class costs: nanoseconds a packet and a row."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.engine.feature_classes.fuse import Profile, fuse
from trafficrefinery.jit import address_of

from . import check_loop
from .check_runs import INTERVAL_S, Script, addresses, tasks, whole

_BATCH, _PASSES, _COLLECTED = 64, 200, 2_000


def costs(profile: Profile, script: Script) -> dict[str, float]:
    """Nanoseconds a packet and a row, net of what a class costs that does nothing."""
    step = np.array(fuse([profile]).profiles[0])
    nothing = np.array([step[0], check_loop.ADD_NOTHING, check_loop.COLLECT_NOTHING, *step[3:]])
    fed = whole(profile, script)
    # As in the packet loop: first a whole batch is brought into the caches, then it is added.
    batches = np.array_split(np.arange(script.closing), script.closing // _BATCH)
    order = np.concatenate([batch for batch in batches for _ in range(2)])
    actions = np.concatenate(
        [
            part
            for batch in batches
            for part in (batch * 0 + check_loop.WARM, script.actions[batch] & ~check_loop.COLLECT)
        ]
    )
    adding = tasks(actions, addresses(script.packets)[order], addresses(fed.states)[script.flows[order]], 0)
    copies = np.zeros(_COLLECTED, fed.states.dtype)
    chosen = np.arange(_COLLECTED) % len(fed.states)
    collecting = tasks(check_loop.COLLECT, 0, addresses(copies), address_of(fed.rows))

    def collect_ns(functions: NDArray[np.int64]) -> int:
        copies[:] = fed.states[chosen]
        return _timed_ns(functions, script.buffer, collecting)

    def add_ns(functions: NDArray[np.int64]) -> int:
        return _timed_ns(functions, script.buffer, adding)

    collect = _difference(collect_ns, step, nothing)  # first: it needs the states as they are
    add = _difference(add_ns, step, nothing)
    return {"add_packet_ns": add / script.closing, "collect_ns": collect / _COLLECTED}


def _timed_ns(functions: NDArray[np.int64], buffer: NDArray[np.uint8], todo: NDArray[Any]) -> int:
    before = time.perf_counter_ns()
    check_loop.run(functions, buffer, todo, INTERVAL_S)
    return time.perf_counter_ns() - before


def _difference(run_ns: Callable[[NDArray[np.int64]], int], *functions: NDArray[np.int64]) -> int:
    """How much longer the first takes than the second, at least; measured in turn, so that both meet the same load."""
    one, other = (
        min(found, default=0) for found in zip(*(map(run_ns, functions) for _ in range(_PASSES)), strict=True)
    )
    return max(one - other, 0)
