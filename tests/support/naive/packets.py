"""Packets for tests: generated conversations, and recorded traces read with dpkt."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import dpkt
import zstandard
from hypothesis import strategies as st

from trafficrefinery.api.testing import packet

UP, DOWN, TCP, UDP = 0, 1, 6, 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
LATER_FRAGMENT = 2
SECOND = 1_000_000_000


@dataclass(slots=True)
class P:
    """The fields of `api.Packet` that are not the frame's, as plain numbers; feature classes read it as well."""

    ts_ns: int = 0
    interval_start_ns: int = 0
    direction: int = UP
    protocol: int = TCP
    ip_version: int = 4
    ip_bytes: int = 40
    payload_bytes: int = 0
    src_port: int = 40_000
    dst_port: int = 443
    seq: int = 0
    ack: int = 0
    tcp_flags: int = ACK
    window: int = 1_000
    window_scale: int = -1
    mss: int = 0
    has_timestamps: int = 0
    tsval: int = 0
    tsecr: int = 0
    sack_blocks: int = 0
    sack_left: int = 0
    sack_right: int = 0
    tcp_header_bytes: int = 20
    fragment: int = 0
    record_bytes: int = 0

    def __repr__(self) -> str:
        told = {name: value for name, value in asdict(self).items() if value != getattr(_PLAIN, name)}
        return f"P({', '.join(f'{name}={value}' for name, value in told.items())})"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis would print all fields


_PLAIN = P()


def as_packet(p: P) -> Any:
    """As the packet path hands it to a feature class."""
    return packet(**asdict(p))


def sdiff(a: int, b: int) -> int:
    """Signed distance of two 32-bit numbers, in -2^31 ... 2^31 - 1."""
    return (a - b + 2**31) % 2**32 - 2**31


def in_intervals(packets: Iterable[P], interval_s: int = 10) -> list[list[P]]:
    """Packets by interval, on the grid of the epoch; a packet older than the open interval counts in the open one."""
    intervals: list[list[P]] = []
    start = -1
    for p in packets:
        begins = p.ts_ns // (interval_s * SECOND) * (interval_s * SECOND)
        if begins > start:
            start = begins
            intervals.append([])
        intervals[-1].append(replace(p, interval_start_ns=start))
    return intervals


# Generated


@dataclass
class _End:
    """One end of a generated connection."""

    seq: int
    clock: int  # timestamp value at time 0
    window: int = 500
    scale: int = 7
    sent: list[tuple[int, int, int]] = field(default_factory=list)  # sequence number, payload bytes, flags
    acked: int = 0
    echo: int = 0


@st.composite
def conversations(draw: Any) -> list[P]:
    """A TCP connection, or two on the same ports: handshake or not, data both ways, loss, reordering, duplicates,
    retransmissions, delayed and duplicate ACKs, keep-alives, closed windows, sequence numbers that wrap."""
    packets: list[P] = []
    ts_ns = draw(st.integers(1_500_000_000, 1_500_000_020)) * SECOND
    for number in range(draw(st.integers(1, 2))):
        start = st.sampled_from([5, 2**32 - 2_000, 2**31 - 1_000, 2**32 - 1])
        ends = [_End(draw(start), 1_000), _End(draw(start), 2**32 - 10)]
        ends[0].acked, ends[1].acked = ends[1].seq, ends[0].seq
        timestamps = draw(st.booleans())
        if number > 0 or draw(st.booleans()):
            ts_ns = _handshake(draw, packets, ends, ts_ns, timestamps, number > 0)
        for action in draw(st.lists(st.sampled_from(_ACTIONS), max_size=40)):
            ts_ns += draw(_DELAY)
            side = draw(st.integers(0, 1))
            made = _act(draw, action, ends[side], ends[1 - side], side)
            if made is not None and not draw(_LOSS):
                packets.append(_sent(made, ends[side], ts_ns, timestamps))
                ends[1 - side].echo = packets[-1].tsval
                if draw(_LOSS):
                    packets.append(replace(packets[-1], ts_ns=ts_ns + 1_000))
    for i in draw(st.lists(st.integers(0, max(len(packets) - 2, 0)), max_size=5)) if len(packets) > 1 else []:
        first, second = packets[i], packets[i + 1]
        packets[i : i + 2] = replace(second, ts_ns=first.ts_ns), replace(first, ts_ns=second.ts_ns)
    return packets


