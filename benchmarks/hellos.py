"""What hellos cost the packet loop: CPU time a packet, each the first of a new flow, beyond that with names off.

    python benchmarks/hellos.py [--packets 20000] [--repetitions 5]

`live` is with the budgets of a capture worker, at a packet every `--step` microseconds; else nothing is limited.
"""

from __future__ import annotations

import argparse
import struct
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from measure import markdown

from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.config import parse_config
from trafficrefinery.daemon.workers.capturing import NAMES_PER_SECOND, QUIC_ATTEMPTS_PER_SECOND
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.jit import records
from trafficrefinery.services.names.quic import initial_keys

_LIVE = {"names_per_second": NAMES_PER_SECOND, "quic_attempts_per_second": QUIC_ATTEMPTS_PER_SECOND}
_BLOCK = 4096
_ID = b"8 bytes!"


class Dropping:
    """Drops the rows."""

    def rows(self, *_: Any) -> None:
        """Receiver."""

    summary = done_until = rows


def hello(name: str, padding: int = 300, behind: bytes = b"") -> bytes:
    """A ClientHello with an extension of `padding` bytes before the name, and others `behind` it."""
    host = name.encode()
    names = b"\0" + len(host).to_bytes(2) + host
    extensions = b"\0\x15" + padding.to_bytes(2) + bytes(padding)
    extensions += struct.pack(">HHH", 0, len(names) + 2, len(names)) + names + behind
    body = b"\x03\x03" + bytes(32) + b"\0\0\2\x13\1\1\0" + len(extensions).to_bytes(2) + extensions
    return b"\x01" + len(body).to_bytes(3) + body


def record(message: bytes) -> bytes:
    """In one TLS record."""
    return b"\x16\x03\x01" + len(message).to_bytes(2) + message


def initial(frames: bytes) -> bytes:
    """A client Initial of QUIC version 1."""
    keys = initial_keys(1, _ID)
    header = b"\xc3\0\0\0\x01" + bytes([len(_ID)]) + _ID + b"\0\0"
    frames += bytes(1200 - len(header) - 2 - 4 - 16 - len(frames))
    header += (len(frames) + 20 | 0x4000).to_bytes(2) + bytes(4)
    packet = bytearray(header + AESGCM(keys.key).encrypt(keys.iv, frames, header))
    at = len(header) - 4
    mask = Cipher(algorithms.AES(keys.header_key), modes.ECB()).encryptor().update(bytes(packet[at + 4 : at + 20]))
    packet[0] ^= mask[0] & 15
    for index in range(4):
        packet[at + index] ^= mask[1 + index]
    return bytes(packet)


def crypto(message: bytes, pieces: int) -> bytes:
    """CRYPTO frames, the first of them last."""
    edges = [len(message) * index // pieces for index in range(pieces + 1)]
    frames = [
        b"\x06" + (start | 0x4000).to_bytes(2) + (end - start | 0x4000).to_bytes(2) + message[start:end]
        for start, end in pairwise(edges)
    ]
    return b"".join(frames[::-1])


def chlo(name: bytes) -> bytes:
    """A packet of Google's Q043."""
    message = b"CHLO\1\0\0\0SNI\0" + len(name).to_bytes(4, "little") + name
    return (b"\x0d" + _ID + b"Q043\1" + bytes(12) + b"\xa0\1" + len(message).to_bytes(2) + message).ljust(1350, b"\0")


_READABLE, _MANY = initial(crypto(hello("www.video.example"), 1)), initial(crypto(hello("www.video.example", 100), 60))
_ECH = b"\xfe\x0d\0\xba" + bytes(186)
_EXTENSIONS = record(b"\x01\0\x05\xa8\x03\x03" + bytes(33) + b"\0\2\0\0\1\0\x05\x80" + b"\1\1\0\0" * 350)
KINDS: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "TLS, a name seen before": (6, lambda _: record(hello("www.video.example"))),
    "TLS, new names": (6, lambda n: record(hello(f"n{n}.video.example"))),
    "TLS, new names of no service": (6, lambda n: record(hello(f"n{n}.other.example"))),
    "TLS, new names, with ECH": (6, lambda n: record(hello(f"n{n}.video.example", behind=_ECH))),
    "TLS, new names that an expression is asked about": (6, lambda n: record(hello(f"n{n}.cdn.example"))),
    "TLS, begun": (6, lambda _: record(hello("www.video.example", 3000))[:1400]),
    "TLS, records of one byte": (6, lambda _: b"\x16\x03\x01\0\x01\x01" * 240),
    "TLS, 350 extensions": (6, lambda _: _EXTENSIONS),
    "TLS, damaged": (6, lambda _: record(hello("www.video.example"))[:5] + b"\x01\0\0\x09\x03\x03" + bytes(400)),
    "HTTP": (6, lambda _: b"GET / HTTP/1.1\r\nHost: www.video.example\r\n" + b"X: y\r\n" * 60),
    "QUIC": (17, lambda _: _READABLE),
    "QUIC, 60 CRYPTO frames": (17, lambda _: _MANY),
    "QUIC, no key fits": (17, lambda n: _READABLE[:6] + n.to_bytes(8) + _READABLE[14:]),
    "QUIC, a version that is not read": (17, lambda _: b"\xc3ABCD" + _READABLE[5:]),
    "Google QUIC": (17, lambda _: chlo(b"www.video.example")),
}  # fmt: skip


