"""What settles the name of a flow is evidence: each hello below is found, however it comes; and what never comes ends.

Whole flows through the worker, with a service for any name and one for all other traffic.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from support.google_hellos import google
from support.hello_variants import CHLO, CONNECT, PROXY_V1, PROXY_V2, with_extension
from support.naive.frames import Frame
from support.naive.tlsnames import quic_initial
from support.replays import DEFAULTS, Run, replay_files, replay_frames
from support.tls_hellos import client_hello, record
from support.traces import ACK, FIN, START_NS, SYN, ethernet, ip, tcp, udp
from trafficrefinery.config import parse_config
from trafficrefinery.engine.flow_cache import FIRST_PACKETS, FIXED, KEPT_PACKETS, NAME_DONE
from trafficrefinery.engine.plan import Plan
from trafficrefinery.jit import kernel
from trafficrefinery.services.names.quic import _VERSIONS
from trafficrefinery.services.names.quic_datagrams import is_quic_version, message_name
from trafficrefinery.services.source_readers import read_assembled

NAME = "www.video.example"
HELLO = record(client_hello(NAME))
LARGE_HELLO = record(client_hello(NAME, padding_bytes=3500))  # as with post-quantum key shares, the name at its end
CLIENT, SERVER = "10.0.0.1", "192.0.2.1"
ISN, SERVER_ISN = 2**32 - 700, 1_000_000
MS = 1_000_000
CONFIG: dict[str, Any] = {
    "Interval": "10s",
    "Services": [
        {"Name": "Named", "Filter": {"DomainsRegex": ["."]}, "Collect": ["PacketCounters"]},
        {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["PacketCounters"]},
    ],
}
OTHER = b"\x05\x01\0\xff"  # no text, no TLS, no PROXY header
Sent = tuple[bool, int, int, bytes]  # up, flags, sequence number from that of the first byte, payload


@cache
def plan() -> Plan:
    return Plan.of(parse_config(CONFIG))


def up(at: int, payload: bytes, flags: int = ACK) -> Sent:
    return True, flags, at, payload


def down(at: int, payload: bytes = b"", flags: int = ACK) -> Sent:
    return False, flags, at, payload


OPEN: list[Sent] = [(True, SYN, -1, b""), (False, SYN | ACK, -1, b""), up(0, b"")]
ANSWER: list[Sent] = [down(0, b"\x16\x03\x03\x00\x40\x02" + bytes(60)), up(4000, b"")]


def cut(stream: bytes, *cuts: int, at: int = 0) -> list[Sent]:
    """A stream from the client in segments."""
    edges = [0, *cuts, len(stream)]
    return [up(at + start, stream[start:end]) for start, end in pairwise(edges)]


def frames(segments: Iterable[Sent], step_ns: int = MS) -> list[Frame]:
    made = []
    for number, (is_up, flags, at, payload) in enumerate(segments):
        ports = (50_000, 443) if is_up else (443, 50_000)
        seq = (ISN + 1 if is_up else SERVER_ISN + 1) + at
        ends = (CLIENT, SERVER) if is_up else (SERVER, CLIENT)
        packet = ip(
            *ends, 6, tcp(*ports, seq, (SERVER_ISN if is_up else ISN) + 1 if flags & ACK else 0, flags, payload)
        )
        data = ethernet(packet, up=is_up)
        made.append(Frame(START_NS + number * step_ns, data, len(data), 1))
    return made


def datagrams(sent: Iterable[tuple[bool, bytes]], captured: int = 65_535) -> list[Frame]:
    made = []
    for number, (is_up, payload) in enumerate(sent):
        ports = (50_000, 443) if is_up else (443, 50_000)
        data = ethernet(ip(*((CLIENT, SERVER) if is_up else (SERVER, CLIENT)), 17, udp(*ports, payload)), up=is_up)
        made.append(Frame(START_NS + number * MS, data[:captured], len(data), 1))
    return made


def run(made: Sequence[Frame], **kwargs: Any) -> Run:
    return replay_frames(plan(), made, **kwargs)


def told(made: Sequence[Frame], **kwargs: Any) -> list[tuple[str, str | None, str | None]]:
    """What the records say. A hello that begins after a flow's first 16 packets has a record of its own."""
    return [(r["service"], r["matched_by"], r["domain"]) for r in run(made, **kwargs).records]


