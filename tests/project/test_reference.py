"""The packet path equals the naive reference: records line by line, and packets by reason."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.naive.frames import Frame
from support.naive.reference import Reference
from support.naive.twins import TWINS
from support.replays import ALL_TRAFFIC, config_of, in_order, replay_frames
from support.traces import HOST_MAC, Conversation, Spoiling, life, make_trace, seeded_trace, traces
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings
from trafficrefinery.jit import COMPILED
from trafficrefinery.packets.parser import REASONS

pytestmark = pytest.mark.modes
MAC = HOST_MAC.hex(":")
CONFIGS = {
    "names and prefixes": config_of(),
    "all traffic": config_of(rest=ALL_TRAFFIC),
    "client networks": config_of(
        rest=ALL_TRAFFIC, Direction={"ClientNetworks": ["10.0.0.0/24", "2001:db8:1::/48", "192.0.2.0/30"]}
    ),
    "host": config_of(rest=ALL_TRAFFIC, Direction={"Mode": "host", "MAC": MAC}),
    "router": config_of(Direction={"Mode": "router", "MAC": MAC}),
    "outer packets, no grace": config_of(rest=ALL_TRAFFIC, Decapsulate=[], Grace="0s", ServiceMap={"QUIC": False}),
    "long grace, short idle time": config_of(Grace="15s", FlowCache={"MaxFlows": 4_096, "IdleTimeout": "2s"}),
}
LATE_SYNS = [
    make_trace([Conversation("tcp", "ethernet", 0, 142)], Spoiling(late=3)),
    make_trace([Conversation("quic", "ethernet", 1, 55), Conversation("dns", "ethernet", 0, 255)], Spoiling(late=3)),
]
"""Behind a part of the TLS hello, and behind a DNS message."""
LONG_HELLO = make_trace([Conversation("tcp", "ethernet", 0, 2870)] * 2, Spoiling(65535, 0, 0))
"""Whose segments come four times each: more packets than are kept where no hello has begun."""
FOUND_BEHIND_A_BOUNDARY = make_trace(
    [
        *[Conversation("tcp", "ethernet", 0, seed) for seed in (0, 0, 0, 93, 522_730, 4_294_967_295)],
        Conversation("tcp", "ethernet", 4_405, 56_760),
        Conversation("dns", "ethernet", 0, 729_651),
        Conversation("dns", "ethernet", 5_178, 5_633_945),
        *[Conversation("dns", "ethernet", 0, seed) for seed in (0, 1_705, 231)],
        Conversation("tcp", "ethernet", 0, 0),
        Conversation("udp", "ethernet", 0, 0),
    ],
    Spoiling(65_535, 12, 1),
)
"""DNS tells a flow's service with its first packet of an interval, and its hello another one in that interval."""
UNASKED = make_trace(
    [
        Conversation("tcp", "ethernet", 0, 0),
        Conversation("dns", "ethernet", 0, 2),
        Conversation("dns", "ethernet", 0, 793_083_711),
    ]
)
"""An answer that nobody asked for, where another was asked for."""
NAMED_AFTER_ROWS = make_trace([Conversation("tcp", "ethernet", 0, 242)] * 2)
"""A name that comes behind as many packets as are kept, of a flow that ends before the idle time is over."""
PLANS = {name: Plan.of(config) for name, config in CONFIGS.items()}


def differences(frames: list[Frame], name: str, settings: Settings = Settings()) -> list[Any]:  # noqa: B008
    """Where the packet path and the reference differ."""
    ours = replay_frames(PLANS[name], frames, settings=settings)
    theirs = Reference(CONFIGS[name], first_packet_origin=settings.first_packet_origin).replay(frames)
    reasons = theirs.reasons()
    found = [
        (reason, ours.counters[reason], reasons.get(reason, 0))
        for reason in (*REASONS, "packets", "wire_bytes", "late_packets", "flows_new")
        if ours.counters[reason] != reasons.get(reason, 0)
    ]
    totals = {service: total.packets for service, total in ours.aggregator.totals.items()}
    found += [
        ("service", service, count, theirs.service_packets[service])
        for service, count in totals.items()
        if count != theirs.service_packets[service]
    ]
    expected = theirs.records(TWINS)
    assert [in_order(record) for record in ours.records] == [in_order(record) for record in expected]
    return found


@pytest.mark.parametrize("name", CONFIGS)
@given(traces())
@example(LATE_SYNS[0])
@example(LATE_SYNS[1])
@example(LONG_HELLO)
@example(FOUND_BEHIND_A_BOUNDARY)
@example(UNASKED)
@example(NAMED_AFTER_ROWS)
@settings(max_examples=25 if COMPILED else 3)
def test_records_and_counters_equal_the_reference(name, frames):
    assert differences(frames, name) == []


@given(traces(), st.sampled_from(list(CONFIGS)))
@settings(max_examples=25 if COMPILED else 3)
def test_records_equal_the_reference_from_the_first_packet_on(frames, name):
    assert differences(frames, name, Settings(first_packet_origin=True)) == []


@given(st.randoms(use_true_random=False), st.sampled_from(["all traffic", "long grace, short idle time"]))
@settings(max_examples=300 if COMPILED else 60)
def test_connections_that_follow_each_other_equal_the_reference(random, name):
    assert differences(life(random), name) == []


@pytest.mark.parametrize("name", ["all traffic", "long grace, short idle time"])
def test_the_lives_of_many_connections_equal_the_reference_with_any_number_of_workers(name):
    made = [
        life(Random(number), f"198.51.100.{1 + number % 250}", f"203.0.113.{1 + number // 250}")
        for number in range(1_000 if COMPILED else 150)
    ]
    frames = sorted((frame for frames in made for frame in frames), key=lambda frame: frame.ts_ns)
    assert differences(frames, name) == []
    one, *several = (replay_frames(PLANS[name], frames, partitions=count).lines for count in (1, 2, 3))
    assert several == [one, one]
    ends = {json.loads(line)["end"] for line in one}
    assert ends >= {"open", "fin", "rst"}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_long_trace_equals_the_reference(name):
    frames = seeded_trace(7, size=300 if COMPILED else 12)
    assert differences(frames, name) == []
