"""Times that go backward are counted as a naive reading of the rules does it, wherever blocks end."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficrefinery.capture.frames import FRAME
from trafficrefinery.capture.timeorder import TimeOrder, Times
from trafficrefinery.jit import records

pytestmark = pytest.mark.modes
S = 10**9
HOUR = 3600 * S
START = 1_700_000_000 * S


def measured(times: list[int], grace_ns: int = S, sizes: tuple[int, ...] = (10**6,)) -> Times:
    order, at, turn = TimeOrder(grace_ns), 0, 0
    while at < len(times):
        part = times[at : at + sizes[turn % len(sizes)]]
        frames = records(np.zeros(len(part) + 1, FRAME))
        frames["ts_ns"][: len(part)] = part
        order.note(frames, len(part))
        at, turn = at + len(part), turn + 1
    return order.times


def naive(times: list[int], grace_ns: int = S) -> Times:
    """Whole and slow: a far time counts only when the next one is near it."""
    late = most = steps = 0
    latest, pending = times[0], None
    for ts in times:
        if pending is not None and abs(ts - pending) <= HOUR:
            steps += pending < latest
            latest, pending = max(ts, pending), None
        elif abs(ts - latest) > HOUR:
            pending = ts
        else:
            pending = None
            if latest - ts > grace_ns:
                late, most = late + 1, max(most, latest - ts)
            latest = max(latest, ts)
    backward = sum(after < before for before, after in itertools.pairwise(times))
    return Times(len(times), times[0], latest, backward, late, most, steps)


steps_ns = st.lists(
    st.integers(-3 * S, 3 * S) | st.sampled_from([0, 1, -1, HOUR, -HOUR, HOUR + 1, -HOUR - 1, 5 * HOUR, -5 * HOUR]),
    min_size=1, max_size=60,
)  # fmt: skip


@given(steps_ns, st.lists(st.integers(1, 7), min_size=1, max_size=4), st.sampled_from([0, S, 2 * S]))
def test_what_is_counted_is_what_the_rules_say_wherever_blocks_end(steps, sizes, grace_ns):
    times = (START + np.cumsum(steps)).tolist()
    assert measured(times, grace_ns, tuple(sizes)) == naive(times, grace_ns)


def test_ordinary_traces_have_nothing_to_report():
    found = measured([START + i * 1000 for i in range(1000)])
    assert found[3:] == (0, 0, 0, 0)
    assert found[:3] == (1000, START, START + 999_000)


def test_one_stray_time_changes_nothing_for_the_others():
    times = [START + i * S for i in range(100)]
    for stray in (0, 4_000_000_000 * S, 2**63 - 1, -(2**63) + 1):
        found = measured([*times[:50], stray, *times[50:]])
        assert (found.late, found.steps, found.latest_ns) == (0, 0, times[-1])


def test_a_first_packet_with_a_stray_time_is_one_step_back():
    found = measured([4_000_000_000 * S, *(START + i * S for i in range(10))])
    assert (found.late, found.steps, found.latest_ns) == (0, 1, START + 9 * S)


def test_pieces_in_the_wrong_order_are_counted():
    first, second = [START + i * S for i in range(60)], [START + (60 + i) * S for i in range(60)]
    found = measured([*second, *first])
    assert (found.late, found.backward, found.most_ns) == (60, 1, 119 * S)
    assert measured([*first, *second]).late == 0


def test_times_at_the_ends_of_64_bits_do_no_harm():
    for times in ([2**63 - 1, -(2**63), 0, 5], [-(2**63), 2**63 - 1, 2**63 - 1, -(2**63), -(2**63)]):
        assert measured(times).packets == len(times)
