"""Naive service map: rules tried one after the other, DNS answers in a dictionary."""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from typing import Any

import dpkt

from support.naive.frames import MAPPED, Packet

SECOND = 1_000_000_000
SYN, ACK = 2, 16


def network_of(prefix: Any) -> tuple[int, int]:
    """A prefix as (number, length) among 128-bit addresses."""
    network = ipaddress.ip_network(str(prefix), strict=False)
    base = int(network.network_address)
    return (base, network.prefixlen) if network.version == 6 else (base | MAPPED, network.prefixlen + 96)


def starts_message(payload: bytes) -> bool:
    """Whether a segment whose SYN was not seen begins with a standard message, or with its length alone."""
    announced, flags, questions = (int.from_bytes(payload[i : i + 2]) for i in (0, 4, 6))
    if len(payload) == 2:
        return announced >= 12
    return len(payload) >= 14 and announced >= 12 and flags & 0x7840 == 0 and questions <= 1


def in_network(address: int, network: tuple[int, int]) -> bool:
    base, length = network
    is_v4 = address >> 32 == 0xFFFF
    return address >> 128 - length == base >> 128 - length and not (length < 96 and is_v4)


class ServiceMap:
    """Names, DNS answers and prefixes of a configuration."""

    def __init__(self, config: Any) -> None:
        self.services = config.services
        self.client_networks = [network_of(prefix) for prefix in config.direction.client_networks]
        self.min_ttl_ns = config.service_map.min_ttl_ns
        self.grace_ns = config.grace_ns
        self.early: dict[Any, Any] = {}  # messages that wait for a query, or for an alias to their name
        self.learned: dict[tuple[int | None, int], tuple[int, str, int]] = {}  # (client or any, server)
        self.answered_ns = -(2**62)  # when a query was seen last with its answer
        self.asked: dict[Any, int] = {}  # query: until when an answer to it may come
        self.asking: dict[int, int] = {}  # addresses that queries came from or went to: until when that counts
        self.aliases: dict[tuple[int, str], tuple[int, str, int]] = {}  # (client, target): service, name, until
        self.streams: dict[Any, dict[int, int]] = defaultdict(dict)  # DNS over TCP: offset from the SYN, byte
        self.stream_starts: dict[Any, int] = {}
        self.messages_read: dict[Any, int] = defaultdict(int)  # bytes of a stream that were read

    def by_name(self, name: str) -> int | None:
        """The first service in the file that a name belongs to."""
        name = name.lower().rstrip(".")
        labels = name.split(".")
        for number, service in enumerate(self.services):
            for domain in service.filter.domains_string:
                wanted = domain.lower().strip(".").split(".")
                if len(wanted) == 1 and any(wanted[0] in label for label in labels):
                    return number
                if len(wanted) > 1 and labels[-len(wanted) :] == wanted:
                    return number
            if any(re.search(expression, name, re.IGNORECASE) for expression in service.filter.domains_regex):
                return number
        return None

    def by_prefix(self, address: int) -> tuple[int, bool] | None:
        """Service of the longest prefix, and whether that prefix is everything."""
        best: tuple[int, int] | None = None
        for number, service in enumerate(self.services):
            for prefix in service.filter.prefixes:
                network = network_of(prefix)
                if in_network(address, network) and (best is None or network[1] > best[0]):
                    best = network[1], number
        if best is None:
            return None
        return best[1], best[0] in (0, 96)

    def by_dns(self, client: int, server: int, ts_ns: int) -> tuple[int, str] | None:
        for whom in (client, None):
            known = self.learned.get((whom, server))
            if known is not None and ts_ns <= known[2]:
                return known[:2]
        return None

    def is_client(self, address: int) -> bool:
        return any(in_network(address, network) for network in self.client_networks)

    # DNS

    def read_dns(self, p: Packet, now_ns: int) -> None:
        """Learn from a packet to or from port 53; `now_ns` is the watermark."""
        if p.fragment == 2:
            return
        if p.protocol == 17:
            self.message(p.payload, p, now_ns)
            return
        key = (p.source, p.destination)
        if p.tcp_flags & SYN and self.stream_starts.get(key) != (p.seq + 1) % 2**32:  # else it came late, or again
            self.stream_starts[key] = (p.seq + 1) % 2**32
            self.streams.pop(key, None)
            self.messages_read.pop(key, None)
        elif key not in self.stream_starts and starts_message(p.payload):
            self.stream_starts[key] = p.seq
        if key in self.stream_starts:
            offset = (p.seq + (p.tcp_flags & SYN) // SYN - self.stream_starts[key]) % 2**32
            for i, byte in enumerate(p.payload):
                self.streams[key].setdefault(offset + i, byte)
            self.read_stream(key, p, now_ns)

    def read_stream(self, key: Any, p: Packet, now_ns: int) -> None:
        stream = self.streams[key]
        while True:
            start = end = self.messages_read[key]
            while end in stream:
                end += 1
            ready = bytes(stream[i] for i in range(start, end))
            count = 2 + int.from_bytes(ready[:2])
            if len(ready) < max(count, 14):
                return
            self.message(ready[2:count], p, now_ns)
            self.messages_read[key] += count

    def message(self, payload: bytes, p: Packet, now_ns: int) -> None:
        """Remember a query; learn from an answer to one, or from any while no query is seen."""
        try:
            message = dpkt.dns.DNS(payload)
        except (dpkt.Error, IndexError, ValueError):
            return
        if message.opcode:
            return
        question = (*(one.name.lower() for one in message.qd), message.qd[0].type) if message.qd else ()
        if not message.qr and p.dst_port == 53 and question:
            key = p.protocol, p.source, p.destination, message.id, question
            self.asked[key] = now_ns + 60 * SECOND
            for end in (p.source[0], p.destination[0]):
                self.asking[end] = now_ns + 3600 * SECOND
            self.retry(key, now_ns, True)
        if message.qr and p.src_port == 53:
            key = p.protocol, p.destination, p.source, message.id, question
            is_asked = self.asked.get(key, now_ns - 1) >= now_ns
            if is_asked:
                self.answered_ns = now_ns
            if not message.an:
                return
            if not is_asked and question:
                self.early[key] = now_ns + self.grace_ns, (message, p.destination[0], p.ts_ns, False)
            if now_ns < self.answered_ns + 3600 * SECOND and not is_asked:
                return
            if is_asked or all(self.asking.get(end[0], now_ns - 1) < now_ns for end in (p.source, p.destination)):
                self.learn(message, p.destination[0], (p.ts_ns, now_ns), is_asked)

    def retry(self, key: Any, now_ns: int, is_asked: bool) -> None:
        """Learn from a message that waited for this, if there is one."""
        until, waiting = self.early.pop(key, (now_ns - 1, None))
        if until >= now_ns and self.grace_ns > 0:
            self.answered_ns = now_ns if is_asked else self.answered_ns
            message, client, ts_ns, was_asked = waiting
            self.learn(message, client, (ts_ns, now_ns), is_asked or was_asked)

    def learn(self, message: Any, client: int, times_ns: tuple[int, int], is_asked: bool) -> None:
        ts_ns, now_ns = times_ns
        asked = [question.name.lower() for question in message.qd]
        every = [answer for answer in message.an if answer.type == dpkt.dns.DNS_CNAME]
        reached = set(asked)
        for _ in every:
            reached |= {answer.cname.lower() for answer in every if answer.name.lower() in reached}
        aliases = {answer.cname.lower(): answer for answer in every if answer.name.lower() in reached}
        says_something = False
        for answer in message.an:
            if answer.type == dpkt.dns.DNS_A:
                server = MAPPED | int.from_bytes(answer.rdata)
            elif answer.type == dpkt.dns.DNS_AAAA:
                server = int.from_bytes(answer.rdata)
            else:
                continue
            best = self.first_of(message, aliases, answer.name.lower(), client, now_ns)
            if best is None or answer.name.lower() not in reached:
                continue
            says_something = True
            service, name, ttl_s = best
            until = ts_ns + max(min(ttl_s, answer.ttl) * SECOND, self.min_ttl_ns)
            for whom in (client, None) if is_asked else (client,):
                before = self.learned.get((whom, server))
                end = max(until, before[2]) if before is not None and before[0] == service else until
                self.learned[whom, server] = service, name, end
        found = {}
        for target in aliases:  # what the target is asked for in a message of its own belongs to the alias as well
            if target not in (answer.name.lower() for answer in aliases.values()):
                best = self.first_of(message, aliases, target, client, now_ns)
                says_something |= best is not None
                if best is not None and best[1] != target:
                    found[client, target] = *best[:2], ts_ns + max(best[2] * SECOND, self.min_ttl_ns)
        self.aliases |= found
        if asked and not says_something:
            self.early[client, asked[0]] = now_ns + self.grace_ns, (message, client, ts_ns, is_asked)
        for key in found:
            self.retry(key, now_ns, False)

    def first_of(
        self, message: Any, aliases: dict[str, Any], owner: str, client: int, now_ns: int
    ) -> tuple[int, str, int] | None:
        """The first service in the file among the names that lead to one, the name nearest to the question, its TTL."""
        asked = {question.name.lower() for question in message.qd}
        names, ttl_s = [owner], 2**31 - 1
        while names[0] not in asked and names[0] in aliases:
            ttl_s = min(ttl_s, aliases[names[0]].ttl)
            names.insert(0, aliases[names[0]].name.lower())
        found = [(service, name) for name in names if (service := self.by_name(name)) is not None]
        before = self.aliases.get((client, names[0])) if names[0] in asked else None
        if before is not None and before[2] >= now_ns:
            found.insert(0, before[:2])
        if not found:
            return None
        service = min(number for number, _ in found)
        return service, next(name for number, name in found if number == service), ttl_s
