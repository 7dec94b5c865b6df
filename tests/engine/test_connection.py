"""Which packets make one flow and which the next one, on the same addresses and ports; and how flows end."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

from support.naive.frames import Frame
from support.replays import ALL_TRAFFIC, config_of, replay_frames
from support.traces import ACK, FIN, PSH, RST, SECOND, START_NS, SYN, ethernet, ip, tcp, udp
from trafficrefinery.engine.worker import Plan

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


def flows(packets: list[P], **settings) -> list[tuple[int, str, str]]:
    """(packets, how it ended, sides) of each flow, in the order of their starts."""
    plan = Plan.of(config_of(rest=ALL_TRAFFIC, **settings))
    records = [json.loads(line) for line in replay_frames(plan, [frame(p) for p in packets]).lines]
    found: dict[tuple[float, str], list] = {}
    for record in sorted(records, key=lambda record: record["ts_start"]):
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


def test_a_flow_that_is_idle_before_its_interval_is_over_says_so():
    settings = {"FlowCache": {"IdleTimeout": "1s"}}
    assert flows(FIRST, **settings) == [(5, "idle", "both")]
    assert flows(FIRST + close(0.2), **settings) == [(8, "fin", "both")]


def test_an_evicted_flow_says_so():
    others = [
        Frame(START_NS + SECOND, made, len(made))
        for port in range(9)
        for made in [ethernet(ip("10.0.0.9", SERVER[0], 17, udp(50_000 + port, 443, b"x")))]
    ]
    plan = Plan.of(config_of(rest=ALL_TRAFFIC, FlowCache={"MaxFlows": 8}))
    records = map(json.loads, replay_frames(plan, [*map(frame, FIRST), *others]).lines)
    assert {record["end"] for record in records if record["protocol"] == "tcp"} == {"evicted"}


def ports(client_port: int, server_port: int, flags: int, **direction) -> str:
    """The client of a flow whose first packet comes from the server."""
    made = ethernet(ip("203.0.113.1", "203.0.113.2", 6, tcp(server_port, client_port, 3, 4, flags)))
    plan = Plan.of(config_of(rest=ALL_TRAFFIC, Direction=direction))
    (line,) = replay_frames(plan, [Frame(START_NS, made, len(made))]).lines
    return json.loads(line)["client_ip"]


def test_without_a_syn_the_client_has_the_higher_port_where_the_other_is_one_of_a_service():
    sender, receiver = "203.0.113.1", "203.0.113.2"
    assert ports(40_000, 443, ACK) == receiver
    assert ports(443, 40_000, ACK) == sender
    assert ports(40_000, 8_443, ACK) == sender  # nothing tells: who sent first
    assert ports(40_000, 8_443, ACK, ServicePorts=[8_443]) == receiver
    assert ports(80, 8_443, ACK, ServicePorts=[8_443]) == sender  # both are
    assert ports(40_000, 8_443, ACK, ClientNetworks=[f"{receiver}/32"]) == receiver
    assert ports(40_000, 443, ACK, ClientNetworks=[f"{sender}/32"]) == receiver
    assert ports(40_000, 443, SYN) == sender  # it opens the connection, to whichever port
    assert ports(40_000, 443, SYN | ACK) == receiver
