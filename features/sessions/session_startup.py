"""The first ten seconds of a session, which tell how long its first picture took."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from trafficrefinery.api import Array, array, float64, uint8
from trafficrefinery.api.sessions import APPLICATION, Flows, SessionFeature, over

STEP_S, STEPS = 0.5, 20


class SessionStartupOutput(NamedTuple):
    start_bytes_500ms: float  # bytes of payload in the session's first 0.5 s; of all flows, as what follows
    start_bytes_1s: float  # bytes
    start_bytes_1500ms: float  # bytes
    start_bytes_2s: float  # bytes
    start_bytes_2500ms: float  # bytes
    start_bytes_3s: float  # bytes
    start_bytes_4s: float  # bytes
    start_bytes_5s: float  # bytes
    start_bytes_6s: float  # bytes
    start_bytes_8s: float  # bytes
    start_bytes_10s: float  # bytes
    start_100_kb_s: float  # s until 100,000 bytes had come; null if they did not in ten seconds, as what follows
    start_300_kb_s: float  # s
    start_1_mb_s: float  # s
    start_3_mb_s: float  # s
    start_longest_pause_s: float  # s, the longest time without payload, in steps of half a second
    start_busiest_share: float  # of the bytes, in the half second with the most of them
    start_requests_2s: float  # requests in the first 2 s
    start_requests_5s: float  # requests
    start_requests_10s: float  # requests
    start_late_share: float  # of the bytes, in the last five of the ten seconds


class SessionStartup(SessionFeature):
    """Cut at ten seconds after the session's start, whatever the intervals: told once, in the interval of that time.

    What was on the way before the session started (a connection that was there already) is known only as far as its
    own first ten seconds reach.
    """

    group = APPLICATION
    needs = ("FirstSeconds", "VideoSegments")

    payload_bytes: Array[float] = array(float64, STEPS)
    requests: Array[float] = array(float64, STEPS)
    told: uint8

    @staticmethod
    def collect_sessions(state: Any, flows: Flows) -> SessionStartupOutput:
        starts_s = flows.interval_s + flows["FirstSeconds.since_start_ms"] / 1e3  # flow's start to the interval's end
        delay = np.round((flows.age_s[flows.session] - starts_s) / STEP_S)
        for name in ("payload_bytes_down", "requests"):
            values, rows, positions = flows.lists(f"FirstSeconds.{name}")
            step = positions + np.nan_to_num(delay[rows], nan=STEPS)
            here = (step >= 0) & (step < STEPS)
            where = flows.session[rows][here] * STEPS + step[here].astype(np.intp)
            added = np.bincount(where, values[here], flows.count * STEPS).reshape(flows.count, STEPS)
            if name == "requests":
                state.requests = state.requests + added
            else:
                state.payload_bytes = state.payload_bytes + added
        due = (flows.age_s >= STEPS * STEP_S) & (state.told == 0)
        state.told = np.where(due, 1, state.told)
        gone = np.where(due, 0.0, np.nan)
        grown = np.cumsum(state.payload_bytes, axis=1)
        total = grown[:, -1]
        bytes_of: Any = grown + gone[:, None]  # of each session, up to each step
        asked: Any = np.cumsum(state.requests, axis=1) + gone[:, None]
        return SessionStartupOutput(
            start_bytes_500ms=bytes_of[:, 0],
            start_bytes_1s=bytes_of[:, 1],
            start_bytes_1500ms=bytes_of[:, 2],
            start_bytes_2s=bytes_of[:, 3],
            start_bytes_2500ms=bytes_of[:, 4],
            start_bytes_3s=bytes_of[:, 5],
            start_bytes_4s=bytes_of[:, 7],
            start_bytes_5s=bytes_of[:, 9],
            start_bytes_6s=bytes_of[:, 11],
            start_bytes_8s=bytes_of[:, 15],
            start_bytes_10s=bytes_of[:, 19],
            start_100_kb_s=_reached(grown, 100_000) + gone,
            start_300_kb_s=_reached(grown, 300_000) + gone,
            start_1_mb_s=_reached(grown, 1_000_000) + gone,
            start_3_mb_s=_reached(grown, 3_000_000) + gone,
            start_longest_pause_s=_longest_pause(state.payload_bytes) * STEP_S + gone,
            start_busiest_share=over(state.payload_bytes.max(axis=1), total) + gone,
            start_requests_2s=asked[:, 3],
            start_requests_5s=asked[:, 9],
            start_requests_10s=asked[:, 19],
            start_late_share=over(total - grown[:, 9], total) + gone,
        )


def _reached(grown: Any, size: float) -> Any:
    """Seconds until so many bytes had come, within a step as if they came evenly."""
    step = np.argmax(grown >= size, axis=1)
    row = np.arange(len(grown))
    before = np.where(step > 0, grown[row, step - 1], 0.0)
    share = (size - before) / np.maximum(grown[row, step] - before, 1.0)
    return np.where(grown[:, -1] >= size, (step + share) * STEP_S, np.nan)


def _longest_pause(payload_bytes: Any) -> Any:
    """Steps without payload in a row, at most."""
    longest = run = np.zeros(len(payload_bytes))
    for step in range(STEPS):
        run = np.where(payload_bytes[:, step] > 0, 0, run + 1)
        longest = np.maximum(longest, run)
    return longest
