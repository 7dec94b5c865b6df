"""The whole replay once more, naive: dictionaries, lists, one packet after the other, nothing bounded.

Intervals are closed when the next packet of the flow tells that they are over, never by a sweep. What a flow's
classes make of its packets is asked at the very end.
"""

from __future__ import annotations

import hashlib
import ipaddress
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from naive.frames import DOWN, TCP, UP, Frame, Packet, UnusableError, read_frame
from naive.services import ACK, SYN, ServiceMap
from naive.tlsnames import hello_name, initial_crypto, stream_name

FIRST_PACKETS = 16
FRAGMENT_TIMEOUT_NS = 60_000_000_000
RANK = {None: 0, "prefix": 1, "dns": 2, "quic_sni": 3, "sni": 4}
HELLO_LIMIT = 16_384
QUIC_VERSIONS = (1, 0x6B3343CF)

Twin = Callable[[list[list[Packet]], Any, float], list[dict[str, Any]]]
"""From the intervals of a flow, the parameters of the class, and the length of an interval, to the outputs."""

End = tuple[int, int]


@dataclass
class Hello:
    """What was seen of the handshake that names the server."""

    side: End | None = None
    start_seq: int | None = None
    bytes_at: dict[int, int] = field(default_factory=dict)
    datagrams: int = 0
    cut: bool = False
    done: bool = False

    def prefix(self) -> bytes:
        end = 0
        while end in self.bytes_at:
            end += 1
        return bytes(self.bytes_at[i] for i in range(end))


@dataclass
class Flow:
    first: Packet
    last_ns: int
    service: int | None = None
    matched_by: str | None = None
    name: str | None = None
    client: End | None = None
    fixed: bool = False
    early: list[Packet] = field(default_factory=list)  # the packets since the start while the service may change
    hello: Hello = field(default_factory=Hello)
    intervals: dict[int, list[Packet]] = field(default_factory=dict)  # by start
    services: dict[int, int] = field(default_factory=dict)
    open_ns: int | None = None

    @property
    def ends(self) -> tuple[End, End]:
        return self.first.source, self.first.destination

    def other(self, end: End) -> End:
        a, b = self.ends
        return b if end == a else a