_ACTIONS = ["data"] * 8 + ["again"] * 3 + ["ack"] * 6 + ["same ack"] * 3 + [
    "keep-alive", "probe", "close window", "fin", "rst", "part again", "later fragment", "first fragment", "flags",
]  # fmt: skip
_DELAY = st.one_of(
    st.integers(0, 2_000_000), st.integers(0, 60_000_000), st.integers(0, 60_000_000),
    st.sampled_from([0, 2_999_999, 3_000_000, 19_999_999, 20_000_000, SECOND, 1_000_000_001, 12 * SECOND]),
)  # fmt: skip
_LOSS = st.sampled_from([False] * 9 + [True])


def _handshake(draw: Any, packets: list[P], ends: list[_End], ts_ns: int, timestamps: bool, seen: bool) -> int:
    """SYN, perhaps twice, SYN-ACK and ACK, each of which the capture may miss; but the first SYN when `seen`."""
    scaled = [draw(st.sampled_from([-1, 0, 7, 15])) for _ in range(2)]
    made = [P(direction=UP, tcp_flags=SYN, seq=ends[0].seq, window=65_535, window_scale=scaled[0])]
    if draw(_LOSS):
        made.append(made[0])
    for end in ends:
        end.seq = (end.seq + 1) % 2**32
    ends[0].acked, ends[1].acked = ends[1].seq, ends[0].seq
    made.append(P(direction=DOWN, tcp_flags=SYN | ACK, seq=(ends[1].seq - 1) % 2**32, ack=ends[0].seq,
                  window=65_535, window_scale=scaled[1]))  # fmt: skip
    made.append(P(direction=UP, tcp_flags=ACK, seq=ends[0].seq, ack=ends[1].seq))
    for p in made:
        ts_ns += draw(st.integers(1, 40_000_000))
        if not draw(_LOSS) or (seen and p is made[0]):
            packets.append(_sent(p, ends[p.direction], ts_ns, timestamps))
    return ts_ns


