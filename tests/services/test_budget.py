"""The budget of what leaves compiled code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficrefinery.jit import kernel, records
from trafficrefinery.services.budget import BUDGET, may_spend, set_budget

pytestmark = pytest.mark.modes
S = 1_000_000_000


@kernel
def ask(budgets, times_ns, units, granted):
    for i in range(len(times_ns)):
        granted[i] = may_spend(budgets[0], times_ns[i], units)


def granted(times_ns, rate, units=1, burst_s=1.0):
    budgets = records(np.zeros(1, BUDGET))
    set_budget(budgets[0], rate, burst_s=burst_s)
    found = np.zeros(len(times_ns), np.bool_)
    ask(budgets, np.array(times_ns, np.int64), units, found)
    assert int(budgets["refused"][0]) == int((~found).sum())
    return found


def test_without_a_limit_everything_is_granted():
    assert granted([0] * 1000, None).all()


def test_a_flood_gets_the_rate_and_one_burst():
    times_ns = [5 * S + i * 200_000 for i in range(50_000)]  # 5,000 a second, for 10 s
    assert 2000 * 10 <= granted(times_ns, 2000).sum() <= 2000 * 11 + 2


def test_below_the_rate_nothing_is_refused():
    assert granted([i * S // 1000 for i in range(5000)], 1000).all()


def test_work_of_several_units_takes_as_many():
    times_ns = [i * 100_000 for i in range(30_000)]
    assert 100 * 3 <= granted(times_ns, 1000, units=10).sum() <= 100 * 4 + 2


def test_work_beyond_a_burst_is_paid_off_before_the_next():
    assert granted([0, 1, S, 2 * S, 4 * S], 1000, units=1 << 40).tolist() == [True, False, False, True, True]


def test_a_clock_that_is_set_back_begins_anew():
    found = granted([100 * S] * 3000 + [5 * S] * 3000, 1000)
    assert found[3000:].sum() == found[:3000].sum() == 1001
    assert granted([1 << 62, 0, -(1 << 63), (1 << 63) - 1], 1).all()


@given(st.lists(st.integers(0, 3 * S), max_size=200), st.integers(1, 1000), st.integers(1, 5))
def test_a_span_gets_no_more_than_its_rate_and_burst(gaps_ns, rate, units):
    times_ns = np.cumsum(gaps_ns, dtype=np.int64) if gaps_ns else np.zeros(0, np.int64)
    found = granted(times_ns, rate, units)
    if len(times_ns):
        span_s = (times_ns[-1] - times_ns[0]) / S
        assert found.sum() * units <= rate * (span_s + 1) + 2 * units
