"""The names in a trace: what DNS, TLS and QUIC tell, the traffic of each name, and the service that it gets.

A worker replays the trace, and its decisions are reported; what is read here beside it are the DNS messages, for the
names that belong to nobody.
"""

from __future__ import annotations

import bisect
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.frames import Block
from trafficrefinery.capture.sources import open_traces
from trafficrefinery.capture.traces.discovery import each_once
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.config import Config, parse_config
from trafficrefinery.config.model import ServiceMapSection
from trafficrefinery.config.units import NS_PER_UNIT
from trafficrefinery.engine.naming.dns import tells_names
from trafficrefinery.engine.partition import ALL_DNS, DNS_OVER_TLS
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.trace_clock import Times
from trafficrefinery.engine.worker import IntervalCounts, Settings, Worker
from trafficrefinery.errors import TraceError
from trafficrefinery.jit import kernel
from trafficrefinery.jit.memory import table
from trafficrefinery.packets.parser import PACKET, parse
from trafficrefinery.packets.tunnels import tunnel_table
from trafficrefinery.records.privacy import Anonymiser
from trafficrefinery.records.summary import Reading
from trafficrefinery.services import NameMatcher, PrefixTable, ServiceFilter
from trafficrefinery.services.dns.messages import DnsStreams, read_dns, resolve_answers
from trafficrefinery.services.sources import FLOW_SOURCES, MATCHED_BY, TCP
from trafficrefinery.system.progress import Progress, silent

_COLLECT = "PacketCounters"
_REST = "all other traffic"
_REST_FILTER = {"Prefixes": ["0.0.0.0/0", "::/0"], "DomainsString": ["names.are-read.invalid"]}
"""Flows that no service takes; that one has domains makes the worker read names (RFC 2606: nobody has this one)."""
_FLOW = ("a_hi", "a_lo", "b_hi", "b_lo", "a_port", "b_port", "protocol", "first_ns")
_MDNS_PORT = 5353
_ECH = "ech"
_LOOK_BACK = 256
"""Answers with an address that a flow is compared with."""
Address = tuple[int, int]


@dataclass
class TraceName:
    """A name and what the trace tells of it.

    Args:
        seen: how: `query`, `answer`, `alias` (of a name that was asked for), or as a source of `services.sources` says;
            and what it hides: `ech` (the public name of an ECH configuration, which no service is decided by), `doh`,
            `dot`, `doq` (a resolver that is asked over HTTPS, TLS or QUIC).
        addresses: that answers gave, as text; anonymised when the configuration says so.
        flows, packets, ip_bytes: of flows with this server name, or else to an address that answered to it.
        service: that its flows would get; None without a configuration, or when no service takes it.
        service_by: `name`, `dns` (another name of its address), or `prefix`.
    """

    name: str
    seen: set[str] = field(default_factory=set)
    queries: int = 0
    addresses: dict[str, None] = field(default_factory=dict)
    flows: int = 0
    packets: int = 0
    ip_bytes: int = 0
    service: str | None = None
    service_by: str | None = None


class _Answer(NamedTuple):
    ts_ns: int
    expires_ns: int
    client: Address
    names: tuple[str, ...]


def read_names(
    paths: Sequence[str | Path],
    config: Config | None = None,
    progress: Progress = silent,
    told: Callable[[Reading, dict[str, int]], None] = lambda *_: None,
) -> tuple[list[TraceName], list[TraceError]]:
    """All names in some traces, those without a service first, then by bytes; and where the traces are damaged.

    Args:
        told: called at the end with what the reader saw, and the counters of the worker.

    Raises:
        TraceError: a trace that cannot be read at all.
    """
    scan = _Scan(config)
    names, left_out = each_once([str(path) for path in paths])
    with TraceReader(names) if config is None else open_traces(config, names) as reader:
        for number, block in enumerate(reader):
            scan.take(block)
            if number % 16 == 0:
                progress("reading names", reader.position_bytes, reader.total_bytes, scan.frames)
        found = scan.result()
        damage, reading = list(reader.damage), Reading.of(reader, scan.times, left_out)
    told(reading, scan.counters)
    return found, damage


def _with_all_flows(config: Config | None) -> Config:
    """A configuration of which the worker makes records of all flows, and that decides as the given one does."""
    rest = {"Name": _REST, "Filter": _REST_FILTER, "Collect": [_COLLECT]}
    if config is None:
        return parse_config({"Services": [rest]})
    made: dict[str, Any] = config.to_dict()
    taken = {prefix for service in made["Services"] for prefix in service["Filter"].get("Prefixes", ())}
    rest["Filter"] = {
        **_REST_FILTER,
        "Prefixes": [prefix for prefix in _REST_FILTER["Prefixes"] if prefix not in taken],
    }
    made["Services"] = [{**service, "Collect": [_COLLECT], "FirstPackets": None} for service in made["Services"]]
    made["Services"].append(rest)
    return parse_config(made)


@dataclass
class _Flow:
    """A flow, and what the worker says of it: of its last record, where it changed its service."""

    service: int = -1
    matched_by: int = 0
    domain: str | None = None
    client_is_a: bool = False
    packets: int = 0
    ip_bytes: int = 0


