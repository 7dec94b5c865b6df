"""A name in a flow's own packets decides against what DNS says of its server's address, also where no service has it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from support.dns_messages import message
from support.hello_variants import with_extension
from support.naive.frames import Frame
from support.naive.reference import Reference, packet_counters
from support.naive.tlsnames import quic_initial
from support.replays import Run, replay_frames
from support.tls_hellos import client_hello, record
from support.traces import ACK, SECOND, START_NS, SYN, dns_query, ethernet, ip, tcp, udp
from trafficrefinery.config import parse_config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.services.dns.messages import A

CLIENT, SERVER, RESOLVER = "10.0.0.7", "192.0.2.200", "10.0.0.53"
NAME, OTHERS = "www.video.example", "shop.unknown.example"
ANSWER = message([(NAME, A)], [(NAME, A, SERVER, 60)])
VIDEO = {"Name": "Video", "Filter": {"DomainsString": ["video.example"]}, "Collect": ["PacketCounters"]}
ASKED = {"Name": "Asked", "Filter": {"DomainsRegex": [r"^s\w+\.unknown\.test"]}, "Collect": ["PacketCounters"]}
ALL = {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["PacketCounters"]}
OWN = {"Name": "Own", "Filter": {"Prefixes": ["192.0.2.128/25"]}, "Collect": ["PacketCounters"]}


def frame(at_s: float, packet: bytes, up: bool = True) -> Frame:
    data = ethernet(packet, up=up)
    return Frame(START_NS + int(at_s * SECOND), data, len(data))


LOOKUP = [
    frame(0, ip(CLIENT, RESOLVER, 17, udp(4000, 53, dns_query(ANSWER)))),
    frame(0.1, ip(RESOLVER, CLIENT, 17, udp(53, 4000, ANSWER)), up=False),
]


def tls(payload: bytes, at_s: float = 1.0, before: int = 0, port: int = 50_000) -> list[Frame]:
    """A connection with its hello behind some segments of the server's, and some data."""
    steps = itertools.count()

    def step(up: bool, seq: int, flags: int, data: bytes = b"") -> Frame:
        ends, ports = ((CLIENT, SERVER), (port, 443)) if up else ((SERVER, CLIENT), (443, port))
        ts = at_s + next(steps) / 100
        return frame(ts, ip(*ends, 6, tcp(*ports, seq, 1 if flags & ACK else 0, flags, data)), up)

    hello = [step(True, 101, ACK, payload[at : at + 1200]) for at in range(1)]
    return [
        step(True, 100, SYN), step(False, 900, SYN | ACK), *(step(False, 901, ACK) for _ in range(before)),
        *[h._replace(ts_ns=START_NS + int((at_s + next(steps) / 100) * SECOND)) for h in hello],
        *(step(False, 901 + 1000 * n, ACK, b"x" * 1000) for n in range(5)),
    ]  # fmt: skip


def quic(name: str, at_s: float = 1.0) -> list[Frame]:
    sent = quic_initial(b"8 bytes!", 0, 0, client_hello(name))
    return [
        frame(at_s, ip(CLIENT, SERVER, 17, udp(50_000, 443, sent))),
        *(frame(at_s + n / 10, ip(SERVER, CLIENT, 17, udp(443, 50_000, b"\x40" + bytes(900))), False) for n in (1, 2)),
    ]


def replayed(frames: list[Frame], services: list[dict[str, Any]], **changes: Any) -> Run:
    """The same records for any number of workers and size of blocks; all packets are counted for once."""
    plan = Plan.of(parse_config({"Interval": "10s", "Services": services}))
    runs = [replay_frames(plan, frames, partitions=count, sizes=sizes, **changes)
            for count, sizes in ((1, (1024,)), (1, (1,)), (2, (3,)))]  # fmt: skip
    assert len({tuple(run.lines) for run in runs}) == 1
    for run in runs:
        in_records = sum(sum(r["features"]["PacketCounters"][f"packets_{way}"] for way in ("up", "down"))
                         for r in run.records)  # fmt: skip
        assert run.counters["attributed"] == in_records
        assert in_records + run.counters["no_service"] == len(frames)
    return runs[0]


def said(run: Run) -> list[tuple[str, str, str | None]]:
    """Of each record of flows to the server, in the order of time and names of services."""
    return [(r["service"], r["matched_by"], r["domain"]) for r in run.records if r["server_ip"] == SERVER]