FOUND = [("Named", "sni", NAME)]
QUIC = [("Named", "quic_sni", NAME)]
NEVER = [("All", "prefix", None)]


def shuffled(segments: list[Sent], seed: int) -> list[Sent]:
    random.Random(seed).shuffle(segments)
    return segments


BEFORE = {"proxy1": PROXY_V1, "proxy2": PROXY_V2, "connect": CONNECT, "starttls": b"EHLO a\r\nSTARTTLS\r\n"}
SPLITS = {
    "two": (len(LARGE_HELLO) // 2,),
    "three": (1400, 2800),
    "bytes": tuple(range(1, 40)),
    "after a byte": (1,),
    "after five": (5,),
}
WAYS: dict[str, list[Sent]] = {
    "whole": [*OPEN, up(0, HELLO)],
    "in the SYN": [(True, SYN, -1, HELLO), *ANSWER],
    "begun in the SYN": [(True, SYN, -1, LARGE_HELLO[:1000]), down(-1, b"", SYN | ACK), up(1000, LARGE_HELLO[1000:])],
    "SYN with a part that is sent again": [(True, SYN, -1, HELLO[:50]), down(-1, b"", SYN | ACK), up(0, HELLO)],
    **{f"split: {name}": [*OPEN, *cut(LARGE_HELLO, *cuts)] for name, cuts in SPLITS.items()},
    **{f"backwards: {name}": [*OPEN, *cut(LARGE_HELLO, *cuts)[::-1]] for name, cuts in SPLITS.items()},
    **{
        f"two records, {name}": [*OPEN, *cut(record(client_hello(NAME, padding_bytes=900), 200), *cuts)]
        for name, cuts in (("one segment", ()), ("two", (500,)), ("three", (3, 203)))
    },
    "all bytes, shuffled": [*OPEN, *shuffled(cut(HELLO, *range(1, len(HELLO))), 1)],
    "all bytes": [*OPEN, *cut(HELLO, *range(1, len(HELLO)))],
    "overlapping": [*OPEN, up(0, LARGE_HELLO[:1400]), up(1000, LARGE_HELLO[1000:2400]), up(2000, LARGE_HELLO[2000:])],
    "the last piece 40 times, then the lost one": [
        *OPEN, up(0, LARGE_HELLO[:1000]), *[up(2000, LARGE_HELLO[2000:])] * 40, up(1000, LARGE_HELLO[1000:2000]),
    ],
    "the first piece 40 times": [*OPEN, *[up(0, LARGE_HELLO[:1000])] * 40, up(1000, LARGE_HELLO[1000:])],
    "keep-alives first": [*OPEN, *[up(-1, b"\0")] * 30, up(0, HELLO)],
    "behind 100 packets without payload": [*OPEN, *[up(0, b""), down(0)] * 50, up(0, HELLO)],
    "without the handshake": [up(0, HELLO), *ANSWER],
    "without the handshake, split": [up(0, LARGE_HELLO[:999]), up(999, LARGE_HELLO[999:]), *ANSWER],
    "without the handshake, acknowledged first": [up(0, b""), down(0), up(0, HELLO)],
    "without the SYN": [*OPEN[1:], up(0, HELLO)],
    "without the SYN-ACK": [OPEN[0], up(0, HELLO)],
    "handshake behind the hello": [up(0, HELLO[:60]), *OPEN[:2], up(60, HELLO[60:])],
    "both ends open": [(True, SYN, -1, b""), (False, SYN, -1, b""), up(-1, b"", SYN | ACK), up(0, HELLO)],
    "one side alone": [(True, SYN, -1, b""), up(0, b""), up(0, HELLO), up(len(HELLO), b"\x17\x03\x03" + bytes(90))],
    "SYN again and again": [*[OPEN[0]] * 20, *OPEN, up(0, HELLO)],
    **{f"behind {name}": [*OPEN, up(0, first + HELLO)] for name, first in BEFORE.items()},
    **{f"after {name}": [*OPEN, up(0, first), *cut(HELLO, at=len(first))] for name, first in BEFORE.items()},
    **{
        f"after {name}, split": [*OPEN, up(0, first), down(0, b"ok\r\n"), *cut(LARGE_HELLO, 1400, 2800, at=len(first))]
        for name, first in BEFORE.items()
    },
    **{f"before {name}": [*OPEN, up(len(first), HELLO), up(0, first)] for name, first in BEFORE.items()},
    **{
        f"{name} in bytes": [*OPEN, *cut(first + HELLO, *range(1, len(first) + 30))] for name, first in BEFORE.items()
    },
    "after SOCKS": [*OPEN, up(0, b"\x05\x01\0"), down(0, b"\x05\0"), up(3, b"\x05\1\0\1" + bytes(6)), up(13, HELLO)],
    "after SOCKS, swapped": [*OPEN, up(3, HELLO[:50]), up(0, b"\x05\x01\0"), up(53, HELLO[50:])],
    "after a dialogue": [
        *OPEN, *[part for n in range(100) for part in (up(20 * n, OTHER * 5), down(20 * n, OTHER * 5))], up(2000, HELLO),
    ],
    "after two bytes of the ACK": [*OPEN, up(0, b"\0\0"), up(0, HELLO)],
    "behind an old segment of another connection": [*OPEN, up(900_000, OTHER * 200), up(0, HELLO)],
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_hello_is_found_however_it_comes(way):
    made = frames(WAYS[way])
    result = run(made)
    last = result.records[-1]
    assert (last["service"], last["matched_by"], last["domain"]) == FOUND[0]
    assert len(result.records) == 1 + result.counters["rows_split"]
    assert result.counters["rows_split"] == 0 or len(made) > FIRST_PACKETS
    assert result.counters["hellos_unfinished"] == 0


@pytest.mark.parametrize("way", ["whole", "behind proxy1", "split: three", "after SOCKS"])
def test_a_name_is_found_in_the_same_way_when_it_was_seen_before(way):
    """Compiled code answers for Python; the records are the same when that is asked each time."""
    made = frames(WAYS[way])
    later = [
        frame._replace(ts_ns=frame.ts_ns + 50 * MS, data=frame.data.replace(b"\xc3\x50", b"\xc3\x51")) for frame in made
    ]
    assert told(made + later) == FOUND * 2
    assert run(made + later).lines == run(made + later, settings=DEFAULTS._replace(asks_all_names=True)).lines


def test_a_name_comes_when_it_comes_however_long_that_takes():
    made = frames([*OPEN, *[part for _ in range(40) for part in (up(-1, b"\0"), down(0))], up(0, HELLO)], 500 * MS)
    assert told(made) == NEVER * 4 + FOUND


def packets_of(row: dict[str, Any]) -> int:
    counters = row["features"]["PacketCounters"]
    return int(counters["packets_up"] + counters["packets_down"])


def records_of(segments: list[Sent]) -> list[tuple[str, int]]:
    """Service and packets of each record, the same for any number of workers and any size of blocks."""
    runs = [
        run(frames(segments, MS), partitions=count, sizes=sizes)
        for count, sizes in ((1, (64,)), (2, (1,)), (3, (3, 2)))
    ]
    found = [[(row["service"], packets_of(row)) for row in one.records] for one in runs]
    assert found[0] == found[1] == found[2]
    split = {one.counters["rows_split"] for one in runs}
    assert split == {len(found[0]) - 1}
    return found[0]


@pytest.mark.parametrize("pieces", [2, 13, 14, 15, 16, 17, 30, 33, 48, 100])
def test_a_hello_of_many_segments_makes_one_record_with_all_packets(pieces):
    segments = OPEN + cut(HELLO, *range(1, pieces)) + ANSWER
    assert records_of(segments) == [("Named", len(segments))]


def test_a_hello_of_more_packets_than_are_kept_makes_two_records_and_is_counted():
    segments = OPEN + cut(LARGE_HELLO, *range(1, KEPT_PACKETS)) + ANSWER
    assert records_of(segments) == [("All", len(segments) - 3), ("Named", 3)]


def test_the_first_name_is_kept_when_another_hello_follows():
    other = record(client_hello("other.example"))
    assert told(frames([*OPEN, up(0, HELLO), up(len(HELLO), other)])) == FOUND


ENDLESS = (
    b"\x16\x03\x01\x40\x00\x01\x00\xff\xff\x03\x03"
    + bytes(33)
    + b"\0\2\0\0\1\0\xff\xf0"
    + b"\xfe\xfe\xff\xe0"
    + bytes(17_000)
)
UNFINISHED: dict[str, list[Sent]] = {
    "cut": [*OPEN, up(0, LARGE_HELLO[:1400])],
    "a byte": [*OPEN, up(0, HELLO[:1])],
    "closed": [*OPEN, up(0, LARGE_HELLO[:1400]), up(1400, b"", FIN | ACK), down(0, b"", FIN | ACK)],
    "endless": [*OPEN, *cut(ENDLESS, *range(1400, 17_000, 1400))],
    "with a hole, and a lot behind it": [
        *OPEN, up(0, LARGE_HELLO[:1400]), *[up(1500 + 1400 * n, bytes(1400)) for n in range(30)],
    ],
}  # fmt: skip


@pytest.mark.parametrize("way", UNFINISHED)
def test_a_hello_that_is_not_finished_is_counted_once(way):
    result = run(frames(UNFINISHED[way]))
    assert [(r["service"], r["matched_by"]) for r in result.records] == [("All", "prefix")]
    assert result.counters["hellos_unfinished"] == 1


def test_the_search_ends_after_16_kib_of_something_else_on_both_sides_together():
    def with_hello_after(count: int, seq: int = 0) -> list[Sent]:
        return [*OPEN, *[down(1000 * n, OTHER * 250) for n in range(count)], up(seq, HELLO)]

    assert told(frames(with_hello_after(16)))[-1:] == FOUND
    assert told(frames(with_hello_after(17))) == NEVER
    again = [*OPEN, *[up(0, OTHER * 250), down(0, OTHER * 250)] * 60, up(1000, HELLO)]
    assert told(frames(again))[-1:] == FOUND  # retransmissions do not count


@pytest.mark.parametrize("captured", [54 + 40, 54 + len(HELLO) - 1])
def test_a_hello_that_the_snap_length_cuts_is_counted_and_named_when_the_name_is_there(captured):
    made = frames([*OPEN, up(0, HELLO)])
    short = [frame._replace(data=frame.data[:captured]) for frame in made]
    assert told(short) == (FOUND if captured > 150 else NEVER)
    assert run(short).counters["hellos_truncated"] == (0 if captured > 150 else 1)


# QUIC


def initials(name: str | None = NAME, padding: int = 0, size: int = 1000, number: int = 0) -> list[bytes]:
    hello = client_hello(name, padding_bytes=padding)
    return [
        quic_initial(b"8 bytes!", number + at // size, at, hello[at : at + size]) for at in range(0, len(hello), size)
    ]


THREE = initials(padding=2500)
SHORT_HEADER = b"\x41" + bytes(range(200))
DATAGRAM_WAYS: dict[str, list[tuple[bool, bytes]]] = {
    "one": [(True, initials()[0])],
    "three": [(True, part) for part in THREE],
    "backwards": [(True, part) for part in THREE[::-1]],
    "two sent again and again before the third": [
        (True, part) for part in [*THREE[1:] * 20, *initials(padding=2500, number=50)[1:] * 20, THREE[0]]
    ],
    "the server answers first": [(True, THREE[0]), *[(False, b"\xc1" + THREE[0][1:])] * 10, *[(True, p) for p in THREE]],
    "the server's was seen first": [(False, b"\xc1\0\0\0\1" + bytes(1250)), (True, initials()[0])],
    "after a version negotiation": [
        (True, b"\xc3\x1a\x2a\x3a\x4a\x08" + bytes(1250)), (False, b"\xca\0\0\0\0" + bytes(20)), (True, initials()[0]),
    ],
    "after what no key opens": [*[(True, initials()[0][:-1] + b"\0")] * 30, (True, initials()[0])],
    "after keep-alives": [*[(True, b"\0"), (False, b"\0")] * 50, (True, initials()[0])],
}  # fmt: skip


@pytest.mark.parametrize("way", DATAGRAM_WAYS)
def test_a_hello_in_quic_is_found_however_it_comes(way):
    assert told(datagrams(DATAGRAM_WAYS[way]))[-1:] == QUIC


def test_an_unfinished_hello_in_quic_is_counted():
    result = run(datagrams([(True, part) for part in THREE[:2]] + [(True, SHORT_HEADER)] * 5))
    assert [r["service"] for r in result.records] == ["All"]
    assert result.counters["hellos_unfinished"] == 1


def test_a_quic_version_that_is_not_read_is_counted_once_a_flow_and_others_are_not():
    odd = (b"\xc3" + b"ABCD" + b"\x08" + bytes(8) + b"\0" + bytes(1300)).ljust(1300, b"\0")
    result = run(datagrams([(True, odd), (True, odd), (False, b"\x80" + bytes(1300)), (True, b"\x90" + bytes(1300))]))
    assert result.counters["quic_unknown_versions"] == 1
    short_id = odd[:5] + b"\x04" + odd[6:]
    assert run(datagrams([(True, short_id)])).counters["quic_unknown_versions"] == 0
    assert run(datagrams([(True, bytes([0x80]) + bytes(1300))])).counters["quic_unknown_versions"] == 0


@kernel
def _is_read(version):
    return is_quic_version(version)


def test_the_packet_loop_knows_the_versions_whose_keys_are_known():
    for version in (*_VERSIONS, 0x1A2A3A4A, 0xFAFAFAFA):
        assert _is_read(version)
    for version in (0, 2, 0xFF000015, 0xFF000023, 0xFACEB003, 0x51303436, 0x54303532, 0x1A2A3A4B):
        assert not _is_read(version)


def test_a_quic_hello_that_the_snap_length_cuts_is_counted():
    result = run(datagrams([(True, initials()[0])], captured=200))
    assert result.counters["hellos_truncated"] == 1


SERVER_DATA = b"\x40" + b"s" * 1199
SERVER_HANDSHAKE = b"\xe0\0\0\0\1" + b"\0\x08serversc" + b"\x44\xa0" + bytes(1200)
NOBODYS = [quic_initial(bytes([n]) * 8, 0, 0, client_hello(NAME))[:-1] + b"!" for n in range(60)]  # no key opens them
BETWEEN: dict[str, list[tuple[bool, bytes]]] = {
    "one of the server's": [(False, SERVER_DATA)],
    "the server's, of a handshake": [(False, SERVER_HANDSHAKE)],
    "others of the server's": [(False, SERVER_DATA + bytes([n])) for n in range(40)],
    "the client's": [(True, SHORT_HEADER * 6)],
    "the client's first piece": [(True, initials(padding=1200, size=900)[0])],
    "Initials that no key opens": [(True, datagram) for datagram in NOBODYS],
    "the server's Initials that no key opens": [(False, datagram) for datagram in NOBODYS],
    "0-RTT": [(True, b"\xd0" + SERVER_HANDSHAKE[1:])],
    "another version": [(True, b"\xc3ABCD" + SERVER_HANDSHAKE[5:])],
}


@pytest.mark.parametrize("times", [1, 14, 300])
@pytest.mark.parametrize("between", BETWEEN)
def test_only_the_clients_own_pieces_of_a_hello_end_the_search_for_it(between, times):
    """However many there are of anything else, and however often."""
    first, *rest = initials(padding=1200, size=900)
    middle = (BETWEEN[between] * times)[:400]
    for order in ([first, *rest], [*rest[::-1], first]):
        made = datagrams([(True, order[0]), *middle, *((True, part) for part in order[1:]), (False, SERVER_DATA)])
        runs = [run(made, partitions=count, sizes=sizes) for count, sizes in ((1, (1024,)), (2, (1,)), (3, (7,)))]
        assert {tuple(one.lines) for one in runs} == {tuple(runs[0].lines)}
        last = runs[0].records[-1]
        assert (last["service"], last["matched_by"], last["domain"]) == QUIC[0]
        assert sum(map(packets_of, runs[0].records)) == len(made)
        assert runs[0].counters["hellos_unfinished"] == 0


def test_a_hello_is_found_behind_any_traffic_of_its_flow_in_any_interval():
    calls = [(True, SHORT_HEADER), (False, SHORT_HEADER)] * 41
    for count in (41, 80, 82):
        assert told(datagrams([*calls[:count], (True, initials()[0])]))[-1:] == QUIC
    made = datagrams([*calls, (True, initials()[0]), *calls[:6]])
    late = [frame._replace(ts_ns=frame.ts_ns + 25_000 * MS) for frame in made[82:]]
    assert told([*made[:82], *late]) == NEVER + QUIC
    assert told([*made[:60], *late])[-1:] == QUIC


def test_the_budget_of_distinct_bytes_of_a_hello_ends_the_search():
    """More than 16 KiB of CRYPTO data without an end, in pieces that come once or often."""
    endless = b"\x01\x00\xff\xff\x03\x03" + bytes(33) + b"\0\2\0\0\1\0\xff\xf0" + b"\xfe\xfe\xff\xe0" + bytes(20_000)
    pieces = [quic_initial(b"8 bytes!", at, at, endless[at : at + 1000]) for at in range(0, 17_000, 1000)]
    made = datagrams([(True, part) for part in [*pieces[:16] * 3, pieces[16], initials()[0]]])
    result = run(made)
    assert {r["service"] for r in result.records} == {"All"}
    assert (result.counters["hellos_unfinished"], result.counters["hellos_not_found"]) == (1, 1)


def test_plain_datagrams_of_a_flow_that_has_no_name_cost_no_search():
    """Its search rests, in each further interval from the first record on."""

    def fixed(worker: Any) -> None:
        marks = worker._headers.memory.array["marks"][:1].tolist()
        states.append((bool(marks[0] & FIXED), bool(marks[0] & NAME_DONE)))

    states: list[tuple[bool, bool]] = []
    data = [(False, SERVER_DATA), (True, SHORT_HEADER)] * 60
    result = run(datagrams(data), sizes=(40,), between=fixed)
    assert states == [(True, False)] * 3
    assert result.counters["quic_attempts"] == 0
    again = run(datagrams([*data, *[(True, SERVER_HANDSHAKE), (False, b"\xd0" + SERVER_HANDSHAKE[1:])] * 20]))
    assert again.counters["quic_attempts"] == 0


# Google's QUIC, from Q024 to Q050


@pytest.mark.parametrize("version", [b"Q024", b"Q035", b"Q039", b"Q043", b"Q044", b"Q046"])
def test_the_name_in_a_chlo_in_the_clear_is_found(version):
    assert told(datagrams([(True, google(version, CHLO))])) == QUIC
    assert told(datagrams([(True, google(version, CHLO))], captured=42 + 200)) == QUIC
    short = run(datagrams([(True, google(version, CHLO))], captured=42 + 90))
    assert short.counters["hellos_truncated"] == 1
    assert short.records[0]["service"] == "All"


def test_a_chlo_in_a_protected_initial_of_q050_is_found(shared_data):
    found = {
        record["domain"]
        for name in ("quic_q50", "gquic")
        for record in replay_files(plan(), [shared_data / "ndpi" / f"{name}.pcap"]).records
        if record["matched_by"] == "quic_sni"
    }
    assert found == {"www.googletagmanager.com", "www.gstatic.com"}


# Budgets


def many(count: int, names: int, step_ns: int) -> list[Frame]:
    """Flows of one hello each."""
    made = []
    for number in range(count):
        payload = record(client_hello(f"n{number % names}.example"))
        packet = ip(CLIENT, SERVER, 6, tcp(10_000 + number, 443, 5, 0, ACK, payload))
        data = ethernet(packet)
        made.append(Frame(START_NS + number * step_ns, data, len(data), 1))
    return made


def test_new_names_that_expressions_are_asked_about_over_the_budget_are_counted_and_known_ones_need_none():
    settings = DEFAULTS._replace(names_per_second=10)
    flood = run(many(400, 400, MS), settings=settings)
    named = sum(r["service"] == "Named" for r in flood.records)
    assert 4 <= named <= 8  # a burst of a quarter of a second at once
    assert flood.counters["hellos_over_budget"] == 400 - named
    usual = run(many(400, 10, MS), settings=settings._replace(names_per_second=60))
    assert {r["service"] for r in usual.records} == {"Named"}
    assert usual.counters["hellos_over_budget"] == 0


def test_names_are_paid_for_by_the_size_of_the_expressions_that_they_are_asked_about():
    def named(expression: str) -> int:
        services = [{**CONFIG["Services"][0], "Filter": {"DomainsRegex": [expression]}}, CONFIG["Services"][1]]
        small = Plan.of(parse_config({**CONFIG, "Services": services}))
        result = replay_frames(small, many(50, 50, MS), settings=DEFAULTS._replace(names_per_second=100))
        return sum(r["service"] == "Named" for r in result.records)

    assert named("n") > 15
    assert 2 <= named("[a-m]{300}|n") <= 4


def test_pieces_of_hellos_over_the_budget_are_counted_and_the_flow_stays_undecided():
    settings = DEFAULTS._replace(names_per_second=1)
    pieces = [*OPEN, *[up(2000, LARGE_HELLO[2000:])] * 9, up(0, HELLO)]
    result = run(frames(pieces), settings=settings)
    assert result.counters["hellos_over_budget"] >= 6
    later = [*frames(pieces[:-1]), frames(pieces)[-1]._replace(ts_ns=START_NS + 5_000 * MS)]
    assert run(later, settings=settings).counters["hellos_over_budget"] >= 6


def test_quic_over_its_budget_is_counted():
    made = []
    for number in range(200):
        payload = quic_initial(number.to_bytes(8), 0, 0, client_hello(NAME))
        data = ethernet(ip(CLIENT, SERVER, 17, udp(10_000 + number, 443, payload)))
        made.append(Frame(START_NS + number * MS, data, len(data), 1))
    result = run(made, settings=DEFAULTS._replace(quic_attempts_per_second=20))
    named = sum(r["service"] == "Named" for r in result.records)
    assert 8 <= named <= 11
    assert result.counters["quic_over_budget"] == 200 - named


# Encrypted Client Hello


@pytest.mark.parametrize("before", [True, False])
def test_a_public_name_of_ech_is_not_taken_and_a_hello_with_grease_is(before):
    grease = record(with_extension(0xFE0D, bytes(60), before))
    result = run(frames([*OPEN, up(0, grease)]))
    assert [(r["service"], r["domain"]) for r in result.records] == [("Named", NAME)]
    assert (result.counters["ech_offered"], result.counters["ech_public_names"]) == (1, 0)
    learnt = run(frames([*OPEN, up(0, grease)]), prepare=lambda made: made.services.learn_public_names([NAME]))
    assert [(r["service"], r["matched_by"], r["domain"]) for r in learnt.records] == NEVER
    assert (learnt.counters["ech_offered"], learnt.counters["ech_public_names"]) == (1, 1)


def test_a_public_name_without_ech_is_a_name_like_others():
    learnt = run(frames(WAYS["whole"]), prepare=lambda made: made.services.learn_public_names([NAME]))
    assert [(r["service"], r["matched_by"], r["domain"]) for r in learnt.records] == FOUND


@pytest.mark.parametrize("name", ["quic_pq_one_lost_resent", "proxy_protocol_same", "hello_after_boundary"])
def test_the_cases_that_were_wrong(name, shared_data):
    path = shared_data.parent / "cases" / f"{name}.pcap"
    records = replay_files(plan(), [path]).records
    assert (records[-1]["service"], records[-1]["matched_by"] in ("sni", "quic_sni")) == ("Named", True)


def test_nothing_is_compiled_for_the_first_hello_once_a_worker_is_warm():
    kernels = (read_assembled, message_name)
    compiled: list[list[int]] = []

    def note(_: Any) -> None:
        compiled.append([len(getattr(one, "_callers", ())) for one in kernels])

    made = [*frames(WAYS["split: three"]), *datagrams(DATAGRAM_WAYS["three"])]
    run(made, prepare=lambda made: (made.warm_up(), note(made)), between=note)
    assert compiled[0] == compiled[-1]