class _Flows:
    """A `Receiver`: the flows of all records, in the order of their first ones."""

    def __init__(self) -> None:
        self.all: dict[tuple[int, ...], _Flow] = {}

    def rows(self, worker: int, profile: int, rows: NDArray[Any], names: Sequence[str]) -> None:  # noqa: ARG002
        """Receiver."""
        counts = rows[_COLLECT]
        packets = (counts["packets_up"] + counts["packets_down"]).tolist()
        ip_bytes = (counts["bytes_up"] + counts["bytes_down"]).tolist()
        keys = zip(*(rows["flow"][name].tolist() for name in _FLOW), strict=True)
        told = zip(
            *(rows["flow"][name].tolist() for name in ("service", "matched_by", "name_id", "client_is_a")), strict=True
        )
        for key, (service, by, name_id, client_is_a), count, size in zip(keys, told, packets, ip_bytes, strict=True):
            flow = self.all.setdefault(key, _Flow())
            flow.service, flow.matched_by, flow.client_is_a = service, by, bool(client_is_a)
            flow.domain = names[name_id] if name_id >= 0 else None
            flow.packets += count
            flow.ip_bytes += size

    def summary(self, worker: int, start_ns: int, summary: IntervalCounts) -> None:
        """Receiver."""

    def done_until(self, worker: int, until_ns: int) -> None:
        """Receiver."""

    def restart(self, worker: int) -> None:
        """Receiver."""


class _Scan:
    """One pass over traces."""

    def __init__(self, config: Config | None) -> None:
        self._services = _Services(config)
        self._anonymiser = Anonymiser.of(config.privacy.key_file, config.file) if config else None
        self._names: dict[str, TraceName] = {}
        self._by_own_name: set[str] = set()  # that told the service of a flow
        self._answers: dict[Address, list[_Answer]] = {}
        self._server_names: dict[tuple[int, ...], str] = {}
        self._dns_streams = DnsStreams()
        self._flows = _Flows()
        self._worker = Worker(Plan.of(_with_all_flows(config)), self._flows, Settings(asks_all_names=True))
        self._worker.on_server_name = self._take_server_name
        self._tunnels = tunnel_table(config.decapsulate if config else ())
        self._packet = table(1, PACKET)
        self.frames = 0

    def take(self, block: Block) -> None:
        """Read the names in a block."""
        self.frames += len(block.frames)
        number = 0
        while True:
            number = next_dns(block.buffer, block.frames, number, self._tunnels, self._packet)
            if number == 0:
                break
            self._take_dns(block)
        self._worker.process(block)

    def _take_server_name(self, header: Any, name: str, *, by: int, hides_another: bool) -> None:
        found = self._name(name, FLOW_SOURCES[by].seen)
        protocol = FLOW_SOURCES[by].protocol
        if DNS_OVER_TLS in (int(header["a_port"]), int(header["b_port"])):
            found.seen.add("dot" if protocol == TCP else "doq")
        elif self._worker.services.is_public_resolver(name):
            found.seen.add("doh")
        if hides_another:
            found.seen.add(_ECH)
            return  # its traffic is another name's
        key = (*(int(header[part]) for part in _FLOW[:6]), protocol, int(header["first_ns"]))
        self._server_names[key] = name

    def _take_dns(self, block: Block) -> None:
        r = self._packet[0]
        start = int(r["payload_offset"])
        payload = block.buffer[start : start + int(r["captured_payload"])].tobytes()
        ts_ns, ports = int(r["ts_ns"]), (int(r["src_port"]), int(r["dst_port"]))
        source, destination = (
            ((int(r[f"{end}_hi"])), int(r[f"{end}_lo"])) for end in ("ab" if r["source_is_a"] else "ba")
        )
        messages = [payload]
        if r["protocol"] == 6:
            key = (source, destination, *ports)
            messages = self._dns_streams.feed(key, int(r["seq"]), payload, bool(r["tcp_flags"] & 2))
        for whole in messages:
            message = read_dns(whole)
            if message is None:
                continue
            if not message.is_response:
                for question in message.questions:
                    self._name(question.name, "query").queries += 1
            elif _MDNS_PORT not in ports:
                for resolved in resolve_answers(message):
                    address = resolved.address_hi, resolved.address_lo
                    expires_ns = ts_ns + max(resolved.ttl_s * NS_PER_UNIT["s"], self._services.min_ttl_ns)
                    answer = _Answer(ts_ns, expires_ns, destination, resolved.names)
                    self._answers.setdefault(address, []).append(answer)
                    for name in resolved.names:
                        how = "answer" if name == resolved.names[0] else "alias"
                        self._name(name, how).addresses[_text(address)] = None

    def _name(self, name: str, how: str) -> TraceName:
        found = self._names.setdefault(name, TraceName(name))
        found.seen.add(how)
        return found

    @property
    def times(self) -> Times:
        """What the worker counted."""
        return self._worker.times

    @property
    def counters(self) -> dict[str, int]:
        """Of the worker that is observed."""
        return self._worker.counters

    def result(self) -> list[TraceName]:
        """All names, those without a service first."""
        self._worker.finish()
        for key, flow in self._flows.all.items():
            self._take_flow(key, flow)
        self._settle_names_without_flows()
        if self._anonymiser is not None:
            for found in self._names.values():
                found.addresses = dict.fromkeys(map(self._anonymiser.text, found.addresses))
        return sorted(self._names.values(), key=lambda name: (name.service is not None, -name.ip_bytes, name.name))

    def _take_flow(self, key: tuple[int, ...], flow: _Flow) -> None:
        """Count a flow to its server name, or else to the names of the answer that gave its server's address."""
        ends = (key[0], key[1]), (key[2], key[3])
        first_ns = key[-1]
        known = self._answer(*ends, first_ns) or self._answer(*ends[::-1], first_ns)
        server_name = self._server_names.get(key)
        names: tuple[str, ...] = (server_name,) if server_name else known.names if known else ()
        if not names and flow.domain is not None:
            names = (flow.domain,)
        for name in names:
            found = self._names.setdefault(name, TraceName(name))
            found.flows += 1
            found.packets += flow.packets
            found.ip_bytes += flow.ip_bytes
            self._settle(found, flow)
        if flow.domain is not None and flow.domain not in names and flow.domain in self._names:
            self._settle(self._names[flow.domain], flow)

    def _settle(self, found: TraceName, flow: _Flow) -> None:
        """The first flow tells a name's service; one that got its service by this very name tells more than others."""
        is_own = flow.domain == found.name
        if flow.service >= self._services.count or (found.service is not None and not is_own):
            return
        if found.name in self._by_own_name:
            return
        found.service = self._services.names[flow.service]
        found.service_by = "name" if is_own or flow.matched_by in FLOW_SOURCES else MATCHED_BY[flow.matched_by]
        if is_own:
            self._by_own_name.add(found.name)

    def _answer(self, client: Address, server: Address, ts_ns: int) -> _Answer | None:
        """The latest answer that gave the server's address: to the client, or else to anyone."""
        answers = self._answers.get(server, [])
        end = bisect.bisect_right(answers, ts_ns, key=lambda answer: answer.ts_ns)
        held = [answer for answer in answers[max(end - _LOOK_BACK, 0) : end] if answer.expires_ns >= ts_ns]
        own = [answer for answer in held if answer.client == client]
        return own[-1] if own else held[-1] if held else None

    def _settle_names_without_flows(self) -> None:
        """The service that a flow to them would get."""
        chains: dict[str, tuple[str, ...]] = {}
        ends: dict[str, list[Address]] = {}
        for address, answers in self._answers.items():
            for answer in answers:
                for name in answer.names:
                    chains[name] = answer.names
                    ends.setdefault(name, []).append(address)
        for name, found in self._names.items():
            if found.service is None and not found.flows and _ECH not in found.seen:
                found.service, found.service_by = self._services.of(name, chains.get(name, (name,)), ends.get(name, []))


