"""What each kind of DNS packet costs a worker: floods of one kind, replayed from memory without a budget.

python benchmarks/dns_cost.py             CPU time a packet, beside packets that are no DNS
python benchmarks/dns_cost.py --live      as in the daemon: packet times 10 µs apart, the budget of its DNS process
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from packet_path import Receiver

from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.config import parse_config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings, Worker

PACKETS, BLOCK = 20_000, 2_000
A, CNAME = 1, 5
CONFIG = Path(__file__).resolve().parent.parent / "configs" / "video.json"
UDP, TCP = 17, 6
random_of = random.Random(7)


def wire_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def record(owner: bytes, rtype: int, data: bytes) -> bytes:
    return owner + struct.pack(">HHIH", rtype, 1, 300, len(data)) + data


def response(ident: int, name: str, records: list[bytes]) -> bytes:
    return struct.pack(">6H", ident, 0x8180, 1, len(records), 0, 0) + wire_name(name) + b"\0\1\0\1" + b"".join(records)


def query(ident: int, name: str) -> bytes:
    return struct.pack(">6H", ident, 0x0100, 1, 0, 0, 0) + wire_name(name) + b"\0\1\0\1"


def frame(payload: bytes, port: int, *, up: bool, protocol: int = UDP, seq: int = 1, flags: int = 24) -> bytes:
    """A packet between a client's port and port 53 of its resolver."""
    client, resolver = bytes([10, 0, port >> 8 & 3, port & 255]), bytes([10, 9, 9, 9])
    ports = (port, 53) if up else (53, port)
    if protocol == UDP:
        body = struct.pack(">4H", *ports, 8 + len(payload), 0) + payload
    else:
        body = struct.pack(">2H2I2H2H", *ports, seq, 1, 5 << 12 | flags, 1000, 0, 0) + payload
    ends = (client, resolver) if up else (resolver, client)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + b"".join(ends)
    return bytes(12) + b"\x08\0" + header + body


def address(i: int) -> bytes:
    return struct.pack(">I", 0xC6336400 + i % 200_000)


def asked(name_of: Callable[[int], str], records_of: Callable[[int], list[bytes]]) -> Iterator[bytes]:
    """Queries and their answers in turn."""
    for i in range(PACKETS // 2):
        port, name = 1024 + i % 60_000, name_of(i)
        yield frame(query(i & 0xFFFF, name), port, up=True)
        yield frame(response(i & 0xFFFF, name, records_of(i)), port, up=False)


def one_address(i: int) -> list[bytes]:
    return [record(b"\xc0\x0c", A, address(i))]


def chain(i: int) -> list[bytes]:
    """Four aliases, two addresses."""
    names = [f"edge{j}.{i % 1000}.cdn.example" for j in range(4)]
    owners = [b"\xc0\x0c", *map(wire_name, names)]
    aliases = [record(owner, CNAME, wire_name(name)) for owner, name in zip(owners[:-1], names, strict=True)]
    return [*aliases, record(owners[-1], A, address(i)), record(owners[-1], A, address(i + 1))]


def crowded(_: int) -> list[bytes]:
    """As many names and bytes as are read in compiled code, all of them aliases of one another."""
    names = [f"{'x' * 50}{j:02}.b.c" for j in range(11)]
    return [*(record(wire_name(a), CNAME, wire_name(b)) for a, b in itertools.pairwise(names)),
            *(record(wire_name(names[-1]), A, address(j)) for j in range(4))]  # fmt: skip


def pieces(start: bool) -> Iterator[bytes]:
    """Segments that never complete a message: of one connection, or each the first of a new one."""
    whole = b"\xff\x00" + response(1, "www.netflix.com", one_address(1))
    for i in range(PACKETS):
        port = 1024 + i % 60_000 if start else 5353
        yield frame(whole[:60], port, up=False, protocol=TCP, seq=1 if start else 1 + 60 * i)


KINDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "UDP, not DNS": lambda: (frame(bytes(60), 1024 + i % 60_000, up=True).replace(b"\0\x35", b"\0\x99") for i in range(PACKETS)),
    "answers for one name of a service": lambda: asked(lambda _: "www.netflix.com", one_address),
    "answers for new names of a service": lambda: asked(lambda i: f"host{i}.netflix.com", one_address),
    "answers for new names of no service": lambda: asked(lambda i: f"host{i}.site{i % 77}.example", one_address),
    "answers for new names that expressions are asked about": lambda: asked(lambda i: f"h{i}.s3-.akamaihd.net", one_address),
    "answers with four aliases": lambda: asked(lambda i: f"host{i % 999}.netflix.com", chain),
    "answers with 32 addresses": lambda: asked(lambda _: "www.netflix.com", lambda i: [one_address(i + j)[0] for j in range(32)]),
    "answers with 33 addresses": lambda: asked(lambda _: "www.netflix.com", lambda i: [one_address(i + j)[0] for j in range(33)]),
    "answers with all that may be in them": lambda: asked(lambda i: f"{i}.example", crowded),
    "queries": lambda: (frame(query(i & 0xFFFF, f"host{i}.example"), 1024 + i % 60_000, up=True) for i in range(PACKETS)),
    "answers that nobody asked for": lambda: (
        frame(query(1, "a.b") if i == 0 else response(i & 0xFFFF, "www.netflix.com", one_address(i)), 1024 + i % 60_000, up=i == 0)
        for i in range(PACKETS)
    ),
    "noise": lambda: (
        frame(b"\0\1\x81\x80\0\1\0\3\0\0\0\0" + random_of.randbytes(100), 1024 + i % 60_000, up=False) for i in range(PACKETS)
    ),
    "TCP: whole messages": lambda: (
        frame(len(message := response(i & 0xFFFF, "www.netflix.com", one_address(i))).to_bytes(2) + message,
              1024 + i % 60_000, up=False, protocol=TCP)
        for i in range(PACKETS)
    ),
    "TCP: SYN": lambda: (frame(b"", 1024 + i % 60_000, up=True, protocol=TCP, seq=i, flags=2) for i in range(PACKETS)),
    "TCP: other segments": lambda: (frame(b"x" * 60, 1024 + i % 60_000, up=False, protocol=TCP) for i in range(PACKETS)),
    "TCP: beginnings of messages": lambda: pieces(True),
    "TCP: pieces of one message": lambda: pieces(False),
}  # fmt: skip


