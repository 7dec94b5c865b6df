"""Which packets make one flow and which the next one, on the same addresses and ports; and how flows end."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

from support.naive.frames import Frame
from support.replays import ALL_TRAFFIC, config_of, replay_frames
from support.traces import ACK, FIN, PSH, RST, SECOND, START_NS, SYN, ethernet, ip, tcp, udp
from trafficrefinery.api import ENDED_FIN, ENDED_RST
from trafficrefinery.config import parse_config
from trafficrefinery.engine.plan import Plan

pytestmark = pytest.mark.modes
CLIENT, SERVER = ("198.18.0.7", 40_007), ("203.0.113.5", 8_443)
C, S = 1_000_000, 3_000_000_000  # initial sequence numbers


class P(NamedTuple):
    """A segment: `up` from the client, at its time in seconds."""

    at_s: float
    up: bool
    flags: int
    seq: int
    ack: int = 0
    payload: bytes = b""
    options: bytes = b""


def handshake(at_s: float = 0.0, client: int = C, server: int = S, scale: bytes = b"") -> list[P]:
    return [
        P(at_s, True, SYN, client, options=scale),
        P(at_s + 0.01, False, SYN | ACK, server, client + 1, options=scale),
        P(at_s + 0.02, True, ACK, client + 1, server + 1),
    ]


def data(at_s: float, client: int = C, server: int = S, size: int = 100) -> list[P]:
    return [
        P(at_s, True, ACK | PSH, client + 1, server + 1, b"q" * size),
        P(at_s + 0.01, False, ACK | PSH, server + 1, client + 1 + size, b"a" * 1000),
    ]


def close(at_s: float, client: int = C, server: int = S, size: int = 100) -> list[P]:
    return [
        P(at_s, True, ACK | FIN, client + 1 + size, server + 1001),
        P(at_s + 0.01, False, ACK | FIN, server + 1001, client + 2 + size),
        P(at_s + 0.02, True, ACK, client + 2 + size, server + 1002),
    ]


def frame(p: P) -> Frame:
    source, destination = (CLIENT, SERVER) if p.up else (SERVER, CLIENT)
    segment = tcp(source[1], destination[1], p.seq % 2**32, p.ack % 2**32, p.flags, p.payload, options=p.options)
    made = ethernet(ip(source[0], destination[0], 6, segment))
    return Frame(START_NS + int(p.at_s * SECOND), made, len(made))


def records(packets: list[P], **settings) -> list[dict]:
    plan = Plan.of(config_of(rest=ALL_TRAFFIC, **settings))
    lines = replay_frames(plan, [frame(p) for p in packets]).lines
    return sorted(map(json.loads, lines), key=lambda record: (record["ts_start"], record["flow_start"]))


def flows(packets: list[P], **settings) -> list[tuple[int, str, str]]:
    """(packets, how it ended, sides) of each flow, in the order of their starts."""
    found: dict[tuple[float, str], list] = {}
    for record in records(packets, **settings):
        counts = record["features"]["PacketCounters"]
        flow = found.setdefault((record["flow_start"], record["flow_id"]), [0, "", ""])
        flow[0] += counts["packets_up"] + counts["packets_down"]
        flow[1:] = record["end"], record["sides"]
    return [tuple(flow) for _, flow in sorted(found.items())]


FIRST = handshake() + data(0.1)
AGAIN = handshake(1.0, C + 250_000_000, S + 250_000_000) + data(1.1, C + 250_000_000, S + 250_000_000)
SCALE_7 = bytes([3, 3, 7, 0])


@pytest.mark.parametrize(
    ("packets", "expected"),
    [
        pytest.param(FIRST, [(5, "open", "both")], id="one connection"),
        pytest.param(FIRST + close(0.2), [(8, "fin", "both")], id="closed by both"),
        pytest.param(FIRST + close(0.2)[:1], [(6, "open", "both")], id="half closed"),
        pytest.param([*FIRST, P(0.2, False, RST, S + 1001)], [(6, "rst", "both")], id="reset"),
        pytest.param([*FIRST, P(0.2, True, RST, C + 101)], [(6, "rst", "both")], id="reset by the client"),
        pytest.param([*FIRST, P(0.2, False, RST, S - 2**30)], [(6, "open", "both")], id="a reset from long before"),
        pytest.param([*FIRST, P(0.2, False, RST | ACK, S + 2**30, C)], [(6, "open", "both")], id="a forged reset"),
        pytest.param([*FIRST, P(0.2, True, RST, C + 101 + 65_536)], [(6, "open", "both")], id="a reset ahead of all"),
        pytest.param([*FIRST, P(0.2, True, RST, C + 101 - 65_536)], [(6, "open", "both")], id="a reset far behind"),
        pytest.param(
            [*FIRST, P(0.2, False, FIN | ACK, S + 2**30), P(0.3, True, FIN | ACK, C + 101)], [(7, "open", "both")],
            id="a FIN of another connection",
        ),
        pytest.param(
            [*FIRST, *close(0.2), *AGAIN[:1], P(1.005, False, RST, S + 1002), *AGAIN[1:]],
            [(8, "fin", "both"), (6, "open", "both")], id="a late reset behind the SYN of the next connection",
        ),
        pytest.param(
            [P(0, True, SYN, C), P(0.01, False, RST | ACK, 0, C + 999_999)], [(2, "open", "both")],
            id="refused by what answers another SYN",
        ),
        pytest.param([P(0, False, ACK, S, C), P(0.1, True, RST, C + 9)], [(2, "rst", "both")], id="reset, seen late"),
        pytest.param(
            [*FIRST, P(1.0, True, SYN, C + 150), P(1.01, False, SYN | ACK, 99, C + 151), *data(1.1, C + 150, 99)],
            [(6, "open", "both"), (3, "open", "both")], id="a SYN in the window that is answered with another number",
        ),
        pytest.param(
            [*FIRST, *(P(0.2 + i / 1000, False, ACK, S + 1001 + i * 1_000_000, payload=b"x") for i in range(40)),
             P(0.3, False, RST, S + 39_001_002)], [(46, "rst", "both")], id="reset behind forty megabytes",
        ),
        pytest.param(
            [*FIRST, *close(0.2), P(0.3, True, RST, C + 102)], [(9, "fin", "both")], id="a reset behind the end"
        ),
        pytest.param(FIRST + close(0.2) + AGAIN, [(8, "fin", "both"), (5, "open", "both")], id="reused after FIN"),
        pytest.param(
            FIRST + close(0.2)[:1] + AGAIN, [(6, "open", "both"), (5, "open", "both")], id="reused after one FIN"
        ),
        pytest.param(
            [*FIRST, P(0.2, True, RST, C + 101), *AGAIN], [(6, "rst", "both"), (5, "open", "both")],
            id="reused after RST",
        ),
        pytest.param(FIRST + AGAIN, [(5, "open", "both"), (5, "open", "both")], id="reused, outside of the window"),
        pytest.param([*FIRST, P(1.0, True, SYN, C + 150)], [(6, "open", "both")], id="a SYN in the window"),
        pytest.param(
            [*FIRST, P(1.0, True, SYN, C + 50)], [(5, "open", "both"), (1, "open", "client")], id="behind the window"
        ),
        pytest.param(
            [*FIRST, P(1.0, True, SYN, C + 101 + 65_535)], [(5, "open", "both"), (1, "open", "client")],
            id="beyond the window",
        ),
        pytest.param(
            [*handshake(scale=SCALE_7), *data(0.1), P(1.0, True, SYN, C + 101 + 65_535)], [(6, "open", "both")],
            id="in the scaled window",
        ),
        pytest.param([*FIRST, P(1.0, True, SYN, C), *data(1.1)], [(8, "open", "both")], id="the SYN sent again late"),
        pytest.param(
            [P(0, True, SYN, C), P(1, True, SYN, C), P(3, True, SYN, C), *handshake(7)], [(6, "open", "both")],
            id="the SYN sent again until it is answered",
        ),
        pytest.param(
            [P(0, True, SYN, C), P(0.01, False, RST | ACK, 0, C + 1), P(0.5, True, SYN, C)], [(3, "rst", "both")],
            id="refused, and the same SYN again",
        ),
        pytest.param(
            [P(0, True, SYN, C), P(0.01, False, RST | ACK, 0, C + 1), P(0.5, True, SYN, C + 7)],
            [(2, "rst", "both"), (1, "open", "client")], id="refused, and another attempt",
        ),
        pytest.param(
            [P(0, True, SYN, C), P(0.5, True, SYN, C + 7)], [(1, "open", "client"), (1, "open", "client")],
            id="unanswered, and another attempt",
        ),
        pytest.param(
            [*handshake()[:2], P(0.5, False, SYN | ACK, S + 64_000, C + 1), *data(0.6)], [(5, "open", "both")],
            id="SYN cookies: the answer again, with another number",
        ),
        pytest.param(
            [P(0, True, SYN, C), P(0.001, False, SYN, S), P(0.01, True, SYN | ACK, C, S + 1),
             P(0.011, False, SYN | ACK, S, C + 1), *data(0.1)], [(6, "open", "both")], id="simultaneous open",
        ),
        pytest.param(
            [*handshake()[1:], P(0.03, True, SYN, C), *data(0.1)], [(5, "open", "both")], id="the SYN behind its answer"
        ),
        pytest.param([*data(0.1), P(0.2, True, SYN, C)], [(3, "open", "both")], id="the SYN behind the first data"),
        pytest.param(
            [*data(0.1), *AGAIN], [(2, "open", "both"), (5, "open", "both")], id="caught in the middle, then reused"
        ),
        pytest.param(
            FIRST + close(0.2) + AGAIN[:1] + [P(1.005, True, SYN, C)] + AGAIN[1:],
            [(8, "fin", "both"), (6, "open", "both")], id="a late duplicate of the SYN before",
        ),
        pytest.param(
            [p for p in FIRST + close(0.2) + AGAIN if not p.up], [(3, "fin", "server"), (2, "open", "server")],
            id="only the server's side was captured",
        ),
        pytest.param(
            [p for p in FIRST + close(0.2) + AGAIN if p.up], [(5, "fin", "client"), (3, "open", "client")],
            id="only the client's side was captured",
        ),
        pytest.param(
            [p for p in FIRST + close(0.2) if not p.up] + AGAIN, [(3, "fin", "server"), (5, "open", "both")],
            id="the client's side from the second connection on",
        ),
        pytest.param(
            handshake(0, 2**32 - 50) + data(0.1, 2**32 - 50) + [P(0.2, True, SYN, 2**32 - 50)],
            [(6, "open", "both")], id="sequence numbers that wrap",
        ),
    ],
)  # fmt: skip
def test_a_flow_begins_and_ends_by_its_packets(packets, expected):
    assert flows(packets) == expected


def answer(at_s: float, server: int, ack: int, **fields) -> P:
    return P(at_s, False, SYN | ACK, server, ack, **fields)


def refusal(at_s: float, client: int = C) -> P:
    return P(at_s, False, RST | ACK, 0, client + 1)


OTHER = 2_000_000_000  # a client's number, far from C
RESET = P(0.2, True, RST, C + 101)


@pytest.mark.parametrize(
    ("packets", "expected"),
    [
        pytest.param(
            [*FIRST, *handshake(1.0, OTHER, 3_000_000)[1:], *data(1.1, OTHER, 3_000_000)],
            [(5, "open", "both"), (4, "open", "both")], id="in the middle of the first",
        ),
        pytest.param(
            [*FIRST, *handshake(1.0, OTHER, S + 1001)[1:], *data(1.1, OTHER, S + 1001)],
            [(5, "open", "both"), (4, "open", "both")], id="with a number in the window of the server",
        ),
        pytest.param(
            [*FIRST, *close(0.2), *handshake(1.0, OTHER, 3_000_000)[1:]], [(8, "fin", "both"), (2, "open", "both")],
            id="after FIN",
        ),
        pytest.param(
            [*FIRST, *close(0.2), *handshake(1.0, OTHER, S)[1:]], [(8, "fin", "both"), (2, "open", "both")],
            id="after FIN, the server's number as before",
        ),
        pytest.param(
            [*FIRST, *handshake(1.0, OTHER, S)[1:]], [(5, "open", "both"), (2, "open", "both")],
            id="in the middle of the first, the server's number as before",
        ),
        pytest.param(
            [*FIRST, *close(0.2), *handshake(1.0, C, 3_000_000)], [(9, "fin", "both"), (2, "open", "both")],
            id="after FIN, the client's number as before",
        ),
        pytest.param(
            [*FIRST, *close(0.2), *handshake(1.0, C, S + 5)], [(9, "fin", "both"), (2, "open", "both")],
            id="after FIN, the server's number near that before",
        ),
        pytest.param(
            [*FIRST, *close(0.2), *handshake(1.0, C, 3_000_000)[1:]], [(8, "fin", "both"), (2, "open", "both")],
            id="after FIN, the client's number as before, without its SYN",
        ),
        pytest.param(
            [*FIRST, RESET, *handshake(1.0, C, 3_000_000)], [(7, "rst", "both"), (2, "open", "both")],
            id="after RST, the client's number as before",
        ),
        pytest.param(
            [*FIRST, RESET, *handshake(1.0, C, 3_000_000)[1:]], [(6, "rst", "both"), (2, "open", "both")],
            id="after RST, the client's number as before, without its SYN",
        ),
        pytest.param(
            [p for n in range(3) for p in [*handshake(n, C, S + n), *data(n + 0.1, C, S + n), *close(n + 0.2, C, S + n)]],
            [(9, "fin", "both"), (8, "fin", "both"), (7, "fin", "both")], id="three, one client's number",
        ),
        pytest.param(
            [*FIRST, P(0.9, True, SYN, C), *handshake(1.0, C, 3_000_000)[1:]],
            [(6, "open", "both"), (2, "open", "both")], id="a client that begins again with the same number",
        ),
        pytest.param(
            [p for p in [*FIRST, *handshake(1.0, OTHER, 3_000_000)] if not p.up],
            [(2, "open", "server"), (1, "open", "server")], id="only the server's side",
        ),
        pytest.param(
            [p for p in FIRST if p.up] + handshake(1.0, OTHER, 3_000_000)[1:],
            [(3, "open", "client"), (2, "open", "both")], id="the server's side from the second connection on",
        ),
        pytest.param(
            [p for p in FIRST if not p.up] + handshake(1.0, OTHER, 3_000_000)[1:],
            [(2, "open", "server"), (2, "open", "both")], id="the client's side from the second connection on",
        ),
        pytest.param(
            [*data(0.1), *handshake(1.0, OTHER, 3_000_000)[1:]], [(2, "open", "both"), (2, "open", "both")],
            id="the first caught in the middle",
        ),
        pytest.param(
            [P(0, True, SYN, C), refusal(0.01), *handshake(1.0, OTHER)[1:]],
            [(2, "rst", "both"), (2, "open", "both")], id="after a refusal",
        ),
        pytest.param(
            [*FIRST, P(1.0, False, SYN, 77), P(1.01, True, SYN | ACK, OTHER, 78), P(1.02, False, ACK, 78, OTHER + 1)],
            [(5, "open", "both"), (3, "open", "both")], id="the server opens the second",
        ),
        pytest.param(
            [*FIRST, P(1.01, True, SYN | ACK, OTHER, 78), P(1.02, False, ACK, 78, OTHER + 1)],
            [(5, "open", "both"), (2, "open", "both")], id="the server opens the second, without its SYN",
        ),
    ],
)  # fmt: skip
def test_a_syn_ack_that_answers_another_syn_begins_a_flow(packets, expected):
    assert flows(packets) == expected


@pytest.mark.parametrize(
    "packets",
    [
        pytest.param([*FIRST, answer(0.2, S, C + 1)], id="sent again"),
        pytest.param([*FIRST, *close(0.3), answer(0.5, S, C + 1)], id="sent again, delivered behind the end"),
        pytest.param([*FIRST[:1], *FIRST[2:], answer(0.2, S, C + 1)], id="delivered behind the data"),
        pytest.param([*FIRST[2:], answer(0.2, S, C + 1)], id="delivered behind the data, without the SYN"),
        pytest.param([FIRST[0], *FIRST[2:], *close(0.3), answer(0.5, S, C + 1)], id="delivered behind the end"),
        pytest.param([*FIRST[:2], answer(0.5, 77, C + 1), *data(0.6, C, 77)], id="again with another number"),
        pytest.param(
            [*FIRST[:2], answer(0.5, 77, C + 1), answer(0.7, 5_000_000, C + 1)], id="again with two other numbers"
        ),
        pytest.param([FIRST[1], answer(0.5, 77, C + 1)], id="again with another number, only the server's side"),
        pytest.param(
            [P(0, True, SYN, C, payload=b"q" * 100), answer(0.1, S, C + 101), answer(0.5, 77, C + 101)],
            id="again with another number, to a SYN with data",
        ),
        pytest.param(
            [P(0, True, SYN, C, payload=b"q" * 100), answer(0.1, S, C + 1), *data(0.3)],
            id="to a SYN with data that are not accepted",
        ),
        pytest.param(
            [P(0, True, SYN, C, payload=b"q" * 100), answer(0.1, S, C + 101), *data(0.3),
             P(0.5, True, SYN, C, payload=b"q" * 100), answer(0.6, S, C + 101)], id="a SYN with data, all sent again",
        ),
        pytest.param(
            [answer(0.1, S, C + 101), P(0.2, True, SYN, C, payload=b"q" * 100), *data(0.3)],
            id="the SYN with data behind its answer",
        ),
        pytest.param(
            [P(0, True, SYN, C), answer(0.01, 77, OTHER), P(0.02, True, RST, OTHER), *handshake(0.03)[1:]],
            id="an old one before the right one (RFC 9293, figure 8)",
        ),
        pytest.param(
            [P(0, True, SYN, C), P(0.01, False, ACK, 77, OTHER), P(0.02, True, RST, OTHER), *handshake(1.0)],
            id="the server has the connection before open (RFC 9293, figure 9)",
        ),
        pytest.param([P(0, True, SYN, C), refusal(0.01), *handshake(0.5), *data(0.6)], id="after a refusal"),
        pytest.param(
            [P(0, True, SYN, C), P(0.01, False, RST | ACK, 99, C + 1), *handshake(0.5)],
            id="after a refusal that has a number",
        ),
        pytest.param(
            [P(0, True, SYN, C), P(0.001, False, SYN, S), answer(0.01, S, C + 1), P(0.011, True, SYN | ACK, C, S + 1)],
            id="simultaneous open",
        ),
        pytest.param(
            [P(0.01, True, SYN | ACK, C, S + 1), answer(0.011, S, C + 1), *data(0.1)],
            id="simultaneous open, without the SYNs",
        ),
    ],
)  # fmt: skip
def test_a_syn_ack_of_the_connection_begins_no_other(packets):
    assert [count for count, *_ in flows(packets)] == [len(packets)]


@pytest.mark.parametrize("last", ["fin", "open"])
@pytest.mark.parametrize("seen", ["both", "client", "server"])
def test_late_duplicates_of_the_connection_before_begin_nothing(seen, last):
    """Of a SYN and SYN-ACK, behind those of the next connection and behind its data."""
    second = [*AGAIN, *(close(1.2, C + 250_000_000, S + 250_000_000) if last == "fin" else ())]
    late = [P(1.0, True, SYN, C), answer(1.0, S, C + 1)]
    for place in (2, 5, len(second)):
        at_s = second[place - 1].at_s + 0.001
        packets = [*FIRST, *close(0.2), *second[:place], *(p._replace(at_s=at_s) for p in late), *second[place:]]
        kept = [p for p in packets if seen == "both" or p.up == (seen == "client")]
        firsts = [p for p in [*FIRST, *close(0.2)] if p in kept]
        assert flows(kept) == [(len(firsts), "fin", seen), (len(kept) - len(firsts), last, seen)], place


def test_a_late_syn_ack_is_known_by_what_it_answers():
    first = [p for p in [*FIRST, *close(0.2)] if p.up]  # of the first connection only the client's side was captured
    assert [count for count, *_ in flows([*first, *AGAIN, answer(1.3, S, C + 1)])] == [len(first), 6]


def test_the_second_connection_has_the_client_that_its_syn_ack_names():
    swapped = [p._replace(up=not p.up) for p in handshake(1.0, OTHER, 77)]
    for packets in ([*FIRST, *swapped], [*FIRST, *swapped[1:]], [*FIRST, *close(0.2), *swapped[1:]]):
        clients = [record["client_ip"] for record in records(packets)]
        assert sorted(clients) == sorted([CLIENT[0], SERVER[0]])
    again = handshake(1.0, OTHER, 77)[1:]
    assert {record["client_ip"] for record in records([*FIRST, *again])} == {CLIENT[0]}


IDLE_SOON = {"FlowCache": {"IdleTimeout": "1s"}}


@pytest.mark.parametrize(
    ("packets", "expected"),
    [
        pytest.param([P(0, True, SYN, C), refusal(0.01), *handshake(0.5), *data(0.6)], "open", id="then accepted"),
        pytest.param(
            [P(0, True, SYN, C), refusal(0.01), *handshake(0.5), *data(0.6), *close(0.7)], "fin",
            id="then accepted and closed",
        ),
        pytest.param(
            [P(0, True, SYN, C), refusal(0.01), *handshake(0.5), *data(0.6), RESET._replace(at_s=0.8)], "rst",
            id="then accepted and reset",
        ),
        pytest.param(
            [P(0, True, SYN, C), refusal(0.01), P(0.5, True, SYN, C), refusal(0.51)], "rst", id="then refused again"
        ),
        pytest.param([P(0, True, SYN, C), refusal(0.01), P(0.5, True, SYN, C)], "rst", id="then asked again"),
        pytest.param([*FIRST, RESET, *data(0.3)], "open", id="forged, and data of both"),
        pytest.param([*FIRST, RESET, *reversed(data(0.3))], "open", id="forged, and data of both, the server's first"),
        pytest.param([*FIRST, RESET, *close(0.3)], "fin", id="forged, and closed"),
        pytest.param([*FIRST, P(0.2, False, RST, S + 1001), *close(0.3)], "fin", id="forged for the server, and closed"),
        pytest.param([*FIRST, RESET, *close(0.3)[1:], close(0.3)[0]], "fin", id="forged, and closed by the server first"),
        pytest.param(
            [*FIRST, close(0.2)[0], RESET, P(0.3, False, FIN | ACK, S + 1001), P(0.4, True, ACK, C + 102)], "fin",
            id="forged between the FINs",
        ),
        pytest.param(
            [*FIRST, RESET, P(0.25, False, ACK, S + 1001, C + 101), P(0.3, False, ACK, S + 1001, payload=b"x"),
             P(0.31, True, ACK, C + 101, S + 1002)], "open", id="challenged (RFC 5961), and the download goes on",
        ),
        pytest.param([*FIRST, RESET, *data(0.3), RESET._replace(at_s=0.5)], "rst", id="forged, and then a true one"),
        pytest.param([*FIRST, RESET, *data(0.3)[1:]], "rst", id="true, with data of the peer on their way"),
        pytest.param(
            [*FIRST, RESET, *data(0.3)[1:], RESET._replace(at_s=0.4)], "rst", id="true, and sent again to what comes"
        ),
        pytest.param(
            [*FIRST, RESET, P(0.21, True, ACK, C + 101), *data(0.3)[1:], RESET._replace(at_s=0.4)], "rst",
            id="true, with an acknowledgement that it has overtaken",
        ),
        pytest.param([p for p in [*FIRST, RESET, *close(0.3)] if p.up], "fin", id="forged, only the client's side"),
        pytest.param([p for p in [*FIRST, RESET] if p.up], "rst", id="true, only the client's side"),
        pytest.param([*FIRST, *close(0.2), RESET._replace(at_s=0.4)], "fin", id="behind the end"),
    ],
)  # fmt: skip
def test_a_reset_is_the_end_until_both_ends_have_sent_something_else(packets, expected):
    assert flows(packets) == [(len(packets), expected, flows(packets)[0][2])]
    assert flows(packets, **IDLE_SOON)[0][1] == ("idle" if expected == "open" else expected)


HEARS = '''
from typing import NamedTuple
from trafficrefinery.api import FeatureClass, Packet, int64


class EndsOutput(NamedTuple):
    times: int
    how: int


class Ends(FeatureClass):
    """How often it heard of an end, and of which last."""

    times: int64
    how: int64

    def add_packet(self, pkt: Packet) -> None:
        pass

    def end_flow(self, how: int) -> None:
        self.times += 1
        self.how = how

    def collect_features(self, interval_s: float) -> EndsOutput:
        return EndsOutput(times=self.times, how=self.how)
'''


def test_a_class_hears_once_of_the_first_end(tmp_path):
    path = tmp_path / "ends.py"
    path.write_text(HEARS)
    services = [{"Name": "All", "Filter": {"Prefixes": list(ALL_TRAFFIC)}, "Collect": ["Ends"]}]
    plan = Plan.of(parse_config({"Sensor": "test", "FeaturePaths": [str(path)], "Services": services}))
    for packets, end, heard in [
        (FIRST, "open", {"times": 0, "how": 0}),
        (FIRST + close(0.2), "fin", {"times": 1, "how": ENDED_FIN}),
        ([*FIRST, RESET, *close(0.3)], "fin", {"times": 1, "how": ENDED_RST}),
        ([*FIRST, RESET, *data(0.3), RESET._replace(at_s=0.5)], "rst", {"times": 1, "how": ENDED_RST}),
    ]:
        (line,) = replay_frames(plan, [frame(p) for p in packets]).lines
        assert (json.loads(line)["end"], json.loads(line)["features"]["Ends"]) == (end, heard)


def test_a_row_written_before_a_reset_is_refuted_keeps_what_was_known():
    packets = [*FIRST, RESET, *(p._replace(at_s=p.at_s + 20) for p in [*data(0.3), *close(0.4)])]
    assert [record["end"] for record in records(packets)] == ["rst", "fin"]


def test_a_flow_that_is_idle_before_its_interval_is_over_says_so():
    settings = {"FlowCache": {"IdleTimeout": "1s"}}
    assert flows(FIRST, **settings) == [(5, "idle", "both")]
    assert flows(FIRST + close(0.2), **settings) == [(8, "fin", "both")]
    earlier = [p._replace(at_s=p.at_s - 0.5) for p in FIRST + AGAIN[:-1]]
    assert flows(earlier, **settings) == [(5, "open", "both"), (4, "idle", "both")]  # the second begins before


def test_a_record_written_before_its_flow_was_idle_for_long_enough_does_not_say_so():
    """Intervals end 2, 7 and 12 s after the first packet could come; the last packet closes them."""
    packets = [P(at_s, True, ACK, C) for at_s in (6.0, 8.0, 33.0)]
    for idle_timeout, ends in (("500ms", ["idle"] * 3), ("2s", ["open", "idle", "idle"]), ("20s", ["open"] * 3)):
        settings = {"FlowCache": {"IdleTimeout": idle_timeout}}
        assert [record["end"] for record in records(packets, **settings)] == ends


def test_an_evicted_flow_says_so():
    others = [
        Frame(START_NS + SECOND, made, len(made))
        for port in range(9)
        for made in [ethernet(ip("10.0.0.9", SERVER[0], 17, udp(50_000 + port, 443, b"x")))]
    ]
    plan = Plan.of(config_of(rest=ALL_TRAFFIC, FlowCache={"MaxFlows": 8}))
    lines = map(json.loads, replay_frames(plan, [*map(frame, FIRST), *others]).lines)
    assert {record["end"] for record in lines if record["protocol"] == "tcp"} == {"evicted"}


SENDER, RECEIVER = "203.0.113.1", "203.0.113.2"


def ports(receiver_port: int, sender_port: int, flags: int | None, **direction) -> str:
    """The client of a flow whose first packet comes from SENDER; without flags it is of UDP."""
    body = tcp(sender_port, receiver_port, 3, 4, flags) if flags is not None else udp(sender_port, receiver_port, b"x")
    made = ethernet(ip(SENDER, RECEIVER, 17 if flags is None else 6, body))
    plan = Plan.of(config_of(rest=ALL_TRAFFIC, Direction=direction))
    (line,) = replay_frames(plan, [Frame(START_NS, made, len(made))]).lines
    return json.loads(line)["client_ip"]


@pytest.mark.parametrize("flags", [ACK, ACK | PSH, FIN | ACK, RST | ACK, RST, None])
@pytest.mark.parametrize("with_networks", [False, True])
def test_without_a_syn_the_client_has_the_higher_port_where_the_lower_is_one_of_a_service(flags, with_networks):
    """Networks of clients tell only where ports do not; here they say that the other end is the client."""
    services = [8_443, 1_935]
    for sender, receiver, expected in [
        (443, 40_000, RECEIVER), (40_000, 443, SENDER),
        (443, 800, RECEIVER), (800, 443, SENDER), (1_023, 1_024, RECEIVER), (22, 1_023, RECEIVER),
        (8_443, 40_000, RECEIVER), (8_443, 80, SENDER), (8_443, 1_935, SENDER), (1_935, 8_443, RECEIVER),
    ]:  # fmt: skip
        other = SENDER if expected == RECEIVER else RECEIVER
        direction = {"ClientNetworks": [f"{other}/32"]} if with_networks else {}
        assert ports(receiver, sender, flags, ServicePorts=services, **direction) == expected, (sender, receiver)
    for sender, receiver in [(123, 123), (8_443, 8_443), (40_000, 50_000), (50_000, 40_000), (8_443, 2_000)]:
        expected = RECEIVER if with_networks else SENDER
        direction = {"ClientNetworks": [f"{RECEIVER}/32"]} if with_networks else {}
        assert ports(receiver, sender, flags, ServicePorts=services, **direction) == expected, (sender, receiver)


def test_a_syn_tells_the_client_to_whichever_ports():
    for sender, receiver in ((443, 40_000), (443, 800), (443, 443), (40_000, 443)):
        assert ports(receiver, sender, SYN) == SENDER
        assert ports(receiver, sender, SYN | ACK) == RECEIVER


def test_a_flow_caught_from_its_servers_side_has_the_right_client():
    made = [ethernet(ip("192.0.2.1", "10.4.1.5", 6, tcp(443, 800, 3 + n, 4, ACK, b"x"))) for n in range(3)]
    made.append(ethernet(ip("10.4.1.5", "192.0.2.1", 6, tcp(800, 443, 4, 6, ACK))))
    plan = Plan.of(config_of(rest=ALL_TRAFFIC))
    (line,) = replay_frames(plan, [Frame(START_NS + n, frame, len(frame)) for n, frame in enumerate(made)]).lines
    counts = json.loads(line)["features"]["PacketCounters"]
    assert (json.loads(line)["client_ip"], counts["packets_up"], counts["packets_down"]) == ("10.4.1.5", 1, 3)