class _Services:
    """The rules of a configuration, for names that no flow has."""

    def __init__(self, config: Config | None) -> None:
        filters = [
            ServiceFilter(s.name, s.filter.domains, s.filter.domains_regex, s.filter.prefixes)
            for s in (config.services if config else ())
        ]
        self.min_ttl_ns = (config.service_map if config else ServiceMapSection()).min_ttl_ns
        self.names = [service.name for service in filters]
        self.count = len(filters)
        self._matcher = NameMatcher(filters)
        self._prefixes = PrefixTable([service.prefixes for service in filters], self.names)

    def of(self, name: str, chain: Sequence[str], addresses: Sequence[Address]) -> tuple[str | None, str | None]:
        """The service that a DNS answer gives a flow: the first in the file of any of its names; else by prefix."""
        services = [service for one in chain if (service := self._matcher.match(one)) >= 0]
        if services:
            best = min(services)
            return self.names[best], "name" if self._matcher.match(name) == best else "dns"
        by_prefix = [service for address in addresses if (service := self._prefixes.find(*address)[0]) >= 0]
        return (self.names[by_prefix[0]], "prefix") if by_prefix else (None, None)


def _text(address: Address) -> str:
    whole = ipaddress.IPv6Address(address[0] << 64 | address[1])
    return str(whole.ipv4_mapped or whole)


@kernel
def next_dns(buffer: NDArray[np.uint8], frames: Any, first: int, tunnels: NDArray[np.int64], packet: Any) -> int:
    """Parse frames from number `first` on, up to one that may hold DNS, or multicast DNS: to or from a port of one.

    Args:
        packet: one PACKET, for the frame that was found.

    Returns:
        The number behind that frame; 0 when there is none.
    """
    r = packet[0]
    for number in range(first, len(frames)):
        if parse(buffer, frames[number], tunnels, 0, r) != 0 or r.fragment == 2:
            continue
        if (r.src_port == 53 or r.dst_port == 53) and tells_names(buffer, r, ALL_DNS):
            return number + 1
        if r.protocol == 17 and (r.src_port == 5353 or r.dst_port == 5353):
            return number + 1
    return 0
