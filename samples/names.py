"""A resolver of its own: asks the one name server directly, over UDP with retries or over TCP."""

from __future__ import annotations

import random
import socket
import time

import dpkt

SERVER = "203.0.113.53"
TYPES = {4: dpkt.dns.DNS_A, 6: dpkt.dns.DNS_AAAA}


class Resolver:
    """Answers are kept for their time to live, as in a real host; both address families are asked for."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._known: dict[str, tuple[float, dict[int, list[str]]]] = {}

    def address(self, name: str, family: int, *, tcp: bool = False) -> str:
        """One of the addresses of a name; LookupError where there is none."""
        expires, answers = self._known.get(name, (0.0, {}))
        if time.monotonic() >= expires:
            ttls = []
            for version, qtype in TYPES.items():
                answers[version], ttl_s = self._ask(name, qtype, tcp=tcp)
                ttls.append(ttl_s)
            self._known[name] = (time.monotonic() + min(ttls), answers)
        if not answers[family]:
            raise LookupError(name)
        return self._chance.choice(answers[family])

    def _ask(self, name: str, qtype: int, *, tcp: bool) -> tuple[list[str], int]:
        query = dpkt.dns.DNS(id=self._chance.randrange(65536), qd=[dpkt.dns.DNS.Q(name=name, type=qtype)])
        reply = dpkt.dns.DNS((over_tcp if tcp else over_udp)(bytes(query)))
        answers = [answer for answer in reply.an if answer.type == qtype]
        family = socket.AF_INET if qtype == dpkt.dns.DNS_A else socket.AF_INET6
        found = [socket.inet_ntop(family, answer.rdata) for answer in answers]
        return found, min((answer.ttl for answer in reply.an), default=30)


def over_udp(query: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(1.0)
        asking.connect((SERVER, 53))
        for _ in range(5):
            asking.send(query)
            try:
                return asking.recv(4096)
            except TimeoutError:
                continue
    raise TimeoutError("no answer from the name server")


def over_tcp(query: bytes) -> bytes:
    with socket.create_connection((SERVER, 53), timeout=10) as asking:
        asking.sendall(len(query).to_bytes(2, "big") + query)
        with asking.makefile("rb") as answer:
            return answer.read(int.from_bytes(answer.read(2), "big"))
