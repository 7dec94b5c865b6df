"""What leaves compiled code has a budget: so much work a second of packet time, asked for before it is done.

A token bucket in the form of the generic cell rate algorithm (ITU-T I.371, annex A): one number says until when the
work that was granted would last at the allowed rate; a grant is possible while that is at most a burst ahead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.jit import helper

UNIT_US = 10
"""The most CPU time, in microseconds, that a unit of work takes."""
BUDGET = np.dtype(
    [
        ("period_ns", "i8"),  # packet time that one unit of work takes at the allowed rate; 0: no limit
        ("burst_ns", "i8"),  # how far the grants may be ahead of the packets
        ("busy_until_ns", "i8"),
        ("refused", "i8"),  # requests that were turned down since the start
    ]
)
"""The budget of one kind of work; a record inside a worker's partition."""

_NS_PER_S = 1_000_000_000
_EARLIEST_NS, _LATEST_NS = -(1 << 62), 1 << 62
_MAX_UNITS = 1 << 20


@helper
def may_spend(budget: Any, now_ns: int, units: int) -> bool:
    """Whether there is budget for some units of work at `now_ns` of packet time; if so they are spent, else counted.

    `now_ns` is the watermark rather than the packet's own time, which may jump. When it is far before the last one
    (the clock was set back) the budget begins anew: nothing is refused for longer than it takes to earn two bursts.
    """
    if budget.period_ns <= 0:
        return True
    now_ns = min(max(now_ns, _EARLIEST_NS), _LATEST_NS)
    most_ns = 2 * budget.burst_ns + budget.period_ns
    ahead_ns = budget.busy_until_ns - now_ns
    if ahead_ns < 0 or ahead_ns > most_ns:
        ahead_ns = 0
    if ahead_ns > budget.burst_ns:
        budget.refused += 1
        return False
    spent_ns = min(max(units, 0), _MAX_UNITS) * budget.period_ns
    budget.busy_until_ns = now_ns + min(ahead_ns + spent_ns, most_ns)
    return True


def set_budget(budget: Any, per_second: int | None, units: int = 1, burst_s: float = 1.0) -> None:
    """Begin a BUDGET: `per_second` times `units` of packet time (None: no limit), and those of `burst_s` at once."""
    budget["period_ns"] = 0 if per_second is None else max(_NS_PER_S // max(per_second * units, 1), 1)
    budget["burst_ns"] = int(burst_s * _NS_PER_S)
    budget["busy_until_ns"] = _EARLIEST_NS
    budget["refused"] = 0
