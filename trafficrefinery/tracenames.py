"""The names in a trace: what DNS, TLS and QUIC tell, the traffic of each name, and the service that it would get."""

from __future__ import annotations

import bisect
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.file import TraceReader
from trafficrefinery.capture.frames import Block
from trafficrefinery.config import Config
from trafficrefinery.errors import TraceError
from trafficrefinery.flowcache import (
    FIRST_PACKETS,
    HEADER,
    NAME_DONE,
    USED,
    Table,
    find,
    flow_hash,
    insert,
    new_index,
    new_seed,
    remove,
    set_key,
    take,
)
from trafficrefinery.jit import address_of, borrowed, helper, kernel
from trafficrefinery.kernel import (
    ALL_DNS,
    DECAPSULATE,
    DNS,
    END,
    FRAGMENT,
    FRAGMENT_SETS,
    FRAGMENT_WAYS,
    FRAME_POS,
    GRACE,
    IDLE,
    NAME,
    PARTITION,
    TLS_AND_QUIC,
    WATERMARK,
    know_fragment,
    tells_names,
    wants_name,
)
from trafficrefinery.memory import Reserved, table
from trafficrefinery.names import Status
from trafficrefinery.names.dns import DnsStreams, read_dns, resolve_answers
from trafficrefinery.privacy import Anonymiser
from trafficrefinery.servicemap import FlowNames, NameMatcher, PrefixTable, ServiceFilter
from trafficrefinery.walkthrough import Progress
from trafficrefinery.wire import DECAPSULATIONS, PACKET, parse

_MAX_FLOWS = 1 << 22
_NS_PER_S = 1_000_000_000
_MIN_TTL_NS, _GRACE_NS, _IDLE_NS = 600 * _NS_PER_S, _NS_PER_S, 600 * _NS_PER_S
"""As a configuration has them when it does not say otherwise."""
_TOTALS = np.dtype([("packets", "i8"), ("ip_bytes", "i8")])
_MDNS_PORT = 5353
_LOOK_BACK = 256
"""Answers with an address that a flow is compared with."""
Address = tuple[int, int]