class Reference:
    """Replays frames with a configuration; see `records`, `counters` and `summaries`."""

    def __init__(self, config: Any, *, first_packet_origin: bool = False) -> None:
        self.config = config
        self.map = ServiceMap(config)
        self.counters: Counter[str] = Counter()
        self.service_packets: Counter[str] = Counter()
        self.flows: dict[Any, Flow] = {}
        self.ended: list[Flow] = []
        self.fragments: dict[Any, tuple[int, int, int]] = {}
        self.watermark: int | None = None
        self.origin: int | None = None if first_packet_origin else 0
        self.collected = [
            (service.interval_ns, tuple((item.name, str(item.params)) for item in service.collect))
            for service in config.services
        ]

    def replay(self, frames: Iterable[Frame]) -> Reference:
        for frame in frames:
            self.take(frame)
        for flow in self.flows.values():
            self.end(flow)
        self.flows = {}
        return self

    # One frame

    def take(self, frame: Frame) -> None:
        self.watermark = frame.ts_ns if self.watermark is None else max(self.watermark, frame.ts_ns)
        if self.origin is None:
            self.origin = frame.ts_ns
        self.counters["packets"] += 1
        self.counters["wire_bytes"] += frame.wire_bytes
        try:
            p = read_frame(frame, self.config.decapsulate)
            if p.fragment:
                self.fragment(p)
        except UnusableError as reason:
            self.counters[str(reason)] += 1
            return
        flow = self.flow_of(p)
        self.give(flow, p)
        if 53 in (p.src_port, p.dst_port):
            self.map.read_dns(p)

    def fragment(self, p: Packet) -> None:
        """Later fragments have no ports: they are those of the first."""
        key = (p.source[0], p.destination[0], p.protocol, p.fragment_id)
        if p.fragment == 1:
            self.fragments[key] = p.src_port, p.dst_port, p.ts_ns
            return
        source_port, destination_port, ts_ns = self.fragments.get(key, (0, 0, p.ts_ns - 2 * FRAGMENT_TIMEOUT_NS))
        if abs(p.ts_ns - ts_ns) > FRAGMENT_TIMEOUT_NS:
            raise UnusableError("fragment_without_first")
        p.source, p.destination = (p.source[0], source_port), (p.destination[0], destination_port)

    def flow_of(self, p: Packet) -> Flow:
        key = p.protocol, frozenset((p.source, p.destination))
        seen = max(p.ts_ns, self.watermark - self.config.grace_ns)
        flow = self.flows.get(key)
        if flow is not None and seen - flow.last_ns > self.config.flow_cache.idle_timeout_ns:
            self.end(flow)
            flow = None
        if flow is None:
            flow = self.flows[key] = Flow(p, seen)
            self.counters["flows_new"] += 1
        flow.last_ns = max(flow.last_ns, seen)
        return flow

    def end(self, flow: Flow) -> None:
        if flow.service is None:
            self.counters["no_service"] += len(flow.early)
        for start, service in flow.services.items():
            self.service_packets[self.config.services[service].name] += len(flow.intervals[start])
        self.ended.append(flow)

    # The service of a flow

    def give(self, flow: Flow, p: Packet) -> None:
        if not flow.fixed and flow.open_ns is not None and self.interval_of(flow, p) > flow.open_ns:
            flow.fixed = True  # a record of it is written
        if not flow.fixed:
            self.decide(flow, p)
        if flow.service is not None:
            self.feed(flow, p)
        if not flow.fixed or flow.service is None:
            flow.early.append(p)
        if len(flow.early) >= FIRST_PACKETS:
            flow.fixed = True

    def decide(self, flow: Flow, p: Packet) -> None:
        name, by = self.told_name(flow, p)
        service = None if name is None else self.map.by_name(name)
        if service is not None:
            server = flow.other(p.source)
            self.assign(flow, p, service, by, name, server)
            flow.fixed = True
            return
        if RANK[flow.matched_by] >= RANK["dns"]:
            return
        a, b = flow.ends
        dns = {end: self.map.by_dns(flow.other(end)[0], end[0], p.ts_ns) for end in (a, b)}
        servers = [end for end in (a, b) if dns[end] is not None]
        if servers:
            server = servers[0] if len(servers) == 1 else flow.other(self.client_by_rule(flow, p))
            self.assign(flow, p, dns[server][0], "dns", dns[server][1], server)
        elif not flow.early:
            prefixes = {end: self.map.by_prefix(end[0]) for end in (a, b)}
            servers = [end for end in (a, b) if prefixes[end] is not None]
            narrow = [end for end in servers if not prefixes[end][1]]
            if len(servers) == 2 and len(narrow) != 1:
                server = flow.other(self.client_by_rule(flow, p))
            else:
                server = (narrow or servers or [None])[0]
            if server is not None:
                self.assign(flow, p, prefixes[server][0], "prefix", None, server)

    def client_by_rule(self, flow: Flow, p: Packet) -> End:
        """The client where the service does not tell: by network, by SYN, or who sent first."""
        a, b = flow.ends
        if self.map.is_client(a[0]) != self.map.is_client(b[0]):
            client = a if self.map.is_client(a[0]) else b
        elif flow.first.tcp_flags & SYN and flow.first.tcp_flags & ACK:
            client = flow.first.destination
        else:
            client = flow.first.source
        return self.client_by_mac(p, client)

    def client_by_mac(self, p: Packet, otherwise: End) -> End:
        """The modes of the original: the MAC address of the host, of its router, or of a mirrored router."""
        direction = self.config.direction
        if direction.mode == "service":
            return otherwise
        mac = bytes.fromhex(direction.mac.replace(":", ""))
        sent, received = p.macs[0] == mac, p.macs[1] == mac
        if sent == received:
            return otherwise
        return p.source if sent == (direction.mode == "host") else p.destination

    def assign(self, flow: Flow, p: Packet, service: int, by: str, name: str | None, server: End) -> None:
        client = self.client_by_mac(p, flow.other(server))
        again = flow.service is None or self.collected[flow.service] != self.collected[service] or flow.client != client
        flow.service, flow.matched_by, flow.name = service, by, name
        if again:  # the packets so far, in the intervals that are open now
            flow.client, flow.open_ns, flow.intervals, flow.services = client, None, {}, {}
            for early in flow.early:
                self.feed(flow, early)
        flow.services = dict.fromkeys(flow.services, service)

    def told_name(self, flow: Flow, p: Packet) -> tuple[str | None, str]:
        hello = flow.hello
        if hello.done or p.fragment == 2:
            return None, ""
        if p.protocol == TCP:
            return self.tls_name(hello, p), "sni"
        return self.quic_name(hello, p), "quic_sni"

    def tls_name(self, hello: Hello, p: Packet) -> str | None:  # noqa: PLR0911 (where the packet tells nothing)
        if p.tcp_flags & SYN:
            if not p.tcp_flags & ACK and (hello.side, hello.start_seq) != (p.source, p.seq + 1):  # another connection
                hello.side, hello.start_seq, hello.bytes_at, hello.cut = p.source, p.seq + 1, {}, False
            return None
        if not p.payload:
            return None
        if hello.start_seq is None and p.payload[:2] == b"\x16\x03" and p.payload[5:6] in (b"", b"\x01"):
            hello.side, hello.start_seq = p.source, p.seq
        if hello.side != p.source:
            return None
        offset = (p.seq - hello.start_seq) % 2**32
        if offset >= HELLO_LIMIT:
            return None
        if offset == 0 and not hello.bytes_at and not _begins_like_tls(p.payload):
            hello.side, hello.start_seq = None, None  # a proxy's CONNECT, STARTTLS: the hello may come later
            return None
        hello.cut |= len(p.payload) < p.payload_bytes
        before = len(hello.prefix())
        for i, byte in enumerate(p.payload):
            hello.bytes_at.setdefault(offset + i, byte)
        if len(hello.prefix()) == before:
            return None
        try:
            hello.done, name = stream_name(hello.prefix())
        except ValueError:
            hello.done, name = True, None
        hello.done |= hello.cut  # what the snap length cut never comes
        return name

    def quic_name(self, hello: Hello, p: Packet) -> str | None:
        if (
            not self.config.service_map.quic
            or len(p.payload) < max(1200, p.payload_bytes)
            or p.payload[0] & 0xC0 != 0xC0
        ):
            return None
        if int.from_bytes(p.payload[1:5]) not in QUIC_VERSIONS:
            return None
        hello.datagrams += 1
        found = initial_crypto(p.payload)
        name = None
        if found is not None:
            for i, byte in enumerate(found[1]):
                hello.bytes_at.setdefault(found[0] + i, byte)
            hello.done, name = hello_name(hello.prefix())
        hello.done |= hello.datagrams == 4
        return name

    # Intervals

    def start_of(self, flow: Flow, ts_ns: int) -> int:
        length = self.config.services[flow.service].interval_ns
        return self.origin + (ts_ns - self.origin) // length * length

    def interval_of(self, flow: Flow, p: Packet) -> int:
        """The packet's own interval, unless a later one of its flow is open, or the watermark has closed it."""
        oldest_not_closed = self.start_of(flow, self.watermark - self.config.grace_ns)
        starts = [self.start_of(flow, p.ts_ns), oldest_not_closed, *([] if flow.open_ns is None else [flow.open_ns])]
        return max(starts)

    def feed(self, flow: Flow, p: Packet) -> None:
        start = self.interval_of(flow, p)
        flow.fixed |= flow.open_ns is not None and start > flow.open_ns
        flow.open_ns = start
        direction = UP if p.source == flow.client else DOWN
        flow.intervals.setdefault(start, []).append(replace(p, direction=direction, interval_start_ns=start))
        flow.services[start] = flow.service

    # Results

    def reasons(self) -> dict[str, int]:
        """Packets by reason; `attributed` are those that a feature class saw."""
        attributed = sum(len(packets) for flow in self.ended for packets in flow.intervals.values())
        return {**self.counters, "attributed": attributed, "late_packets": self.late()}

    def late(self) -> int:
        return sum(start > p.ts_ns for flow in self.ended for start, packets in flow.intervals.items() for p in packets)

    def records(self, twins: Mapping[str, Twin]) -> list[dict[str, Any]]:
        """All records in the order in which they are written."""
        made = [record for flow in self.ended if flow.intervals for record in self.records_of(flow, twins)]
        return sorted(made, key=lambda record: (record["ts_end"], record["service"], record["flow_id"]))

    def records_of(self, flow: Flow, twins: Mapping[str, Twin]) -> list[dict[str, Any]]:
        service = self.config.services[flow.service]
        packets = [flow.intervals[start] for start in sorted(flow.intervals)]
        outputs = {
            item.name: twins[item.name](packets, item.params, service.interval_ns / 1e9) for item in service.collect
        }
        client, server = flow.client, flow.other(flow.client)
        head = {"schema": 1, "kind": "flow", "sensor": self.config.sensor}
        return [
            {
                **head,
                "ts_start": start / 1e9,
                "ts_end": (start + service.interval_ns) / 1e9,
                "service": service.name,
                "matched_by": flow.matched_by,
                "domain": flow.name,
                "protocol": "tcp" if flow.first.protocol == TCP else "udp",
                "client_ip": address_text(client[0]),
                "client_port": client[1],
                "server_ip": address_text(server[0]),
                "server_port": server[1],
                "flow_id": flow_id(flow.first.protocol, client, server, flow.first.ts_ns),
                "flow_start": flow.first.ts_ns / 1e9,
                "features": {name: rows[number] for name, rows in outputs.items()},
            }
            for number, start in enumerate(sorted(flow.intervals))
        ]