def blocks(protocol: int, payload: Callable[[int], bytes], packets: int, step_ns: int) -> list[Block]:
    """Frames of one packet a flow."""
    made = []
    for first in range(0, packets, _BLOCK):
        data = []
        table = records(np.zeros(min(_BLOCK, packets - first), FRAME))
        at = 0
        for row, number in zip(table, range(first, first + len(table)), strict=True):
            content = payload(number)
            port = 1024 + number % 60_000
            if protocol == 6:
                transport = struct.pack(">HHIIBBHHH", port, 443, 1, 1, 0x50, 16, 512, 0, 0) + content
            else:
                transport = struct.pack(">HHHH", port, 443, 8 + len(content), 0) + content
            source = 10 << 24 | number // 60_000
            packet = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(transport), 0, 0, 64, protocol, 0, source, 0xC6120001)
            data.append(bytes(12) + b"\x08\0" + packet + transport)
            row["ts_ns"], row["offset"] = 1_600_000_000_000_000_000 + number * step_ns, at
            row["captured_bytes"] = row["wire_bytes"] = len(data[-1])
            row["link_type"] = 1
            at += len(data[-1])
        made.append(Block(np.frombuffer(bytearray(b"".join(data)), np.uint8), table))
    return made


def cpu_ns(plan: Plan, trace: Sequence[Block], settings: Settings) -> int:
    """CPU time of a worker over a trace."""
    worker = Worker(plan, Dropping(), settings)
    worker.warm_up()
    begin = time.process_time_ns()
    for block in trace:
        worker.process(block)
    used = time.process_time_ns() - begin
    worker.finish()
    return used


def plan_of(rule: dict[str, list[str]]) -> Plan:
    """All traffic in one service, names by a rule."""
    services = [
        {"Name": "Video", "Filter": rule, "Collect": ["PacketCounters"]},
        {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["PacketCounters"]},
    ]
    return Plan.of(parse_config({"Services": services if rule else services[1:]}))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packets", type=int, default=20_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", default="", help="measure the kinds whose names begin so")
    parser.add_argument("--step", type=float, default=10.0, help="microseconds between two packets")
    options = parser.parse_args()
    off, on = plan_of({}), plan_of({"DomainsString": ["video.example"], "DomainsRegex": [r"^m\d+\.cdn\."]})
    table = []
    for kind, (protocol, payload) in KINDS.items():
        if not kind.startswith(options.only):
            continue
        trace = blocks(protocol, payload, options.packets, int(options.step * 1000))
        runs = {"off": (off, Settings()), "unlimited": (on, Settings()), "live": (on, Settings(**_LIVE))}
        times: dict[str, int] = dict.fromkeys(runs, 1 << 62)
        for _ in range(options.repetitions):
            for name, (plan, settings) in runs.items():
                times[name] = min(times[name], cpu_ns(plan, trace, settings))
        costs = [(times[name] - times["off"]) / options.packets / 1000 for name in ("unlimited", "live")]
        table.append([kind, f"{times['off'] / options.packets / 1000:.2f}", *(f"{cost:.2f}" for cost in costs)])
    print(
        markdown(["first packet of a flow", "names off, µs", "beyond it, unlimited, µs", "beyond it, live, µs"], table)
    )


if __name__ == "__main__":
    main()
