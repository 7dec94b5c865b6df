"""Server names are decided in compiled code, as Python decides them; Python is asked for expressions alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import pytest

from support.google_hellos import google
from support.hello_variants import chlo, with_extension
from support.naive.frames import Frame
from support.naive.tlsnames import quic_initial
from support.replays import DEFAULTS, Run, replay_frames
from support.tls_hellos import client_hello, record
from support.traces import ACK, START_NS, ethernet, ip, tcp, udp
from trafficrefinery.config import parse_config
from trafficrefinery.engine import worker as worker_module
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker
from trafficrefinery.services import ServiceFilter, ServiceMap
from trafficrefinery.services.dns.resolvers import PUBLIC_RESOLVERS
from trafficrefinery.services.special_names import ECH_PUBLIC_NAME, MAX_SPECIAL_NAMES, RESOLVER

CLIENT, SERVER = "10.0.0.1", "192.0.2.1"
MS = 1_000_000
COUNTED = ["PacketCounters"]
SERVICES = [
    {"Name": "Domain", "Filter": {"DomainsString": ["video.example", "a.b"]}, "Collect": COUNTED},
    {"Name": "Part", "Filter": {"DomainsString": ["stream"]}, "Collect": COUNTED},
    {"Name": "Asked", "Filter": {"DomainsRegex": [r"^r\d+---[a-z]"]}, "Collect": COUNTED},
    {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": COUNTED},
]


@cache
def plan() -> Plan:
    return Plan.of(parse_config({"Interval": "10s", "Services": SERVICES}))


def hello(name: str) -> bytes:
    return record(client_hello(name))


def with_ech(name: str) -> bytes:
    return record(with_extension(0xFE0D, bytes(60), True, name))


def flows(payloads: Sequence[bytes], protocol: int = 6, begin_ms: int = 0) -> list[Frame]:
    """A flow of one packet for each payload, a millisecond apart."""
    made = []
    for number, payload in enumerate(payloads, begin_ms):
        ports = 10_000 + number, 443
        segment = tcp(*ports, 5, 0, ACK, payload) if protocol == 6 else udp(*ports, payload)
        data = ethernet(ip(CLIENT, SERVER, protocol, segment))
        made.append(Frame(START_NS + number * MS, data, len(data), 1))
    return made


def services_of(run: Run) -> list[tuple[str, str | None]]:
    return [(r["service"], r["domain"]) for r in sorted(run.records, key=lambda r: r["client_port"])]


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """Grows by an entry each time that Python is asked."""
    calls: list[int] = []
    read_name: Callable[..., Any] = Worker._read_name

    def noted(worker: Worker, block: Any) -> None:
        calls.append(1)
        read_name(worker, block)

    monkeypatch.setattr(Worker, "_read_name", noted)
    return calls


def test_new_names_are_decided_without_python_and_without_a_budget(asked):
    names = [f"n{number}.{end}" for number in range(100) for end in ("video.example", "streamer.test", "other.test")]
    result = replay_frames(
        plan(), flows([hello(name) for name in names]), settings=DEFAULTS._replace(names_per_second=1)
    )
    expected = [("Domain", 0), ("Part", 0), ("All", None)] * 100
    assert services_of(result) == [
        (service, None if found is None else name) for name, (service, found) in zip(names, expected, strict=True)
    ]
    assert asked == []
    assert result.counters["hellos_over_budget"] == 0


def test_a_chlo_is_decided_without_python(asked):
    made = flows([google(b"Q043", chlo((b"SNI\0", b"WWW.Video.Example.")))], protocol=17)
    result = replay_frames(plan(), made)
    assert [(r["matched_by"], r["domain"]) for r in result.records] == [("quic_sni", "www.video.example")]
    assert asked == []


def test_expressions_are_asked_about_a_name_once_whatever_they_say(asked):
    names = ["r1---x.test", "r1---9.test", "R1---X.test."] * 20
    result = replay_frames(plan(), flows([hello(name) for name in names]))
    assert services_of(result) == [("Asked", "r1---x.test"), ("All", None), ("Asked", "r1---x.test")] * 20
    assert len(asked) == 2


def test_a_flood_of_names_that_expressions_are_asked_about_leaves_the_others_alone(asked):
    """Of the flood, what is over the budget is counted; the names in between are decided."""
    flood = [hello(name) for number in range(300) for name in (f"r{number}---x.test", f"n{number}.video.example")]
    result = replay_frames(plan(), flows(flood), settings=DEFAULTS._replace(names_per_second=10))
    assert len(asked) < 25
    assert result.counters["hellos_over_budget"] == 300 - len(asked)
    assert [service for service, _ in services_of(result)[1::2]] == ["Domain"] * 300


def test_python_is_asked_about_a_name_again_that_compiled_code_has_forgotten(asked):
    """What it answers is remembered there in each case: not only the first time."""

    def forget(worker: Worker) -> None:
        worker.services.matcher.tables._arrays["asked"]["hash"] = 0

    made = flows([hello("r1---x.test")] * 12)
    result = replay_frames(plan(), made, sizes=(6,), between=forget)
    assert services_of(result) == [("Asked", "r1---x.test")] * 12
    assert len(asked) == 2


ODD_NAMES = [
    "www.Video.EXAMPLE", "video.example...", "x.video.example.", ".video.example", "..a.b", "a.b", "xa.b", "a..b", "b",
    "video.example/x", "v\x7fdeo.example", "vid eo.example", "@[`{.video.example", "~!#.STREAM\\", "стрим.video.example",
    ".", "...", "x" * 255, "x" * 256, "y" * 241 + ".video.example", "y" * 242 + ".video.example", "y" * 255 + ".",
    "r12---Z.test", "R12---z", "r---z", "dns.google", "DNS.Google.", "one.one.one.one", "Cloudflare-ECH.com",
    "cloudflare-ech.com.", "x.cloudflare-ech.com", "192.0.2.1",
]  # fmt: skip
COUNTERS = ("ech_offered", "ech_public_names", "doh_flows", "hellos_over_budget", "names_refused", "hellos_not_found")


@pytest.mark.parametrize("made", [hello, with_ech], ids=["plain", "ech"])
@pytest.mark.parametrize("learnt", [(), ("www.video.example", "dns.google", "r12---z.test")], ids=["few", "learnt"])
def test_odd_names_are_decided_as_python_decides_them(made, learnt, asked):
    frames = flows([made(name) for name in ODD_NAMES])
    frames += flows(
        [google(b"Q043", chlo((b"SNI\0", name.encode()))) for name in ODD_NAMES], protocol=17, begin_ms=len(frames)
    )

    def replay(*, asks_all: bool) -> Run:
        return replay_frames(
            plan(),
            frames,
            settings=DEFAULTS._replace(asks_all_names=asks_all),
            prepare=lambda worker: worker.services.learn_public_names(learnt),
        )

    compiled, count = replay(asks_all=False), len(asked)
    python = replay(asks_all=True)
    assert compiled.lines == python.lines
    assert {name: compiled.counters[name] for name in COUNTERS} == {name: python.counters[name] for name in COUNTERS}
    assert compiled.counters["doh_flows"] == 6
    assert count == 3  # names with the text that the expression requires
    assert len(asked) - count > len(frames) // 2


def test_a_public_name_of_ech_that_is_learnt_later_is_refused_from_then_on(asked):
    names = ["front.video.example", "other.video.example"] * 12

    def learn(worker: Worker) -> None:
        worker.services.learn_public_names(["front.video.example"])

    result = replay_frames(plan(), flows([with_ech(name) for name in names]), sizes=(8,), between=learn)
    assert [domain for _, domain in services_of(result)] == names[:8] + [None, "other.video.example"] * 8
    assert (result.counters["ech_offered"], result.counters["ech_public_names"]) == (24, 8)
    assert asked == []


@pytest.mark.parametrize("in_two", [False, True])
@pytest.mark.parametrize(("port", "kind"), [(443, "doh_flows"), (853, "dot_flows")])
def test_a_flow_to_a_public_resolver_is_of_one_kind(port, kind, in_two):
    stream = record(client_hello("dns.google"))
    pieces = [(0, stream[:40]), (40, stream[40:])] if in_two else [(0, stream)]
    packets = [ethernet(ip(CLIENT, "8.8.8.8", 6, tcp(40_000, port, 5 + at, 0, ACK, data))) for at, data in pieces]
    made = [Frame(START_NS + number * MS, packet, len(packet), 1) for number, packet in enumerate(packets)]
    result = replay_frames(plan(), made)
    kinds = ("dot_flows", "doq_flows", "doh_flows")
    assert {name: result.counters[name] for name in kinds} == {name: int(name == kind) for name in kinds}


@pytest.mark.parametrize(("port", "kind"), [(443, "doh_flows"), (853, "doq_flows")])
def test_quic_to_a_public_resolver_is_of_one_kind(port, kind):
    payload = quic_initial(b"8 bytes!", 0, 0, client_hello("dns.google"))
    packet = ethernet(ip(CLIENT, "8.8.8.8", 17, udp(40_000, port, payload)))
    result = replay_frames(plan(), [Frame(START_NS, packet, len(packet), 1)])
    kinds = ("dot_flows", "doq_flows", "doh_flows")
    assert {name: result.counters[name] for name in kinds} == {name: int(name == kind) for name in kinds}


@pytest.mark.parametrize("name", ["dns.google", "One.One.One.One"])
def test_a_flow_to_a_public_resolver_is_counted_once(name, asked):
    made = flows([hello(name), with_ech(name)])
    again = [frame._replace(ts_ns=frame.ts_ns + 100 * MS) for frame in made]
    result = replay_frames(plan(), made + again)
    assert (result.counters["doh_flows"], len(result.records)) == (2, 2)
    assert asked == []


@pytest.mark.parametrize("asks_all", [False, True])
def test_a_flood_of_names_of_a_service_is_numbered_up_to_a_bound_and_counted_beyond(asks_all, monkeypatch):
    monkeypatch.setattr(worker_module, "ServiceMap", partial(ServiceMap, max_names=5))
    names = [f"n{number}.video.example" for number in range(50)]
    settings = DEFAULTS._replace(asks_all_names=asks_all)
    result = replay_frames(plan(), flows([hello(name) for name in [*names, *names[:5]]]), settings=settings)
    told = [("Domain", name) for name in names[:5]]
    assert services_of(result) == told + [("Domain", None)] * 45 + told
    assert result.counters["names_refused"] == 45
    assert result.workers[0].services.names == names[:5]


def test_an_observer_sees_every_name():
    seen: list[str] = []

    def observe(worker: Worker) -> None:
        worker.on_server_name = lambda _, name, **__: seen.append(name)

    names = ["n.video.example", "other.test", "n.video.example", "dns.google"]
    settings = DEFAULTS._replace(asks_all_names=True)
    replay_frames(plan(), flows([hello(name) for name in names]), settings=settings, prepare=observe)
    assert seen == names


def test_special_names_are_bounded_and_what_is_known_stays():
    services = ServiceMap([ServiceFilter("Video", ("video.example",))])
    services.learn_public_names(f"n{number}.example" for number in range(3 * MAX_SPECIAL_NAMES))
    services.learn_public_names(["dns.google"])
    special = services.special_names
    assert special.kinds("n0.example") == ECH_PUBLIC_NAME
    assert special.kinds(f"n{3 * MAX_SPECIAL_NAMES - 1}.example") == 0
    assert special.kinds("dns.google") == ECH_PUBLIC_NAME | RESOLVER
    assert int((special._entries["hash"] != 0).sum()) == MAX_SPECIAL_NAMES
    assert not special.add("one.more.example", RESOLVER)
    assert all(services.is_public_resolver(name) for name in PUBLIC_RESOLVERS)
    assert not services.is_public_resolver("n0.example")


def test_a_worker_that_knows_as_many_public_names_as_it_can_still_tells_names_apart(asked):
    def fill(worker: Worker) -> None:
        worker.services.learn_public_names(f"n{number}.video.example" for number in range(3 * MAX_SPECIAL_NAMES))

    names = [f"n{number}.video.example" for number in (0, 1, 3 * MAX_SPECIAL_NAMES - 1)]
    result = replay_frames(plan(), flows([with_ech(name) for name in names]), prepare=fill)
    assert [domain for _, domain in services_of(result)] == [None, None, names[2]]
    assert asked == []
