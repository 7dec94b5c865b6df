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

from support.naive.connections import Connection, Side
from support.naive.frames import DOWN, TCP, UP, Frame, Packet, UnusableError, read_frame
from support.naive.search import LIMIT_BYTES, Search, may_be_initial
from support.naive.services import ServiceMap

FIRST_PACKETS, OF_HELLO_PACKETS = 16, 128
FRAGMENT_TIMEOUT_NS = 60_000_000_000
RANK = {None: 0, "prefix": 1, "dns": 2, "quic_sni": 3, "sni": 4}

Twin = Callable[[list[list[Packet]], Any, float], list[dict[str, Any]]]
"""From the intervals of a flow, the parameters of the class, and the length of an interval, to the outputs."""

End = tuple[int, int]


@dataclass
class Row:
    """What a record says; all but the packets is known when the interval is over."""

    start_ns: int
    packets: list[Packet] = field(default_factory=list)
    service: int = -1
    matched_by: str | None = None
    name: str | None = None
    end: str = "open"
    sides: str | None = None


@dataclass
class Stint:
    """Intervals that the same classes saw one after the other."""

    collected: Any
    client: End
    rows: list[Row] = field(default_factory=list)


@dataclass
class Flow:
    first: Packet
    last_ns: int
    connection: Connection
    service: int | None = None
    matched_by: str | None = None
    name: str | None = None
    client: End | None = None
    fixed: bool = False
    movable: list[Packet] | None = field(default_factory=list)  # since the last row; None: too many to change service
    search: Search = field(default_factory=Search)
    stints: list[Stint] = field(default_factory=list)
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
        if flow.open_ns is not None and self.interval_of(flow, p) > flow.open_ns:
            self.close(flow)
        how = flow.connection.note(p)
        self.give(flow, p)
        if how:
            flow.connection.how = how
        if 53 in (p.src_port, p.dst_port):
            self.map.read_dns(p, self.watermark)

    def fragment(self, p: Packet) -> None:
        """Later fragments have no ports: they are those of the first."""
        key = (p.source[0], p.destination[0], p.protocol, p.fragment_id)
        if p.fragment == 1:
            self.fragments[key] = p.src_port, p.dst_port, p.ts_ns
            return
        assert self.watermark is not None
        source_port, destination_port, ts_ns = self.fragments.get(key, (0, 0, self.watermark - 2 * FRAGMENT_TIMEOUT_NS))
        if self.watermark - ts_ns > FRAGMENT_TIMEOUT_NS:
            raise UnusableError("fragment_without_first")
        p.source, p.destination = (p.source[0], source_port), (p.destination[0], destination_port)

    def flow_of(self, p: Packet) -> Flow:
        key = p.protocol, frozenset((p.source, p.destination))
        seen = max(p.ts_ns, self.watermark - self.config.grace_ns)
        flow = self.flows.get(key)
        if flow is not None and seen - flow.last_ns > self.config.flow_cache.idle_timeout_ns:
            self.end(flow)
            flow = None
        connection = Connection({p.source: Side(), p.destination: Side()})
        if flow is not None and flow.connection.begins_another(p):
            flow.connection.how = flow.connection.how or "open"
            self.end(flow)
            connection = Connection(flow.connection.next())
            flow = None
        if flow is None:
            flow = self.flows[key] = Flow(p, seen, connection)
            self.counters["flows_new"] += 1
        flow.last_ns = max(flow.last_ns, seen)
        return flow

    def end(self, flow: Flow) -> None:
        if flow.open_ns is not None:
            self.close(flow)
        if flow.service is None:
            self.counters["no_service"] += len(flow.movable or ())
        self.ended.append(flow)

    def close(self, flow: Flow, *, in_between: bool = False) -> None:
        """An interval of the flow is over, or its service is another one: its record has the service of until now."""
        row = flow.stints[-1].rows[-1]
        row.service, row.matched_by, row.name = flow.service, flow.matched_by, flow.name
        idle_ns = flow.last_ns + self.config.flow_cache.idle_timeout_ns
        row.end = flow.connection.how or "open"
        until_ns = flow.open_ns + self.config.services[flow.service].interval_ns
        if flow.connection.how is None and idle_ns < until_ns and not in_between:
            row.end = flow.connection.how = "idle"
        seen = [flow.connection.sides[end].seen for end in (flow.client, flow.other(flow.client))]
        row.sides = {(True, False): "client", (False, True): "server", (True, True): "both"}[tuple(seen)]
        self.service_packets[self.config.services[flow.service].name] += len(row.packets)
        flow.fixed |= self.is_quiet(flow)
        flow.open_ns, flow.movable = None, []

    # The service of a flow

    @property
    def reads_names(self) -> bool:
        return any(s.filter.domains_string or s.filter.domains_regex for s in self.config.services)

    def no_name_comes(self, flow: Flow) -> bool:
        return flow.search.done or not self.reads_names

    def is_quiet(self, flow: Flow) -> bool:
        """Whether no name comes, or a name comes in a datagram like those of a QUIC client's hello alone."""
        over = flow.first.protocol != TCP and flow.search.passed_bytes >= LIMIT_BYTES
        return self.no_name_comes(flow) or (over and (flow.search.side is None or flow.movable is None))

    def wake(self, flow: Flow, p: Packet) -> None:
        if flow.first.protocol == TCP or self.no_name_comes(flow) or not may_be_initial(p) or p.fragment == 2:
            return
        if self.config.service_map.quic and flow.search.side in (None, p.source):
            flow.fixed = False
            if flow.open_ns is not None:
                flow.movable = None

    def give(self, flow: Flow, p: Packet) -> None:
        if flow.fixed:
            self.wake(flow, p)
        if not flow.fixed:
            self.decide(flow, p)
        if not flow.fixed and not self.reads_names:
            self.give_up(flow)
        if flow.service is not None:
            self.feed(flow, p)
        if flow.fixed or flow.movable is None:
            self.counters["no_service"] += flow.service is None
            flow.fixed |= self.is_quiet(flow)
            return
        flow.movable.append(p)
        has_begun = flow.search.side is not None and not self.no_name_comes(flow)
        if len(flow.movable) >= (OF_HELLO_PACKETS if has_begun else FIRST_PACKETS):
            self.give_up(flow)

    def give_up(self, flow: Flow) -> None:
        """What there is keeps its service; with no name to come, so does all that follows."""
        if flow.service is None:
            self.counters["no_service"] += len(flow.movable or ())
        flow.movable = None
        flow.fixed |= self.is_quiet(flow)

    def leave(self, flow: Flow) -> None:
        """The flow has no service any more; records that were written stay."""
        if flow.movable is None:
            if flow.open_ns is not None:
                self.close(flow, in_between=True)
            flow.movable = []
        elif flow.open_ns is not None:
            flow.stints[-1].rows.pop()
        flow.service = flow.matched_by = flow.name = flow.open_ns = None

    def decide(self, flow: Flow, p: Packet) -> None:
        name, by = self.told_name(flow, p)
        service = None if name is None else self.map.by_name(name)
        if service is not None:
            server = flow.other(p.source)
            self.assign(flow, p, service, by, name, server)
            flow.fixed, flow.movable = True, None
            return
        if name is not None:  # its own, of no service
            if flow.matched_by == "dns":
                self.leave(flow)
            if flow.matched_by is None:
                self.by_prefix(flow, p)
            self.give_up(flow)
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
        elif flow.first is p:
            self.by_prefix(flow, p)

    def by_prefix(self, flow: Flow, p: Packet) -> None:
        a, b = flow.ends
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
        """The client where the service does not tell: by ports, network, SYN, or who sent first."""
        a, b = flow.ends
        connection = flow.connection
        by_port = [one for one, other in ((a, b), (b, a)) if self.is_server_port(other[1]) and one[1] > other[1]]
        if by_port and all(side.isn is None for side in connection.sides.values()):
            client = by_port[0]
        elif self.map.is_client(a[0]) != self.map.is_client(b[0]):
            client = a if self.map.is_client(a[0]) else b
        else:
            client = connection.opener
        return self.client_by_mac(p, client)

    def is_server_port(self, port: int) -> bool:
        return port < 1024 or port in self.config.direction.service_ports

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
        if flow.service not in (None, service) and flow.movable is None:
            if flow.open_ns is not None:
                self.close(flow, in_between=True)
            flow.movable = []
        same = flow.service is not None and self.collected[flow.service] == self.collected[service]
        if same and (flow.client == client or flow.movable is None):
            flow.service, flow.matched_by, flow.name = service, by, name
            return
        if flow.open_ns is not None:
            flow.stints[-1].rows.pop()
        flow.service, flow.matched_by, flow.name = service, by, name
        flow.client, flow.open_ns = client, None
        flow.stints.append(Stint(self.collected[service], client))
        for early in flow.movable or ():
            self.feed(flow, early)
        if len(flow.stints[-1].rows) > 1:
            flow.movable = None  # some are in a record already

    def told_name(self, flow: Flow, p: Packet) -> tuple[str | None, str]:
        search = flow.search
        if search.done or not self.reads_names or p.fragment == 2:
            return None, ""
        if p.protocol == TCP:
            return search.tcp(p, flow.connection.sides[p.source].first or 0), "sni"
        search.done |= not self.config.service_map.quic
        return None if search.done else search.udp(p), "quic_sni"

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
        if flow.open_ns is not None and start > flow.open_ns:
            self.close(flow)
        if flow.open_ns is None:
            flow.stints[-1].rows.append(Row(start))
        flow.open_ns = start
        direction = UP if p.source == flow.client else DOWN
        flow.stints[-1].rows[-1].packets.append(replace(p, direction=direction, interval_start_ns=start))

    # Results

    def reasons(self) -> dict[str, int]:
        """Packets by reason; `attributed` are those that a feature class saw."""
        return {
            **self.counters,
            "attributed": sum(len(row.packets) for row in self.rows()),
            "late_packets": self.late(),
        }

    def rows(self) -> list[Row]:
        return [row for flow in self.ended for stint in flow.stints for row in stint.rows]

    def late(self) -> int:
        return sum(row.start_ns > p.ts_ns for row in self.rows() for p in row.packets)

    def records(self, twins: Mapping[str, Twin]) -> list[dict[str, Any]]:
        """All records in the order in which they are written."""
        made = [
            record for flow in self.ended for stint in flow.stints for record in self.records_of(flow, stint, twins)
        ]
        return sorted(made, key=lambda record: (record["ts_end"], record["service"], record["flow_id"]))

    def records_of(self, flow: Flow, stint: Stint, twins: Mapping[str, Twin]) -> list[dict[str, Any]]:
        if not stint.rows:
            return []
        collects = self.config.services[stint.rows[0].service]
        length_ns = collects.interval_ns
        packets = [row.packets for row in stint.rows]
        outputs = {item.name: twins[item.name](packets, item.params, length_ns / 1e9) for item in collects.collect}
        client, server = stint.client, flow.other(stint.client)
        return [
            {
                "schema": 2,
                "kind": "flow",
                "sensor": self.config.sensor,
                "ts_start": row.start_ns / 1e9,
                "ts_end": (row.start_ns + length_ns) / 1e9,
                "service": self.config.services[row.service].name,
                "matched_by": row.matched_by,
                "domain": row.name,
                "protocol": "tcp" if flow.first.protocol == TCP else "udp",
                "client_ip": address_text(client[0]),
                "client_port": client[1],
                "server_ip": address_text(server[0]),
                "server_port": server[1],
                "flow_id": flow_id(flow.first.protocol, client, server, flow.first.ts_ns),
                "flow_start": flow.first.ts_ns / 1e9,
                "end": row.end,
                "sides": row.sides,
                "features": {name: rows[number] for name, rows in outputs.items()},
            }
            for number, row in enumerate(stint.rows)
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
