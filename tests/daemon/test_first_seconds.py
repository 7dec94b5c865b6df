"""FirstSeconds against its twin, and the startup features of a session that are made from it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.naive.first_seconds import first_seconds
from support.naive.packets import P
from support.naive.running import load, run
from trafficrefinery.api import DOWN, UP, state_dtype
from trafficrefinery.api.sessions import Flows, States
from trafficrefinery.config.paths import features_dir
from trafficrefinery.engine.feature_classes.registry import load_file

FirstSeconds: Any = load("first_seconds").FirstSeconds
SessionStartup: Any = load_file(features_dir() / "sessions" / "session_startup.py").SessionStartup
START_NS = 1_500_000_000_000_000_000
INTERVAL_NS = 10_000_000_000


class FewSteps(FirstSeconds):
    Steps = 4
    StepMs = 50


@st.composite
def two_intervals(draw: st.DrawFn) -> list[list[P]]:
    intervals = []
    for number in range(2):
        begins_ns = START_NS + number * INTERVAL_NS
        packets = draw(st.lists(st.tuples(
            st.sampled_from([UP, DOWN]), st.sampled_from([0, 1, 100, 101, 1_460, 65_000]),
            st.one_of(st.integers(-20_000, 300_000), st.integers(0, 6).map(lambda n: 50_000 * n)),
        ), min_size=1 - number, max_size=10))  # fmt: skip
        intervals.append([
            P(ts_ns=begins_ns + offset_us * 1_000 - (INTERVAL_NS if number and offset_us < 150_000 else 0),
              interval_start_ns=begins_ns, direction=direction, payload_bytes=payload_bytes)
            for direction, payload_bytes, offset_us in packets
        ])  # fmt: skip
    return intervals


@given(two_intervals())
def test_each_step_holds_what_came_in_it(intervals: list[list[P]]) -> None:
    assert run(FewSteps, intervals) == first_seconds(intervals, 4, 50)


# Sessions


def flows(age_s: list[float], rows: list[tuple[int, list[int], int]]) -> Flows:
    """Flows of sessions in an interval of 10 s: session, bytes of each half second, ms since the flow's start."""
    columns = {
        "FirstSeconds.payload_bytes_down": pl.Series([one for _, one, _ in rows], dtype=pl.List(pl.Int64)),
        "FirstSeconds.requests": pl.Series([[1] for _ in rows], dtype=pl.List(pl.Int64)),
        "FirstSeconds.since_start_ms": pl.Series([since for _, _, since in rows]),
    }
    session = np.array([one for one, _, _ in rows])
    return Flows(columns, np.arange(len(rows)), np.ones(len(rows), np.bool_), session, np.array(age_s), 10.0)


def collect(*intervals: Flows) -> list[Any]:
    states = States(np.zeros(intervals[0].count, state_dtype(SessionStartup)))
    return [SessionStartup.collect_sessions(states, one) for one in intervals]


def test_startup_features_are_told_once_when_the_session_is_ten_seconds_old():
    told = collect(
        flows([4.0], [(0, [1_000], -6_000)]), flows([14.0], [(0, [1], 4_000)]), flows([24.0], [(0, [], 14_000)])
    )
    assert np.isnan(told[0].start_bytes_10s).all()
    assert told[1].start_bytes_10s == 1_001
    assert np.isnan(told[2].start_bytes_10s).all()


def test_a_flow_that_starts_later_counts_from_the_start_of_its_session():
    (made,) = collect(flows([12.0], [(0, [100], 2_000), (0, [0, 200], -6_000)]))  # 2 s before, 6 s into the interval
    cumulative = [made.start_bytes_500ms, made.start_bytes_6s, made.start_bytes_8s, made.start_bytes_10s]
    assert [one.item() for one in cumulative] == [100, 100, 100, 300]


def test_steps_after_the_first_ten_seconds_of_the_session_do_not_count():
    (made,) = collect(flows([12.0], [(0, [7] * 20, -8_000)]))  # the flow starts 10 s into the session
    assert made.start_bytes_10s == 0


def test_sizes_are_reached_within_a_step_as_if_bytes_came_evenly():
    (made,) = collect(flows([12.0], [(0, [50_000, 100_000, 0, 0, 150_000], 2_000)]))
    assert made.start_100_kb_s == pytest.approx(0.75)
    assert made.start_300_kb_s == pytest.approx(2.5)
    assert np.isnan(made.start_1_mb_s)
    assert made.start_longest_pause_s == 7.5
    assert made.start_busiest_share == 0.5


def test_cumulative_figures_never_fall():
    rng = np.random.default_rng(0)
    (made,) = collect(flows([12.0, 15.0], [(one % 2, rng.integers(0, 9_999, 20).tolist(), 0) for one in range(6)]))
    grown = [values for name, values in made._asdict().items() if name.startswith("start_bytes")]
    assert all((one <= two).all() for one, two in pairwise(grown))