def address_text(address: int) -> str:
    if address >> 32 == 0xFFFF:
        return str(ipaddress.IPv4Address(address & 0xFFFFFFFF))
    return ipaddress.IPv6Address(address).compressed


def flow_id(protocol: int, client: End, server: End, start_ns: int) -> str:
    """16 hex digits of SHA-256 over protocol, both ends and the start, all big-endian."""
    ends = b"".join(address.to_bytes(16) + struct.pack(">H", port) for address, port in (client, server))
    return hashlib.sha256(bytes([protocol]) + ends + struct.pack(">q", start_ns)).hexdigest()[:16]


def packet_counters(intervals: Sequence[Sequence[Packet]], _parameters: Any, interval_s: float) -> list[dict[str, Any]]:
    """Twin of PacketCounters."""
    outputs = []
    for packets in intervals:
        output: dict[str, Any] = {}
        for side, direction in (("up", UP), ("down", DOWN)):
            output[f"packets_{side}"] = sum(p.direction == direction for p in packets)
            output[f"bytes_{side}"] = sum(p.ip_bytes for p in packets if p.direction == direction)
            output[f"kbps_{side}"] = output[f"bytes_{side}"] * 8 / 1000 / interval_s
            output[f"pps_{side}"] = output[f"packets_{side}"] / interval_s
        order = ("packets_up", "packets_down", "bytes_up", "bytes_down", "kbps_up", "kbps_down", "pps_up", "pps_down")
        outputs.append({name: output[name] for name in order})
    return outputs


def _begins_like_tls(payload: bytes) -> bool:
    return payload[:1] == b"\x16" and payload[1:2] in (b"", b"\x03") and payload[5:6] in (b"", b"\x01")
