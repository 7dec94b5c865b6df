"""The lab's name server, and the resolver of its clients."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

import dpkt

from .network import Addresses

DNS_PORT = 53
_TTL_S = 60
_TRIES, _WAIT_S = 6, 1.0
_TYPES = {4: dpkt.dns.DNS_A, 6: dpkt.dns.DNS_AAAA}
_NO_SUCH_NAME = 3


class Zone(NamedTuple):
    """What the name server knows: addresses of names, and names for names."""

    addresses: Mapping[str, list[Addresses]]
    aliases: Mapping[str, str]


def answer(zone: Zone, query: bytes) -> bytes:
    """The answer to a query for one name, with the whole chain of aliases."""
    asked = dpkt.dns.DNS(query)
    (question,) = asked.qd
    found, name = [], question.name.lower()
    while name in zone.aliases:
        found.append(dpkt.dns.DNS.RR(name=name, type=dpkt.dns.DNS_CNAME, ttl=_TTL_S, cname=zone.aliases[name]))
        name = zone.aliases[name]
    for each in zone.addresses.get(name, []):
        if question.type == dpkt.dns.DNS_A:
            rdata = {"ip": socket.inet_aton(each.ipv4)}
        elif question.type == dpkt.dns.DNS_AAAA:
            rdata = {"ip6": socket.inet_pton(socket.AF_INET6, each.ipv6)}
        else:
            continue
        found.append(dpkt.dns.DNS.RR(name=name, type=question.type, ttl=_TTL_S, **rdata))
    reply = dpkt.dns.DNS(id=asked.id, qr=1, rd=1, ra=1, qd=asked.qd, an=found)
    reply.rcode = 0 if name in zone.addresses else _NO_SUCH_NAME
    return bytes(reply)


class _Server(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(answer(self._zone, data), addr)


async def serve_dns(address: str, zone: Zone) -> None:
    """Answer on an address, by UDP and TCP."""

    async def answer_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            writer.write(_with_length(answer(zone, await _read_message(reader))))
            await writer.drain()
        writer.close()

    await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Server(zone), (address, DNS_PORT))
    await asyncio.start_server(answer_stream, address, DNS_PORT)


def _with_length(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


class _Query(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002 (the socket is connected)
        if not self.answer.done():
            self.answer.set_result(data)


class Resolver:
    """Asks the name server; answers are kept for their time to live, as in a real host, which asks for both families.

    Args:
        chance: chooses one of several addresses.
        tcp: by TCP in place of UDP.
    """

    def __init__(self, server: str, chance: random.Random, *, tcp: bool = False) -> None:
        self._server, self._chance, self._tcp = server, chance, tcp
        self._known: dict[str, tuple[float, dict[int, list[str]]]] = {}

    async def address(self, name: str, family: int) -> str:
        """One of the addresses of a name.

        Raises:
            LookupError: it has none.
        """
        loop = asyncio.get_running_loop()
        expires_s, known = self._known.get(name, (0.0, {}))
        if loop.time() >= expires_s:
            answers = await asyncio.gather(*(self._ask(name, kind) for kind in _TYPES.values()))
            known = dict(zip(_TYPES, answers, strict=True))
            self._known[name] = loop.time() + _TTL_S, known
        if not known[family]:
            raise LookupError(f"{name}: has no address")
        return self._chance.choice(known[family])

    async def _ask(self, name: str, kind: int) -> list[str]:
        query = dpkt.dns.DNS(id=self._chance.randrange(1 << 16), qd=[dpkt.dns.DNS.Q(name=name, type=kind)])
        reply = await (self._ask_stream if self._tcp else self._ask_datagram)(bytes(query))
        if reply is None:
            raise LookupError(f"{name}: the name server does not answer")
        return _addresses(reply, kind)

    async def _ask_stream(self, query: bytes) -> bytes | None:
        reader, writer = await asyncio.open_connection(self._server, DNS_PORT)
        writer.write(_with_length(query))
        try:
            return await _read_message(reader)
        except asyncio.IncompleteReadError:
            return None
        finally:
            writer.close()

    async def _ask_datagram(self, query: bytes) -> bytes | None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(_Query, remote_addr=(self._server, DNS_PORT))
        try:
            for _ in range(_TRIES):
                transport.sendto(query)
                done, _ = await asyncio.wait([protocol.answer], timeout=_WAIT_S)
                if done:
                    return protocol.answer.result()
        finally:
            transport.close()
        return None


def _addresses(reply: bytes, kind: int) -> list[str]:
    family = socket.AF_INET if kind == dpkt.dns.DNS_A else socket.AF_INET6
    return [socket.inet_ntop(family, each.rdata) for each in dpkt.dns.DNS(reply).an if each.type == kind]
