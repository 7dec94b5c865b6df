"""What the laws of accounting say of a run."""

from __future__ import annotations

from support.naive.frames import Frame
from support.traces import (
    ACK,
    START_NS,
    dns_message,
    ethernet,
    ip,
    tcp,
    udp,
)  # fmt: skip
from trafficrefinery.packets.parser import REASONS


def accounted(counters):
    return sum(counters[reason] for reason in REASONS) + counters["waiting_for_service"]


def packets_of(
    kinds: str, *, client: str = "10.0.0.77", server: str = "203.0.113.9", every_ns: int = 1_000_000
) -> list[Frame]:
    """A TCP flow from a string: u and d are data up and down, n is its named ClientHello, D the DNS answer for it."""
    import random

    from support.tls_hellos import client_hello, record

    hello = record(client_hello("www.video.example"))
    frames, seq = [], {"u": 1_000, "d": 5_000}
    for i, kind in enumerate(kinds):
        if kind == "D":
            message = dns_message(random.Random(3), "www.video.example", server)
            packet = ip("10.0.0.53", client, 17, udp(53, 4_000, message))
        else:
            side = "d" if kind == "d" else "u"
            payload = hello if kind == "n" else b"x" * 10
            ports = (4_001, 443) if side == "u" else (443, 4_001)
            ends = (client, server) if side == "u" else (server, client)
            packet = ip(*ends, 6, tcp(*ports, seq[side], 0, ACK, payload))
            seq[side] += len(payload)
        data = ethernet(packet)
        frames.append(Frame(START_NS + i * every_ns, data, len(data)))
    return frames
