"""Made traces: conversations of all kinds between a few hosts, in every wrapping, with everything that goes wrong.

A conversation is made from a seed; a trace is some conversations merged by time, then spoiled. The Hypothesis strategy
`traces` chooses conversations and their seeds, so that a failing trace shrinks to few conversations.
"""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dpkt
import numpy as np
import zstandard
from hypothesis import strategies as st

from support.naive.frames import Frame
from support.naive.tlsnames import quic_initial
from support.tls_hellos import client_hello, record
from support.wrappings import RARE
from trafficrefinery.capture.traces.reader import PcapWriter, TraceReader

SECOND = 1_000_000_000
_LARGE_BYTES = 1000
START_NS = 1_600_000_003 * SECOND
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
HOST_MAC, GATEWAY_MAC = bytes.fromhex("020000000001"), bytes.fromhex("0200000000fe")

CLIENTS = ("10.0.0.1", "10.0.0.2", "10.0.0.5", "2001:db8:1::1", "2001:db8:1::2")
SERVERS = ("192.0.2.1", "192.0.2.2", "192.0.2.5", "10.0.0.9", "2001:db8:2::1", "2001:db8:2::2", "2001:db8:2::3")
NAMES = (
    "www.video.example", "cdn1.video.example", "notvideo.example", "edge.streamy-cdn.test", "r3---sn.test",
    "other.test",
)  # fmt: skip


class Hosts(NamedTuple):
    client: str
    server: str


def packed(address: str) -> bytes:
    return bytes(map(int, address.split("."))) if "." in address else _packed6(address)


def _packed6(address: str) -> bytes:
    head, _, tail = address.partition("::")
    left, right = ([int(group, 16) for group in part.split(":") if group] for part in (head, tail))
    return struct.pack(">8H", *left, *[0] * (8 - len(left) - len(right)), *right)


# Layers


def ip(source: str, destination: str, protocol: int, body: bytes, **options: Any) -> bytes:
    made = ipv4 if "." in source else ipv6
    return made(packed(source), packed(destination), protocol, body, **options)


def ipv4(
    source: bytes, destination: bytes, protocol: int, body: bytes, *, ttl: int = 64, tos: int = 0, ident: int = 1,
    offset: int = 0, more: bool = False, options: bytes = b"",
) -> bytes:  # fmt: skip
    header_bytes = 20 + len(options)
    words = header_bytes // 4
    flags = (0x2000 if more else 0) | offset // 8
    return (
        struct.pack(
            ">BBHHHBBH4s4s",
            0x40 | words,
            tos,
            header_bytes + len(body),
            ident,
            flags,
            ttl,
            protocol,
            0,
            source,
            destination,
        )
        + options
        + body
    )


def ipv6(
    source: bytes, destination: bytes, protocol: int, body: bytes, *, ttl: int = 64, tos: int = 0, ident: int = 1,
    offset: int | None = None, more: bool = False, extensions: Sequence[int] = (),
) -> bytes:  # fmt: skip
    """`extensions` are numbers of headers that stand before a fragment header, which there is with an `offset`."""
    if offset is not None:
        body = struct.pack(">BBHI", protocol, 0, offset | more, ident) + body
        protocol = 44
    for kind in extensions:
        body = bytes([protocol, 1]) + bytes([1, 12]) + bytes(12) + body  # PadN
        protocol = kind
    return struct.pack(">IHBB16s16s", 6 << 28 | tos << 20, len(body), protocol, ttl, source, destination) + body


def udp(source_port: int, destination_port: int, payload: bytes) -> bytes:
    return struct.pack(">HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def tcp(
    source_port: int, destination_port: int, seq: int, ack: int, flags: int, payload: bytes = b"", *,
    window: int = 501, options: bytes = b"",
) -> bytes:  # fmt: skip
    options += bytes(-len(options) % 4)
    words = 5 + len(options) // 4
    return (
        struct.pack(
            ">HHIIBBHHH", source_port, destination_port, seq % 2**32, ack % 2**32, words << 4, flags, window, 0, 0
        )
        + options
        + payload
    )


