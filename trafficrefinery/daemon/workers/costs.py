"""What each feature class costs on the packets that are being captured: samples, timed beside the capture."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.costs.measure import check_loop
from trafficrefinery.costs.measure.check_runs import addresses, tasks
from trafficrefinery.daemon import logs
from trafficrefinery.daemon.status import class_names
from trafficrefinery.engine.feature_classes.fuse import Profile, fuse
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.jit import records

_REPEATS = 32
_NOTHING = np.zeros(1, np.uint8)


class CostSampler:
    """Times `add_packet` of each class alone, net of the call. What has to be compiled for it is, in a thread."""

    def __init__(self, plan: Plan) -> None:
        classes = {
            cls.__name__: Profile((cls,), profile.interval_ns)
            for profile in plan.profiles[::-1]
            for cls in profile.classes
        }
        self._profiles = [classes[name] for name in class_names(plan)]
        self._steps: list[NDArray[np.int64]] = []
        threading.Thread(target=self._compile, name="costs", daemon=True).start()

    def _compile(self) -> None:
        try:
            for profile in self._profiles:
                self._steps.append(np.array(fuse([profile]).profiles[0]))
        except TrafficRefineryError as error:
            logs.warning(f"costs of feature classes are not sampled: {error}")

    def sample(self, packets: NDArray[Any]) -> list[float]:
        """Nanoseconds a packet of each class, in the order of `class_names`; NaN while it is being compiled.

        Args:
            packets: of PACKET; they are taken for those of one flow.
        """
        found = [float("nan")] * len(self._profiles)
        packets = records(np.asarray(packets).copy())
        packets["raw_bytes"] = packets["captured_payload"] = 0  # the frames are no longer there
        for number, step in enumerate(self._steps):
            state = np.zeros(1, self._profiles[number].state_dtype())
            check_loop.run(step, _NOTHING, tasks(check_loop.START, 0, addresses(state), 0), 1.0)
            todo = tasks(check_loop.ADD, addresses(packets), np.repeat(addresses(state), len(packets)), 0)
            nothing = np.array([step[0], check_loop.ADD_NOTHING, check_loop.COLLECT_NOTHING, *step[3:]])
            found[number] = max(_fastest_ns(step, todo) - _fastest_ns(nothing, todo), 0) / len(packets)
        return found


def _fastest_ns(step: NDArray[np.int64], todo: NDArray[Any]) -> int:
    times = []
    for _ in range(_REPEATS):
        before = time.perf_counter_ns()
        check_loop.run(step, _NOTHING, todo, 1.0)
        times.append(time.perf_counter_ns() - before)
    return min(times)