def _sent(p: P, end: _End, ts_ns: int, timestamps: bool) -> P:
    if p.fragment == LATER_FRAGMENT or not timestamps:
        return replace(p, ts_ns=ts_ns, ip_bytes=p.payload_bytes + 40)
    tsval = (end.clock + ts_ns // 4_000_000) % 2**32
    return replace(
        p, ts_ns=ts_ns, has_timestamps=1, tsval=tsval, tsecr=end.echo, tcp_header_bytes=32,
        ip_bytes=p.payload_bytes + 52,
    )  # fmt: skip


def _act(draw: Any, action: str, mine: _End, other: _End, side: int) -> P | None:
    """The packet of one action, or none where there is nothing to send."""
    p = P(direction=side, seq=mine.seq, ack=mine.acked, window=mine.window)
    if action in ("data", "fin", "first fragment"):
        p.tcp_flags = FIN | ACK if action == "fin" else draw(st.sampled_from([ACK, ACK | PSH]))
        p.payload_bytes = draw(st.sampled_from([0, 50] if action == "fin" else [1, 2, 100, 1_460, 1_460]))
        p.fragment = 1 if action == "first fragment" else 0
        mine.sent.append((mine.seq, p.payload_bytes, p.tcp_flags))
        mine.seq = (mine.seq + p.payload_bytes + (1 if action == "fin" else 0)) % 2**32
    elif action in ("again", "part again"):
        if not mine.sent:
            return None
        seq, payload, p.tcp_flags = mine.sent[-draw(st.integers(1, min(8, len(mine.sent))))]
        cut = draw(st.integers(0, payload)) if action == "part again" else 0
        p.seq, p.payload_bytes = (seq + cut) % 2**32, payload - cut
    elif action == "ack":
        mine.acked = p.ack = draw(st.sampled_from([other.seq, *[seq for seq, _, _ in other.sent[-4:]]]))
        mine.window = p.window = draw(st.sampled_from([500, 500, 65_535, 1]))
    elif action == "close window":
        mine.window = p.window = 0
    elif action in ("keep-alive", "probe"):
        p.seq = (mine.seq - (1 if action == "keep-alive" else 0)) % 2**32
        p.payload_bytes = draw(st.integers(0, 1))
    elif action == "rst":
        p.tcp_flags, p.window = draw(st.sampled_from([RST, RST | ACK])), 0
    elif action == "later fragment":
        p = P(direction=side, tcp_flags=0, window=0, payload_bytes=700, fragment=LATER_FRAGMENT)
    elif action == "flags":
        p.tcp_flags = ACK | draw(st.sampled_from([URG, ECE, CWR, ECE | CWR]))
    return p


@st.composite
def arbitrary_packets(draw: Any) -> list[P]:
    """Packets in any order around one sequence number, of any kind, at times that may go back."""
    base = draw(st.sampled_from([1, 2**31 - 40, 2**32 - 40]))
    protocol = draw(st.sampled_from([TCP] * 9 + [UDP]))
    flags = st.sampled_from([ACK] * 12 + [SYN, SYN | ACK, FIN | ACK, RST, 0, 255])
    offset = st.one_of(st.integers(0, 250), st.integers(0, 250), st.sampled_from([2**29, -(2**29)]))
    ts_ns = 1_500_000_000 * SECOND
    packets = []
    for _ in range(draw(st.integers(0, 40))):
        ts_ns += draw(st.integers(-2_000_000, 40_000_000))
        tcp = protocol == TCP
        packets.append(P(
            ts_ns=ts_ns, direction=draw(st.integers(0, 1)), protocol=protocol, payload_bytes=draw(st.integers(0, 60)),
            seq=(base + draw(offset)) % 2**32 if tcp else 0, ack=(base + draw(offset)) % 2**32 if tcp else 0,
            tcp_flags=draw(flags) if tcp else 0, window=draw(st.integers(0, 2)), window_scale=draw(st.integers(-1, 2)),
            has_timestamps=draw(st.integers(0, 1)), tsval=draw(st.integers(0, 9)), tsecr=draw(st.integers(0, 9)),
            fragment=draw(st.sampled_from([0] * 8 + [1, 2])),
        ))  # fmt: skip
    return packets


# Recorded


@dataclass
class Flow:
    """One 5-tuple of a trace; the client sent the first SYN, or is one of the given hosts, or sent first."""

    client: tuple[str, int]
    server: tuple[str, int]
    protocol: int
    packets: list[P] = field(default_factory=list)
    whole_header: list[bool] = field(default_factory=list)  # of each packet: the snap length spared the TCP header


def read_flows(path: Path, clients: frozenset[str] = frozenset()) -> list[Flow]:
    """TCP and UDP over IPv4 and IPv6 of a trace, in its order; fragments that are not the first are left out."""
    flows: dict[Any, Flow] = {}
    opened: set[Any] = set()
    for ts_ns, ip in _ip_packets(path):
        read = _transport(ip)
        if read is None:
            continue
        source, destination, protocol, fields, whole = read
        key = (protocol, frozenset((source, destination)))
        flow = flows.setdefault(key, Flow(source, destination, protocol))
        opens = fields.get("tcp_flags", 0) & (SYN | ACK) == SYN
        if key not in opened and (opens or source[0] in clients or destination[0] in clients):
            opened.add(key)
            _set_client(flow, source if opens or source[0] in clients else destination)
        direction = UP if source == flow.client else DOWN
        flow.packets.append(P(ts_ns=ts_ns, direction=direction, protocol=protocol, **fields))
        flow.whole_header.append(whole)
    return list(flows.values())


def _set_client(flow: Flow, client: tuple[str, int]) -> None:
    if flow.client != client:
        flow.client, flow.server = flow.server, flow.client
        for p in flow.packets:
            p.direction = 1 - p.direction


def _ip_packets(path: Path) -> Iterator[tuple[int, Any]]:
    data = path.read_bytes()
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    reader = dpkt.pcap.UniversalReader(io.BytesIO(data))
    link = reader.datalink()
    for ts, frame in reader:
        ts_ns = round(float(ts) * 1e6) * 1_000
        try:
            if link == dpkt.pcap.DLT_EN10MB:
                layer = dpkt.ethernet.Ethernet(frame).data
            elif link == dpkt.pcap.DLT_LINUX_SLL:
                layer = dpkt.sll.SLL(frame).data
            else:
                layer = dpkt.ip.IP(frame) if frame[0] >> 4 == 4 else dpkt.ip6.IP6(frame)
        except dpkt.Error:
            continue
        if isinstance(layer, dpkt.ip.IP | dpkt.ip6.IP6):
            yield ts_ns, layer


def _transport(ip: Any) -> tuple[tuple[str, int], tuple[str, int], int, dict[str, int], bool] | None:
    v4 = isinstance(ip, dpkt.ip.IP)
    layer = ip.data
    if not isinstance(layer, dpkt.tcp.TCP | dpkt.udp.UDP) or (v4 and ip.offset):
        return None
    family = socket.AF_INET if v4 else socket.AF_INET6
    source = (socket.inet_ntop(family, ip.src), layer.sport)
    destination = (socket.inet_ntop(family, ip.dst), layer.dport)
    before = ip.hl * 4 if v4 else 40 + sum(len(h) for h in ip.all_extension_headers)
    ip_bytes = (ip.len or len(ip)) if v4 else ip.plen + 40  # 0: the network card cuts it into segments
    fields = {"ip_version": 4 if v4 else 6, "ip_bytes": ip_bytes, "src_port": layer.sport, "dst_port": layer.dport}
    if isinstance(layer, dpkt.udp.UDP):
        return (
            source,
            destination,
            UDP,
            {**fields, "payload_bytes": max(ip_bytes - before - 8, 0), "tcp_flags": 0},
            True,
        )
    fields |= {
        "payload_bytes": max(ip_bytes - before - layer.off * 4, 0), "seq": layer.seq, "ack": layer.ack,
        "tcp_flags": layer.flags & 255, "window": layer.win, "tcp_header_bytes": layer.off * 4,
    }  # fmt: skip
    fields |= _options(layer.opts)
    return source, destination, TCP, fields, len(layer.opts) == layer.off * 4 - 20


def _options(options: bytes) -> dict[str, int]:
    found = {}
    try:
        for option in dpkt.tcp.parse_opts(options):
            if option is None:  # cut off
                break
            kind, value = option
            if kind == dpkt.tcp.TCP_OPT_WSCALE and len(value) == 1:
                found["window_scale"] = value[0]
            elif kind == dpkt.tcp.TCP_OPT_MSS and len(value) == 2:
                found["mss"] = int.from_bytes(value, "big")
            elif kind == dpkt.tcp.TCP_OPT_TIMESTAMP and len(value) == 8:
                found |= {"has_timestamps": 1, "tsval": int.from_bytes(value[:4], "big"),
                          "tsecr": int.from_bytes(value[4:], "big")}  # fmt: skip
            elif kind == dpkt.tcp.TCP_OPT_SACK and len(value) >= 8:
                found |= {"sack_blocks": len(value) // 8, "sack_left": int.from_bytes(value[:4], "big"),
                          "sack_right": int.from_bytes(value[4:8], "big")}  # fmt: skip
    except (dpkt.Error, IndexError):
        pass
    return found