@dataclass
class TraceName:
    """A name and what the trace tells of it.

    Args:
        seen: how: `query`, `answer`, `alias` (of a name that was asked for), `sni`, `quic`.
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
    progress: Progress = lambda *_: None,
) -> tuple[list[TraceName], list[TraceError]]:
    """All names in some traces, those without a service first, then by bytes; and where the traces are damaged.

    Args:
        progress: see `walkthrough.Progress`.

    Raises:
        TraceError: a trace that cannot be read at all.
    """
    scan = _Scan(config)
    with TraceReader(paths) as reader:
        for number, block in enumerate(reader):
            scan.take(block)
            if number % 16 == 0:
                progress("reading names", scan.frames, reader.position_bytes, reader.total_bytes)
        damage = list(reader.damage)
    return scan.result(), damage


class _Scan:
    """One pass over traces: flows are counted, and messages with names are read, as a worker would."""

    def __init__(self, config: Config | None) -> None:
        self._services = _Services(config)
        self._anonymiser = Anonymiser.of(config.privacy.key_file, config.file) if config else None
        self._names: dict[str, TraceName] = {}
        self._answers: dict[Address, list[_Answer]] = {}
        self._server_names: dict[int, tuple[str, str]] = {}  # slot of a flow: name, and how it was seen
        self._dns_streams, self._flow_names = DnsStreams(), FlowNames()
        self.frames = 0
        self._partition = table(1, PARTITION)
        self._p = self._partition[0]
        self._headers = Table(_MAX_FLOWS, HEADER, self._p["slots"])
        self._index = new_index(_MAX_FLOWS)
        self._fragments = table(FRAGMENT_SETS * FRAGMENT_WAYS, FRAGMENT)
        self._totals = Reserved(_MAX_FLOWS, _TOTALS)
        self._packet = table(1, PACKET)
        self._p["seed"] = new_seed()
        self._p["fragments"], self._p["fragments_count"] = address_of(self._fragments), len(self._fragments)
        control = self._p["control"]
        control[WATERMARK] = -(1 << 62)
        control[GRACE] = config.grace_ns if config else _GRACE_NS
        control[IDLE] = config.flow_cache.idle_timeout_ns if config else _IDLE_NS
        control[DECAPSULATE] = sum(DECAPSULATIONS[name] for name in (config.decapsulate if config else ()))

    def take(self, block: Block) -> None:
        flows = self._index.array, self._headers.memory.array
        self.frames += len(block.frames)
        while True:
            event = scan_frames(self._partition, flows, self._totals.array, self._packet, tuple(block))
            if event == END:
                return
            if event & DNS:
                self._take_dns(block)
            if event & NAME:
                self._take_hello(block)

    def _payload(self, block: Block) -> bytes:
        r = self._packet[0]
        start = int(r["payload_offset"])
        return block.buffer[start : start + int(r["captured_payload"])].tobytes()

    def _take_dns(self, block: Block) -> None:
        r = self._packet[0]
        ts_ns, ports = int(r["ts_ns"]), (int(r["src_port"]), int(r["dst_port"]))
        source, destination = (
            ((int(r[f"{end}_hi"])), int(r[f"{end}_lo"])) for end in ("ab" if r["source_is_a"] else "ba")
        )
        messages = [self._payload(block)]
        if r["protocol"] == 6:
            key = (source, destination, *ports)
            messages = self._dns_streams.feed(key, int(r["seq"]), messages[0], bool(r["tcp_flags"] & 2))
        for payload in messages:
            message = read_dns(payload)
            if message is None:
                continue
            if not message.is_response:
                for question in message.questions:
                    self._name(question.name, "query").queries += 1
            elif _MDNS_PORT not in ports:
                for resolved in resolve_answers(message):
                    address = resolved.address_hi, resolved.address_lo
                    expires_ns = ts_ns + max(resolved.ttl_s * _NS_PER_S, self._services.min_ttl_ns)
                    answer = _Answer(ts_ns, expires_ns, destination, resolved.names)
                    self._answers.setdefault(address, []).append(answer)
                    for name in resolved.names:
                        how = "answer" if name == resolved.names[0] else "alias"
                        self._name(name, how).addresses[_text(address)] = None

    def _take_hello(self, block: Block) -> None:
        r = self._packet[0]
        slot = int(r["slot"])
        header = self._headers.memory.array[slot]
        payload = self._payload(block)
        side = 1 if r["source_is_a"] else 2
        if r["protocol"] == 17:
            how = "quic"
            status, name = self._flow_names.quic(slot, payload, int(r["ts_ns"]))
        else:
            how = "sni"
            isn = int(header["isn"]) if int(header["isn_side"]) == side else None
            truncated = int(r["captured_payload"]) < int(r["payload_bytes"])
            status, name = self._flow_names.tcp((slot, isn), int(r["seq"]), payload, isn, truncated)
        header["hello_side"] = side if status is Status.NEED_MORE else 0
        if status is not Status.NEED_MORE:
            header["marks"] |= NAME_DONE
        if name:
            self._name(name, how)
            self._server_names[slot] = name, how

    def _name(self, name: str, how: str) -> TraceName:
        found = self._names.setdefault(name, TraceName(name))
        found.seen.add(how)
        return found

    def result(self) -> list[TraceName]:
        flows = np.asarray(self._headers.memory.array[: self._headers.in_use])
        columns = [flows[name].tolist() for name in ("a_hi", "a_lo", "b_hi", "b_lo", "first_ns")]
        totals = np.asarray(self._totals.array[: self._headers.in_use]).tolist()
        for slot, (a_hi, a_lo, b_hi, b_lo, first_ns) in enumerate(zip(*columns, strict=True)):
            ends = (a_hi, a_lo), (b_hi, b_lo)
            known = self._answer(*ends, first_ns) or self._answer(*ends[::-1], first_ns)
            sni = self._server_names.get(slot)
            names = (sni[0],) if sni else known.names if known else ()
            for name in names:
                found = self._names[name]
                found.flows += 1
                found.packets += totals[slot][0]
                found.ip_bytes += totals[slot][1]
                if found.service is None:
                    chain = (name, *(known.names if known else ()))
                    found.service, found.service_by = self._services.of(chain, ends)
        self._settle_names_without_flows()
        if self._anonymiser is not None:
            for found in self._names.values():
                found.addresses = dict.fromkeys(map(self._anonymiser.text, found.addresses))
        return sorted(self._names.values(), key=lambda name: (name.service is not None, -name.ip_bytes, name.name))

    def _answer(self, client: Address, server: Address, ts_ns: int) -> _Answer | None:
        """The latest answer that gave the server's address: to the client, or else to anyone."""
        answers = self._answers.get(server, [])
        end = bisect.bisect_right(answers, ts_ns, key=lambda answer: answer.ts_ns)
        held = [answer for answer in answers[max(end - _LOOK_BACK, 0) : end] if answer.expires_ns >= ts_ns]
        own = [answer for answer in held if answer.client == client]
        return own[-1] if own else held[-1] if held else None

    def _settle_names_without_flows(self) -> None:
        chains: dict[str, tuple[str, ...]] = {}
        ends: dict[str, list[Address]] = {}
        for address, answers in self._answers.items():
            for answer in answers:
                for name in answer.names:
                    chains[name] = answer.names
                    ends.setdefault(name, []).append(address)
        for name, found in self._names.items():
            if found.service is None:
                found.service, found.service_by = self._services.of((name, *chains.get(name, ())), ends.get(name, []))