def blocks(frames: Iterator[bytes], apart_ns: int) -> list[Block]:
    made, part = [], []
    for number, data in enumerate(frames):
        part.append((number * apart_ns, data))
        if len(part) == BLOCK:
            made.append(_block(part))
            part = []
    return made


def _block(part: list[tuple[int, bytes]]) -> Block:
    table: NDArray = np.zeros(len(part), FRAME)
    sizes = np.array([len(data) for _, data in part])
    table["ts_ns"] = [1_700_000_000_000_000_000 + ts_ns for ts_ns, _ in part]
    table["captured_bytes"] = table["wire_bytes"] = sizes
    table["offset"] = np.cumsum(sizes) - sizes
    table["link_type"] = 1
    return Block(np.frombuffer(bytearray(b"".join(data for _, data in part)), np.uint8), table)


def measured(plan: Plan, kind: str, *, live: bool) -> tuple[float, dict[str, int]]:
    """CPU time of a packet in µs, the least of three runs; and what was counted."""
    made = blocks(KINDS[kind](), 10_000 if live else 100_000)
    best = float("inf")
    counters: dict[str, int] = {}
    for _ in range(3):
        worker = Worker(plan, Receiver(), Settings(dns_units_per_second=10_000 if live else None))
        worker.warm_up()
        before = time.thread_time_ns()
        for block in made:
            worker.process(block)
        best = min(best, (time.thread_time_ns() - before) / 1000 / (len(made) * BLOCK))
        counters = worker.counters
        worker.finish()
    return best, counters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    options = parser.parse_args()
    configuration = json.loads(CONFIG.read_text())
    for service in configuration["Services"]:
        service["Collect"] = ["PacketCounters"]
        service["Filter"].pop("Prefixes", None)
    configuration["Services"] = [service for service in configuration["Services"] if service["Filter"]]
    plan = Plan.of(parse_config({"Services": configuration["Services"]}))
    for kind in KINDS:
        if options.only in kind:
            cost_us, counters = measured(plan, kind, live=options.live)
            told = {name: count for name, count in counters.items() if name.startswith("dns_") and count}
            print(f"{cost_us:8.2f} µs  {kind}  {told}")


if __name__ == "__main__":
    main()
