"""Where the clock of a trace is set back, intervals begin anew, and flows go on: with names, states and sane times."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from support.accounting import accounted
from support.naive.frames import Frame
from support.replays import ALL_TRAFFIC, Run, config_of, replay_frames
from support.tls_hellos import client_hello, record
from support.trace_clock_cases import HOUR, START_NS, packet
from support.traces import ACK, SECOND, SYN, ethernet, ip, seeded_trace, tcp
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.trace_clock import StepBack

pytestmark = pytest.mark.modes
LENGTH = 10 * SECOND
CLASSES = (
    "FirstSeconds", "FlowStatistics", "HeaderBytes", "InterArrivals", "LatencyCounters", "PacketCounters", "PacketSizes",
    "PacketTimes", "SampledCounts", "TCPCounters", "VideoSegments",
)  # fmt: skip


@cache
def plan() -> Plan:
    everything = {"Name": "All", "Filter": {"Prefixes": list(ALL_TRAFFIC)}, "Collect": list(CLASSES)}
    video = {"Name": "Video", "Filter": {"DomainsString": ["video.example"]}, "Collect": ["PacketCounters"]}
    return Plan.of(config_of(Services=[video, everything]))


def replay(frames: list[Frame], **options: Any) -> Run:
    run = replay_frames(plan(), frames, **options)
    assert run.counters["packets"] == len(frames) == accounted(run.counters)
    return run


def moved(frames: list[Frame], by_ns: int) -> list[Frame]:
    return [frame._replace(ts_ns=frame.ts_ns + by_ns) for frame in frames]


def halves() -> tuple[list[Frame], list[Frame]]:
    """Some conversations, cut in the middle; the second half begins when the first one ends."""
    frames = sorted(seeded_trace(11, size=40), key=lambda frame: frame.ts_ns)
    cut = len(frames) // 2
    return frames[:cut], moved(frames[cut:], frames[cut - 1].ts_ns - frames[cut].ts_ns)


def told(record: dict[str, Any], by_ns: int) -> str:
    """All that a record says, but for what depends on when its flow began; in the time of before."""
    start = round(record["ts_start"] + by_ns / SECOND)
    return json.dumps({**record, "ts_start": start, "ts_end": None, "flow_id": None, "flow_start": None})


@pytest.mark.parametrize("back_ns", [LENGTH * 6, 2 * HOUR, 400 * 24 * HOUR])
@pytest.mark.parametrize("workers", [1, 2])
def test_flows_go_on_with_all_that_is_known_of_them(back_ns, workers):
    before, after = halves()
    whole = replay(before + after)
    run = replay(before + moved(after, -back_ns), partitions=workers)
    assert (run.counters["clock_set_back"], run.counters["bad_time"]) == (1, 0)
    set_back_ns = before[-1].ts_ns
    assert run.workers[0].times.steps_back == (StepBack(set_back_ns, set_back_ns - back_ns),)
    since = set_back_ns // LENGTH * LENGTH / SECOND + 10  # the interval of the step is cut in two
    expected = [told(record, 0) for record in whole.records if record["ts_start"] >= since]
    ends = [record["ts_end"] for record in run.records]
    turn = next(i for i in range(1, len(ends)) if ends[i] < ends[i - 1])
    later = [told(record, back_ns) for record in run.records[turn:]]
    assert sorted(line for line in later if json.loads(line)["ts_start"] >= since) == sorted(expected)
    assert run.counters["flows_new"] == whole.counters["flows_new"]
    assert run.lines == replay(before + moved(after, -back_ns)).lines
    assert run.lines == replay(before + moved(after, -back_ns), sizes=(7, 64, 3), partitions=workers).lines


def connection(start_ns: int, client: int, packets: int) -> list[Frame]:
    """TLS to a video service, whose packets are 50 ms apart."""
    address = f"198.18.0.{client}"
    hello = record(client_hello("a.video.example"))
    made = [
        ethernet(ip(address, "203.0.113.5", 6, tcp(40_000, 443, 999, 0, SYN, b""))),
        ethernet(ip("203.0.113.5", address, 6, tcp(443, 40_000, 6, 1_000, SYN | ACK, b"")), up=False),
        ethernet(ip(address, "203.0.113.5", 6, tcp(40_000, 443, 1_000, 7, ACK, hello))),
        *(
            ethernet(ip("203.0.113.5", address, 6, tcp(443, 40_000, 7 + 500 * i, 1_000 + len(hello), ACK, bytes(500))), up=False)
            for i in range(packets)
        ),
    ]  # fmt: skip
    return [Frame(start_ns + number * SECOND // 20, data, len(data)) for number, data in enumerate(made)]


@pytest.mark.parametrize("back_ns", [20 * SECOND, 2 * HOUR])
@pytest.mark.parametrize("clients", [1, 3])
def test_the_rest_of_a_connection_keeps_its_name(back_ns, clients):
    frames = sorted(
        (frame for client in range(clients) for frame in connection(START_NS + client, client, 400)),
        key=lambda frame: frame.ts_ns,
    )
    cut = len(frames) // 2
    run = replay(frames[:cut] + moved(frames[cut:], -back_ns))
    assert run.counters["clock_set_back"] == 1
    assert {(r["service"], r["matched_by"], r["domain"]) for r in run.records} == {("Video", "sni", "a.video.example")}
    assert len({r["flow_id"] for r in run.records}) == run.counters["flows_new"] == clients
    assert {r["flow_start"] for r in run.records} == {(START_NS + client) / SECOND for client in range(clients)}


@pytest.mark.parametrize(("pause_s", "flows"), [(29, 1), (31, 2)])
def test_when_a_flow_is_idle_does_not_depend_on_the_step(pause_s, flows):
    """The idle time of these tests is 30 s; the clock is set back in the middle of the pause."""
    others = [packet(START_NS + number * SECOND // 10, 50 + number % 3, number) for number in range(600)]
    at = START_NS + pause_s * SECOND
    frames = sorted([packet(START_NS, 1), *others, packet(at, 1, 1)], key=lambda frame: frame.ts_ns)
    run = replay([frame._replace(ts_ns=frame.ts_ns - 2 * HOUR * (i > 150)) for i, frame in enumerate(frames)])
    ids = {r["flow_id"] for r in run.records if 40_001 in (r["client_port"], r["server_port"])}
    assert (run.counters["clock_set_back"], len(ids)) == (1, flows)


def test_a_clock_may_be_set_back_many_times_without_an_overflow():
    years = [1 + 20 * (number % 2) for number in range(24)]
    frames = [
        packet((year * 365 * 24 * HOUR) + number * SECOND // 10, number % 3, turn * 100 + number)
        for turn, year in enumerate(years)
        for number in range(80)
    ]
    run = replay(frames)
    assert (run.counters["bad_time"], run.counters["clock_set_back"]) == (0, 11 + (years[0] > years[-1]))
    assert {round(r["ts_start"] / 86_400 / 365) for r in run.records} == {1, 21}