class _Services:
    """The rules of a configuration: which service a name or an address gets."""

    def __init__(self, config: Config | None) -> None:
        filters = [
            ServiceFilter(s.name, s.filter.domains_string, s.filter.domains_regex, s.filter.prefixes)
            for s in (config.services if config else ())
        ]
        self.min_ttl_ns = config.service_map.min_ttl_ns if config else _MIN_TTL_NS
        self._names = [service.name for service in filters]
        self._matcher = NameMatcher(filters)
        self._prefixes = PrefixTable([service.prefixes for service in filters], self._names)

    def of(self, chain: Sequence[str], addresses: Sequence[Address]) -> tuple[str | None, str | None]:
        """The service of a flow with a name, other names of its address, and addresses; and by what it gets it."""
        by_name = [self._matcher.match(name) for name in chain]
        if by_name[0] >= 0:
            return self._names[by_name[0]], "name"
        others = [service for service in by_name if service >= 0]
        if others:
            return self._names[min(others)], "dns"
        by_prefix = [service for address in addresses if (service := self._prefixes.find(*address)[0]) >= 0]
        return (self._names[by_prefix[0]], "prefix") if by_prefix else (None, None)


def _text(address: Address) -> str:
    whole = ipaddress.IPv6Address(address[0] << 64 | address[1])
    return str(whole.ipv4_mapped or whole)


@helper
def begin_flow(h: Any, r: Any) -> None:  # records, as below
    """As `kernel.start_flow`, for what is needed here."""
    set_key(h, r)
    h.first_ns = r.ts_ns
    h.last_ns = r.ts_ns
    h.marks = USED
    h.packets = 0
    h.isn_side = 0
    h.hello_side = 0


@helper
def tells_dns(buffer: NDArray[np.uint8], r: Any) -> bool:
    """Whether a packet may hold DNS, or multicast DNS: to or from the port of one."""
    if r.src_port == 53 or r.dst_port == 53:
        return bool(tells_names(buffer, r, ALL_DNS))
    return bool(r.protocol == 17 and (r.src_port == 5353 or r.dst_port == 5353) and r.fragment != 2)


@kernel
def scan_frames(partition: Any, flows: Any, totals: Any, packet: Any, block: Any) -> int:
    """Count frames to their flows; stop behind one that tells a name.

    Args:
        partition: a PARTITION with settings, slots and fragments.
        flows: index and headers, see `flowcache`.
        packet: one PACKET, the one that tells a name.
        block: buffer and frames.

    Returns:
        END at the end of the block, else DNS and NAME as bits.
    """
    p = borrowed(partition)[0]
    index, headers = flows
    buffer, frames = block
    c = p.control
    r = packet[0]
    while c[FRAME_POS] < len(frames):
        frame = frames[c[FRAME_POS]]
        c[FRAME_POS] += 1
        c[WATERMARK] = max(c[WATERMARK], frame.ts_ns)
        if parse(buffer, frame, c[DECAPSULATE], 0, r) != 0 or (r.fragment != 0 and not know_fragment(p, r)):
            continue
        event = DNS if tells_dns(buffer, r) else END
        r.hash = flow_hash(r, p.seed)
        seen = max(r.ts_ns, c[WATERMARK] - c[GRACE])
        slot = find(index, headers, r)
        if slot >= 0 and seen - headers[slot].last_ns > c[IDLE]:
            remove(index, r.hash, slot)
            slot = -1
        if slot < 0:
            slot = take(p.slots)
            if slot < 0:
                continue
            insert(index, r.hash, slot)
            begin_flow(headers[slot], r)
        h = headers[slot]
        h.last_ns = max(h.last_ns, seen)
        totals[slot].packets += 1
        totals[slot].ip_bytes += np.int64(r.ip_bytes)
        if h.packets < FIRST_PACKETS:
            h.packets += 1
            if h.marks & NAME_DONE == 0 and wants_name(h, r, buffer, TLS_AND_QUIC):
                r.slot = slot
                event |= NAME
        if event != END:
            return event
    c[FRAME_POS] = 0
    return END
