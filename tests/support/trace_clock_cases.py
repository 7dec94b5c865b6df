"""Packets with odd times, and when intervals of them start."""

from __future__ import annotations

import json
from functools import cache

from support.naive.frames import Frame
from support.replays import ALL_TRAFFIC, Run, config_of
from support.traces import ACK, SECOND, ethernet, ip, tcp
from trafficrefinery.engine.plan import Plan

HOUR, START_NS = 3_600 * SECOND, 1_600_000_000 * SECOND
Y2097, Y2262 = 4_016_000_000 * SECOND, 9_223_372_036 * SECOND + 854_775_000


@cache
def plan(**settings) -> Plan:
    return Plan.of(config_of(rest=ALL_TRAFFIC, **settings))


def packet(ts_ns: int, flow: int, number: int = 0) -> Frame:
    made = ethernet(ip("198.18.0.7", "203.0.113.5", 6, tcp(40_000 + flow, 443, 1_000 + number, 7, ACK, b"x")))
    return Frame(ts_ns, made, len(made))


def sessions(count: int = 6, start_ns: int = START_NS, first_flow: int = 0, packets: int = 28) -> list[Frame]:
    """Sessions one after the other, ten seconds apart."""
    return [
        packet(start_ns + 10 * SECOND * session + 1_000_000 * number, first_flow + session, number)
        for session in range(count)
        for number in range(packets)
    ]


def starts(run: Run) -> list[float]:
    return sorted({json.loads(line)["ts_start"] for line in run.lines})


def usual_starts(count: int = 6) -> list[float]:
    return [START_NS / SECOND + 10 * session for session in range(count)]


def disorderly() -> list[Frame]:
    frames = [*sessions(3), *sessions(4, START_NS - 2 * HOUR, 10), *sessions(3, START_NS + 50 * HOUR, 20)]
    for at, ts_ns in ((5, Y2097), (50, 0), (90, Y2262), (120, START_NS - 3 * HOUR), (280, Y2097)):
        frames.insert(at, packet(ts_ns, 90, at))
    return frames