def timestamps(tsval: int, tsecr: int) -> bytes:
    return b"\x01\x01\x08\x0a" + struct.pack(">II", tsval % 2**32, tsecr % 2**32)


def ethernet(packet: bytes, *, up: bool = True, kind: int | None = None) -> bytes:
    if kind is None:
        kind = 0x0800 if packet[:1] and packet[0] >> 4 == 4 else 0x86DD
    source, destination = (HOST_MAC, GATEWAY_MAC) if up else (GATEWAY_MAC, HOST_MAC)
    return destination + source + kind.to_bytes(2) + packet


def tagged(packet: bytes, *tags: int, up: bool = True) -> bytes:
    """Ethernet with VLAN tags; `tags` are their types."""
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    body = packet
    for tag, inner in zip(reversed(tags), [kind, *reversed(tags)], strict=False):
        assert tag
        body = b"\x00\x64" + inner.to_bytes(2) + body
    return ethernet(body, up=up, kind=tags[0])


WRAPPINGS: dict[str, tuple[int, Callable[[bytes, bool], bytes]]] = {
    "ethernet": (1, lambda packet, up: ethernet(packet, up=up)),
    "vlan": (1, lambda packet, up: tagged(packet, 0x8100, up=up)),
    "qinq": (1, lambda packet, up: tagged(packet, 0x88A8, 0x8100, up=up)),
    "mpls": (1, lambda packet, up: ethernet(b"\0\x01\x00\x40\0\x01\x01\x40" + packet, up=up, kind=0x8847)),
    "pseudowire": (1, lambda packet, up: ethernet(b"\0\x01\x01\x40" + bytes(4) + ethernet(packet, up=up), kind=0x8847)),
    "pppoe": (1, lambda packet, up: ethernet(
        b"\x11\0\0\x01" + (len(packet) + 2).to_bytes(2) + (b"\0\x21" if packet[0] >> 4 == 4 else b"\0\x57") + packet,
        up=up, kind=0x8864,
    )),
    "snap": (1, lambda packet, up: ethernet(
        b"\xaa\xaa\x03\0\0\0" + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet, up=up,
        kind=min(len(packet) + 8, 1500),
    )),
    "sll": (113, lambda packet, up: bytes(14) + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet),
    "sll2": (276, lambda packet, up: (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + bytes(18) + packet),
    "raw": (101, lambda packet, up: packet),
    "loopback": (0, lambda packet, up: (b"\x02" if packet[0] >> 4 == 4 else b"\x1e") + bytes(3) + packet),
    "openbsd": (108, lambda packet, up: bytes(3) + (b"\x02" if packet[0] >> 4 == 4 else b"\x18") + packet),
    "gre": (1, lambda packet, up: ethernet(_tunnel(
        47, b"\xb0\0" + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + bytes(12) + packet), up=up)),
    "vxlan": (1, lambda packet, up: ethernet(_tunnel(
        17, udp(5_000, 4789, b"\x08\0\0\0\0\0\x01\0" + ethernet(packet, up=up))), up=up)),
    "gtpu": (1, lambda packet, up: ethernet(_tunnel(
        17, udp(2152, 2152, b"\x36\xff" + (len(packet) + 8).to_bytes(2) + bytes(4) + b"\0\x01\0\x85" + b"\x01\0\0\0"
                + packet)), up=up)),
    **{name: (rare.link_type, rare.wrap) for name, rare in RARE.items()},
}  # fmt: skip
DECAPSULATE = tuple(dict.fromkeys(["gre", "vxlan", "gtpu", *(e for rare in RARE.values() for e in rare.decapsulate)]))
"""What has to be looked into so that each wrapping is read."""


def _tunnel(protocol: int, body: bytes) -> bytes:
    return ip("172.16.0.1", "172.16.0.2", protocol, body)


# Conversations: lists of (nanoseconds from the start, IP packet, whether it goes up)

Sent = list[tuple[int, bytes, bool]]


def hosts(r: random.Random) -> Hosts:
    client = r.choice(CLIENTS)
    return Hosts(client, r.choice([server for server in SERVERS if ("." in server) == ("." in client)]))


def ip_options(r: random.Random, address: str) -> dict[str, Any]:
    options: dict[str, Any] = {"ttl": r.choice([1, 64, 255]), "tos": r.choice([0, 0, 0xB8, 3])}
    if "." in address and r.random() < 0.1:
        options["options"] = b"\x94\x04\0\0"
    if "." not in address and r.random() < 0.2:
        options["extensions"] = r.sample([0, 43, 60], r.randint(1, 2))
    return options


def dns_message(r: random.Random, name: str, server: str) -> bytes:
    """A response: one address or several, straight or behind aliases, of which the last may not be resolved."""
    kind = dpkt.dns.DNS_A if "." in server else dpkt.dns.DNS_AAAA
    message = dpkt.dns.DNS(id=r.randrange(65_536), qr=1, rd=1, ra=1)
    message.qd = [dpkt.dns.DNS.Q(name=name, type=kind)]
    owner = name
    aliases = [alias for alias in ("a.alias.test", r.choice(NAMES)) if alias != name]
    for alias in aliases[: r.choice([0, 0, 1, 2])]:
        message.an.append(dpkt.dns.DNS.RR(name=owner, type=dpkt.dns.DNS_CNAME, ttl=r.choice([1, 900]), cname=alias))
        owner = alias
    others = [address for address in SERVERS if ("." in address) == ("." in server)]
    for address in [] if owner != name and r.random() < 0.3 else [server, *r.sample(others, r.choice([0, 0, 2]))]:
        message.an.append(
            dpkt.dns.DNS.RR(name=owner, type=kind, ttl=r.choice([0, 5, 60, 4_000]), rdata=packed(address))
        )
    return bytes(message)


def dns_query(response: bytes) -> bytes:
    """The query that a response with one question answers."""
    end = response.index(b"\0", 12) + 5
    return response[:2] + b"\x01\0\0\1" + bytes(6) + response[12:end]


def dns_lookup(r: random.Random) -> Sent:
    """A query and its answer, one without the other, or one that does not fit."""
    client, server = hosts(r)
    resolver = "10.0.0.53" if "." in client else "2001:db8::53"
    port, message = r.randrange(20_000, 60_000), dns_message(r, r.choice([*NAMES, "a.alias.test"]), server)
    query = dns_query(message)
    if r.random() < 0.1:
        query = b"\0\0" + query[2:]  # the answer repeats another id
    is_seen = r.random() < 0.9
    if r.random() < 0.7:
        sent = [(0, ip(client, resolver, 17, udp(port, 53, query)), True)]
        return [
            *sent[not is_seen :],
            (r.randrange(1, 9000000), ip(resolver, client, 17, udp(53, port, message)), False),
        ]
    stream, isn = len(message).to_bytes(2) + message, r.choice([9, 2**32 - 30])
    cut = r.choice([r.randrange(len(stream) + 1), len(stream)])
    pieces = [(isn + 1, stream[:cut]), (isn + 1 + cut, stream[cut:])]
    r.shuffle(pieces)
    segments = [(SYN | ACK, isn, b""), *[(ACK, seq, piece) for seq, piece in pieces if piece]]
    sent = [(0, ip(client, resolver, 6, tcp(port, 53, 5, 0, SYN)), True)]
    query = len(query).to_bytes(2) + query
    cut = r.choice([0, 2, len(query) // 2])
    if is_seen:
        sent += [
            (100, ip(client, resolver, 6, tcp(port, 53, 6 + at, isn + 1, ACK, piece)), True)
            for at, piece in ((0, query[:cut]), (cut, query[cut:]))
            if piece
        ]
    return sent + [
        (1_000 * i, ip(resolver, client, 6, tcp(53, port, seq, 6, flags, piece)), False)
        for i, (flags, seq, piece) in enumerate(segments, 1)
    ]


class Side:
    """One end of a TCP connection."""

    def __init__(self, address: str, port: int, isn: int) -> None:
        self.address, self.port, self.seq, self.clock = address, port, isn, isn + 77
        self.sent: list[tuple[int, bytes]] = []


def tcp_session(r: random.Random) -> Sent:
    """Handshake or not; a ClientHello in some segments or other bytes; data, loss, repetition, long pauses."""
    ends = hosts(r)
    isns = r.choice([(100, 5_000), (2**32 - 3, 2**32 - 800), (2**31 - 5, 1)])
    client = Side(ends.client, r.randrange(30_000, 30_004), isns[0])
    server = Side(ends.server, r.choice([443, 443, 80]), isns[1])
    options, with_timestamps = ip_options(r, ends.client), r.random() < 0.6
    sent: Sent = []
    now = 0

    def send(
        side: Side, other: Side, flags: int, payload: bytes = b"", seq: int | None = None, tail: bytes = b""
    ) -> None:
        nonlocal now
        now += r.choice([1_000, 300_000, 20_000_000, r.randrange(1, 2 * SECOND)])
        stamps = timestamps(side.clock + now // 1_000_000, other.clock) if with_timestamps else b""
        segment = tcp(
            side.port, other.port, side.seq if seq is None else seq, other.seq, flags, payload,
            window=r.choice([0, 501, 65_535]), options=tail + stamps,
        )  # fmt: skip
        if r.random() < 0.96:  # else the capture missed it
            sent.append((now, ip(side.address, other.address, 6, segment, **options), side is client))

    if r.random() < 0.75:
        send(client, server, SYN, tail=b"\x02\x04\x05\xb4\x03\x03" + r.choice([b"\x07", b"\x0f"]) + b"\x01")
        client.seq += 1
        send(server, client, SYN | ACK, tail=b"\x02\x04\x05\xb4\x04\x02\x03\x03\x07\x00")
        server.seq += 1
        send(client, server, ACK)
    for piece in opening(r):
        client.sent.append((client.seq, piece))
        client.seq += len(piece)
    order = list(client.sent)
    if r.random() < 0.3:
        r.shuffle(order)
    for seq, piece in order:
        send(client, server, ACK | PSH, piece, seq)
        if r.random() < 0.2:
            send(client, server, ACK | PSH, piece, seq)
    for _ in range(r.choice([0, 3, 10, 25])):
        side, other = (client, server) if r.random() < 0.3 else (server, client)
        action = r.random()
        if action < 0.1:
            now += r.choice([1, 9, 35]) * SECOND
        if action < 0.6:
            payload = told(r.randrange(256), r.choice([1, 100, 700]))
            side.sent.append((side.seq, payload))
            side.seq += len(payload)
            send(side, other, ACK, payload, side.sent[-1][0])
        elif action < 0.75 and side.sent:
            seq, payload = r.choice(side.sent[-4:])
            send(side, other, ACK, payload, seq)
        elif action < 0.8:
            sack = b"\x05\x0a" + struct.pack(">II", other.seq % 2**32, (other.seq + 5) % 2**32)
            send(side, other, ACK, tail=sack)
        else:
            send(side, other, r.choice([ACK, ACK, FIN | ACK, RST]))
    return sent


def told(number: int, payload_bytes: int) -> bytes:
    """What one end says: some TLS records, the last cut or damaged, or bytes that are none, as the number decides."""
    if number < 64:
        return bytes([number]) * payload_bytes
    size = (number * 7) % 90
    one = bytes([20 + number % 4, 3, number % 5 + (number == 77), 0, size]) + bytes(size)
    return (one * (payload_bytes // len(one) + 1))[:payload_bytes]


def opening(r: random.Random) -> list[bytes]:
    """What a client says first, in pieces."""
    if r.random() < 0.25:
        return r.choice([[], [b"GET / HTTP/1.1\r\n\r\n"], [b"\x16\x03"], [b"\x16\x03\x01\x00\x05\x02" + bytes(9)]])
    name = r.choice([*NAMES, None])
    hello = record(client_hello(name, padding_bytes=r.choice([0, 0, 900, 3_000])))
    cuts = sorted(r.sample(range(1, len(hello)), r.choice([0, 0, 1, 3])))
    return [hello[a:b] for a, b in zip([0, *cuts], [*cuts, len(hello)], strict=True)]


def udp_session(r: random.Random) -> Sent:
    client, server = hosts(r)
    port, now, sent = r.randrange(40_000, 40_003), 0, []
    for i in range(r.randrange(1, 25)):
        now += r.choice([1_000, 2_000_000, r.randrange(2 * SECOND), 35 * SECOND if r.random() < 0.1 else 1])
        up = i == 0 or r.random() < 0.4
        ports = (port, 3478) if up else (3478, port)
        ends = (client, server) if up else (server, client)
        sent.append((now, ip(*ends, 17, udp(*ports, bytes(r.choice([0, 5, 1_210]))), **ip_options(r, client)), up))
    return sent


def quic_session(r: random.Random) -> Sent:
    """Initials of a client, in one datagram or two, sometimes behind others, then short headers."""
    client, server = hosts(r)
    port, name = r.randrange(50_000, 50_003), r.choice([*NAMES, None])
    hello, connection_id = client_hello(name, padding_bytes=r.choice([0, 1_300])), r.randbytes(8)
    cut = r.choice([len(hello)] * 2 + [60]) if len(hello) < 1_100 else r.choice([700, 900])
    datagrams = [quic_initial(connection_id, 0, 0, hello[:cut])]
    if cut < len(hello):
        datagrams.append(quic_initial(connection_id, 1, cut, hello[cut:]))
    if r.random() < 0.3:
        r.shuffle(datagrams)
    if r.random() < 0.2:
        datagrams.insert(0, b"\x80" + bytes(1_250))
    sent, now = [(i * 1_000, ip(client, server, 17, udp(port, 443, d)), True) for i, d in enumerate(datagrams)], 9_000
    for _ in range(r.randrange(20)):
        now += r.choice([1_000, r.randrange(SECOND)])
        up = r.random() < 0.4
        ends, ports = ((client, server), (port, 443)) if up else ((server, client), (443, port))
        sent.append((now, ip(*ends, 17, udp(*ports, b"\x40" + bytes(r.choice([20, 1_230])))), up))
    return sent


def fragmented(r: random.Random) -> Sent:
    """A datagram or segment in fragments, in or out of order, whole or with one missing; also between equal ends."""
    client, server = hosts(r)
    if r.random() < 0.2:
        server = client
    protocol, ident = r.choice([6, 17]), r.randrange(3)
    ports = r.choice([(1_111, 2_222), (2_222, 1_111)])
    body = tcp(*ports, 7, 7, ACK, bytes(2_400)) if protocol == 6 else udp(*ports, bytes(2_400))
    pieces = [(at, body[at : at + 800]) for at in range(0, len(body), 800)]
    if r.random() < 0.3:
        r.shuffle(pieces)
    if r.random() < 0.3:
        pieces.pop(0)
    sent = []
    for i, (at, piece) in enumerate(pieces):
        packet = ip(client, server, protocol, piece, ident=ident, offset=at, more=at + 800 < len(body))
        sent.append((i * r.choice([1_000, 50_000_000]), packet, True))
    return sent


def junk(r: random.Random) -> Sent:
    """What is no TCP or UDP, or is broken."""
    client, server = hosts(r)
    whole = ip(client, server, 6, tcp(1, 2, 3, 4, ACK, bytes(30)))
    broken = bytearray(whole)
    broken[r.randrange(60 if "." in client else 70)] ^= 1 << r.randrange(8)
    candidates = [
        ip(client, server, 1 if "." in client else 58, b"\x08\0" + bytes(30)),  # ICMP
        ip(client, server, 47, b"\0\0" + r.choice([b"\0\0", b"\x88\x0b", b"\x08\0"]) + bytes(r.choice([0, 8, 24]))),
        ip(client, server, 6, tcp(1, 2, 3, 4, ACK)[: r.randrange(20)]),
        ip(client, server, 17, udp(1, 2, b"")[: r.randrange(8)]),
        ip(client, server, 17, udp(1, r.choice([2152, 4789]), r.randbytes(r.choice([7, 20, 60])))),
        bytes(broken),
        r.randbytes(1) + whole[1:],
        whole[:2] + b"\0\0" + whole[4:] if "." in client else whole[:4] + b"\0\0" + whole[6:],
    ]
    return [(i * 1_000, packet, True) for i, packet in enumerate(r.sample(candidates, 4))]


KINDS: dict[str, Callable[[random.Random], Sent]] = {
    "tcp": tcp_session, "udp": udp_session, "quic": quic_session, "dns": dns_lookup, "fragments": fragmented,
    "junk": junk,
}  # fmt: skip


class Conversation(NamedTuple):
    kind: str
    wrapping: str
    start_ms: int
    seed: int


class Spoiling(NamedTuple):
    """What happens to the trace as a whole."""

    snap_bytes: int = 65_535
    late: int = 0  # packets that the capture delivers later than they were
    seed: int = 0


def make_trace(conversations: Iterable[Conversation], spoiling: Spoiling = Spoiling()) -> list[Frame]:  # noqa: B008
    """The frames in the order of capture, which is that of time but for the late ones."""
    frames: list[tuple[Frame, bool]] = []
    for kind, wrapping, start_ms, seed in conversations:
        link_type, wrap = WRAPPINGS[wrapping]
        for later_ns, packet, up in KINDS[kind](random.Random(seed)):
            data = wrap(packet, up)
            if link_type == 1 and len(data) < 60 and seed % 2:
                data = data.ljust(60, b"\0")
            frames.append(
                (Frame(START_NS + start_ms * 1_000_000 + later_ns, data, len(data), link_type), kind == "dns")
            )
    frames.sort(key=lambda pair: pair[0].ts_ns)
    cut = [frame if spared else frame._replace(data=frame.data[: spoiling.snap_bytes]) for frame, spared in frames]
    r = random.Random(spoiling.seed)
    for _ in range(spoiling.late if cut else 0):
        at = r.randrange(len(cut))
        cut.insert(min(at + r.choice([1, 3, 30]), len(cut)), cut.pop(at))
    return cut


def conversations() -> st.SearchStrategy[list[Conversation]]:
    kinds = st.sampled_from(["tcp"] * 5 + ["quic", "dns", "dns", "udp", "fragments", "junk"])
    wrappings = st.sampled_from(["ethernet"] * 12 + list(WRAPPINGS))
    one = st.builds(Conversation, kinds, wrappings, st.integers(0, 12_000), st.integers(0, 2**32))
    return st.lists(one, min_size=1, max_size=14)


def traces() -> st.SearchStrategy[list[Frame]]:
    spoilings = st.builds(
        Spoiling, st.sampled_from([65_535] * 4 + [14, 30, 46, 54, 72, 96, 200]), st.sampled_from([0, 0, 3, 12]),
        st.integers(0, 999),
    )  # fmt: skip
    return st.builds(make_trace, conversations(), spoilings)


def seeded_trace(seed: int, size: int = 60, wrappings: Sequence[str] = tuple(WRAPPINGS)) -> list[Frame]:
    """A trace of `size` conversations."""
    r = random.Random(seed)
    kinds = ["tcp"] * 5 + ["quic", "dns", "dns", "udp", "fragments", "junk"]
    made = [
        Conversation(r.choice(kinds), r.choice(wrappings) if r.random() < 0.3 else wrappings[0], r.randrange(60_000), i)
        for i in (r.randrange(2**32) for _ in range(size))
    ]
    return make_trace(made, Spoiling(65_535, size // 4, seed))


# Files


def pcap_bytes(frames: Iterable[Frame], link_type: int = 1) -> bytes:
    """A pcap file with nanosecond times."""
    out = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, link_type)]
    for frame in frames:
        assert frame.link_type == link_type
        seconds, rest_ns = divmod(frame.ts_ns, SECOND)
        out += [struct.pack("<IIII", seconds, rest_ns, len(frame.data), frame.wire_bytes), frame.data]
    return b"".join(out)


def write_trace(path: Path, frames: Iterable[Frame], link_type: int = 1) -> Path:
    """Write a trace; compressed as the name of the file says."""
    data = pcap_bytes(frames, link_type)
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstandard.compress(data)
    path.write_bytes(data)
    return path


# Lives of TCP connections: segments of few numbers, so that they repeat, follow and contradict each other

LIFE_FLAGS = (SYN, SYN, SYN | ACK, SYN | ACK, ACK, ACK, ACK | PSH, FIN | ACK, RST, RST | ACK, 0)
LIFE_NUMBERS = ((1_000_000, 1_000_300, 2_000_000_000), (3_000_000_000, 3_000_064_000, 77))
"""Initial sequence numbers of the client and of the server, in the order of their connections."""


def life(r: random.Random, client: str = "198.51.100.9", server: str = "203.0.113.5") -> list[Frame]:
    """Some connections of one 5-tuple, one after the other: mostly as they should be, with packets lost, repeated and
    late, and some that do not belong."""
    sent: list[tuple[bool, int, int, int, bytes]] = []
    for _ in range(r.randint(1, 3)):
        up, down = map(r.choice, LIFE_NUMBERS)
        early = b"q" * r.choice([0, 0, 100])
        whole = [
            (True, SYN, up, 0, early), (False, SYN | ACK, down, up + 1 + len(early), b""),
            (True, ACK, up + 1 + len(early), down + 1, b""), (True, ACK, up + 1, down + 1, b"q" * 100),
            (False, ACK, down + 1, up + 101, b"a" * 500), (True, FIN | ACK, up + 101, down + 501, b""),
            (False, FIN | ACK, down + 501, up + 102, b""),
        ]  # fmt: skip
        sent += whole[: r.choice([1, 2, 3, 5, 5, 7])]
        if r.random() < 0.3:
            is_up = r.random() < 0.5
            sent.append(
                (is_up, r.choice([RST, RST | ACK]), up + 101 if is_up else r.choice([0, down + 501]), up + 1, b"")
            )
    for _ in range(r.randint(0, 3)):
        is_up = r.random() < 0.5
        mine, other = LIFE_NUMBERS if is_up else reversed(LIFE_NUMBERS)
        made = (is_up, r.choice(LIFE_FLAGS), r.choice(mine) + r.choice([0, 1]), r.choice(other) + 1, b"")
        sent.insert(r.randint(0, len(sent)), r.choice([made, r.choice(sent)]))
    only = r.choice([None, None, True, False])
    kept = [one for one in sent if only in (None, one[0]) and r.random() > 0.1] or sent[:1]
    frames, ts_ns = [], START_NS
    for is_up, flags, seq, ack, payload in kept:
        ts_ns += r.choice([1, 1, 10, 3_000]) * SECOND // 1000
        ends = (client, server) if is_up else (server, client)
        ports = (40_007, 8_443) if is_up else (8_443, 40_007)
        made = ethernet(ip(*ends, 6, tcp(*ports, seq, ack if flags & ACK else 0, flags, payload)), up=is_up)
        frames.append(Frame(ts_ns, made, len(made)))
    return frames


def thinned(trace: Path, path: Path, one_in: int) -> None:
    """A trace without one of so many of its large frames: the same sessions, and no copies of each other."""
    with TraceReader([trace]) as reader, PcapWriter(path) as writer:
        for block in reader:
            large = block.frames["wire_bytes"] > _LARGE_BYTES
            writer.write_frames(block, ~large | (np.cumsum(large) % one_in != 0))