BY_DNS = ("Video", "dns", NAME)
BY_PREFIX = ("All", "prefix", None)


@pytest.mark.parametrize("before", [0, 10, 13, 14, 30])
@pytest.mark.parametrize("regex", [False, True])
def test_a_name_of_no_service_decides_against_dns(before, regex):
    flow = tls(record(client_hello(OTHERS)), before=before)
    more = [ASKED] if regex else []
    rows = [BY_DNS] if before > 13 else []  # what cannot be changed any more
    assert said(replayed([*LOOKUP, *flow], [VIDEO, *more])) == rows
    assert said(replayed([*LOOKUP, *flow], [VIDEO, *more, ALL])) == [BY_PREFIX, *rows]
    assert said(replayed([*LOOKUP, *flow], [VIDEO, *more, OWN])) == [("Own", "prefix", None), *rows]


def test_a_quic_name_of_no_service_decides_against_dns():
    assert said(replayed([*LOOKUP, *quic(OTHERS)], [VIDEO])) == []
    assert said(replayed([*LOOKUP, *quic(OTHERS)], [VIDEO, ALL])) == [BY_PREFIX]
    assert said(replayed([*LOOKUP, *quic(NAME)], [VIDEO, ALL])) == [("Video", "quic_sni", NAME)]


def test_a_record_that_was_written_by_dns_stays():
    flow = tls(record(client_hello(OTHERS)))
    late = [one._replace(ts_ns=one.ts_ns + 10 * SECOND) for one in flow[2:]]
    assert said(replayed([*LOOKUP, *flow[:2], *late], [VIDEO, ALL])) == [BY_DNS, BY_PREFIX]
    assert said(replayed([*LOOKUP, *flow[:2], *late], [VIDEO])) == [BY_DNS]


def test_dns_that_comes_later_does_not_decide_against_the_own_name():
    hello_first = tls(record(client_hello(OTHERS)), at_s=-0.5)
    assert said(replayed([*hello_first[:4], *LOOKUP, *hello_first[4:]], [VIDEO, ALL])) == [BY_PREFIX]
    assert said(replayed([*hello_first[2:4], *LOOKUP, *hello_first[4:]], [VIDEO, ALL])) == [BY_PREFIX]
    assert said(replayed([*hello_first[2:4], *LOOKUP, *hello_first[4:]], [VIDEO])) == []


def test_a_hello_without_a_name_and_a_public_name_of_ech_leave_the_flow_to_dns():
    assert said(replayed([*LOOKUP, *tls(record(client_hello(None)))], [VIDEO, ALL])) == [BY_DNS]
    hidden = record(with_extension(0xFE0D, bytes(60), True, "front.unknown.example"))
    learns = {"prepare": lambda worker: worker.services.learn_public_names(["front.unknown.example"])}
    assert said(replayed([*LOOKUP, *tls(hidden)], [VIDEO, ALL], **learns)) == [BY_DNS]
    grease = record(with_extension(0xFE0D, bytes(60), True, OTHERS))
    assert said(replayed([*LOOKUP, *tls(grease)], [VIDEO, ALL], **learns)) == [BY_PREFIX]


def test_another_flow_to_the_same_address_is_still_named_by_dns():
    frames = [*LOOKUP, *tls(record(client_hello(OTHERS))), *tls(b"x" * 200, at_s=2, port=50_001)]
    assert said(replayed(frames, [VIDEO, ALL])) == [BY_PREFIX, BY_DNS]


@pytest.mark.parametrize("services", [[VIDEO], [VIDEO, ALL], [VIDEO, OWN]])
def test_all_of_this_is_as_in_the_naive_replay(services):
    flow = tls(record(client_hello(OTHERS)))
    late = [one._replace(ts_ns=one.ts_ns + 10 * SECOND) for one in flow[2:]]
    for frames in (
        [*LOOKUP, *flow], [*LOOKUP, *flow[:2], *late], [*LOOKUP, *quic(OTHERS)], [*flow[2:4], *LOOKUP, *flow[4:]],
        [*LOOKUP, *tls(record(client_hello(OTHERS)), before=20)],
    ):  # fmt: skip
        config = parse_config({"Interval": "10s", "Services": services})
        twin = Reference(config).replay(frames)
        found = replay_frames(Plan.of(config), frames)
        expected = twin.records({"PacketCounters": packet_counters})
        assert [{**r, "features": dict(r["features"])} for r in found.records] == expected
        assert found.counters["no_service"] == twin.counters["no_service"]
