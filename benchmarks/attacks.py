"""What an attacker's packet costs: CPU time of the packet path, packets a second that one core bears, and memory.

python benchmarks/attacks.py                   all attacks; the machine should have nothing else to do
python benchmarks/attacks.py --quick           a fiftieth of the packets: does it run?
python benchmarks/attacks.py --only "SYN flood" --no-memory

An attack is one function that yields Ethernet frames, from a generator with a fixed seed; they come at RATE packets a
second, all in two intervals. Frames go through a worker with the daemon's limits, in this process: CPU time over
packets, closing of intervals included, the least of some repetitions. Memory is that of a child that writes records of
the same frames as a replay does, above that of a child with ten frames, without the flow cache, which MaxFlows bounds;
`capped` with the daemon's limit of short flows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measure import stamp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support import traces
from support.naive.tlsnames import quic_initial
from support.tls_hellos import client_hello, record
from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.config import Config, load_config
from trafficrefinery.daemon.workers.capturing import NAMES_PER_SECOND, QUIC_ATTEMPTS_PER_SECOND
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.jit import records
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.records.sinks.base import File, Interval, Place
from trafficrefinery.records.sinks.opening import file_sink

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "video.json"
RATE = 50_000
START_NS = 1_600_000_000_000_000_000
SERVER, NAME = "23.246.0.9", "www.netflix.com"  # both of the service Netflix in CONFIG
LIMIT_US = 5.0
_BLOCK_FRAMES = 1024
_QUIET = {"packets", "wire_bytes", "attributed", "flows_new", "no_service", "waiting_for_service", "dns_messages"}


class Attack(NamedTuple):
    frames: Callable[[random.Random], Iterator[bytes]]
    packets: int
    max_flows: int


ATTACKS: dict[str, Attack] = {}


def attack(name: str, packets: int = 200_000, max_flows: int = 1_000_000) -> Callable[[Any], Any]:
    """Register a generator of frames; it may yield for ever."""

    def registered(frames: Callable[[random.Random], Iterator[bytes]]) -> Any:
        ATTACKS[name] = Attack(frames, packets, max_flows)
        return frames

    return registered


def client(r: random.Random) -> str:
    return f"10.{r.randrange(256)}.{r.randrange(256)}.{r.randrange(1, 255)}"


def to_server(r: random.Random, protocol: int, body: bytes, **options: Any) -> bytes:
    return traces.ethernet(traces.ip(client(r), SERVER, protocol, body, **options))


def port(r: random.Random) -> int:
    return r.randrange(1024, 65_536)


def repeated(make: Callable[[], bytes], times: int) -> list[bytes]:
    """Some payloads, to be sent again and again: making one may take longer than reading it."""
    return [make() for _ in range(times)]


# Attacks. To add one, write one function.


@attack("ordinary packets, for comparison")
def ordinary(r: random.Random) -> Iterator[bytes]:
    ends = [(client(r), port(r)) for _ in range(2000)]
    for number in itertools.count():
        address, source_port = ends[number % len(ends)]
        segment = traces.tcp(443, source_port, number * 1000, 1, traces.ACK, bytes(1000))
        yield traces.ethernet(traces.ip(SERVER, address, 6, segment), up=False)


@attack("SYN flood", packets=500_000)
def syn_flood(r: random.Random) -> Iterator[bytes]:
    while True:
        yield to_server(r, 6, traces.tcp(port(r), 443, r.getrandbits(32), 0, traces.SYN))


@attack("SYN flood, flows at capacity", max_flows=16_384)
def at_capacity(r: random.Random) -> Iterator[bytes]:
    return syn_flood(r)


@attack("UDP, one packet a flow")
def one_packet_flows(r: random.Random) -> Iterator[bytes]:
    while True:
        yield to_server(r, 17, traces.udp(port(r), 443, bytes(20)))


@attack("tiny fragments")
def tiny_fragments(r: random.Random) -> Iterator[bytes]:
    for ident in itertools.count():
        datagram = traces.udp(port(r), 443, bytes(24))
        source = traces.packed(client(r))
        for offset in range(0, len(datagram), 8):
            yield traces.ethernet(traces.ipv4(
                source, traces.packed(SERVER), 17, datagram[offset : offset + 8], ident=ident & 0xFFFF,
                offset=offset, more=offset + 8 < len(datagram),
            ))  # fmt: skip


def hellos(r: random.Random, names: Iterator[str]) -> Iterator[bytes]:
    """Each in a flow of its own: a SYN, and the hello in one segment."""
    for name in names:
        source, source_port, isn = client(r), port(r), r.getrandbits(32)
        hello = traces.tcp(source_port, 443, isn + 1, 1, traces.ACK, record(client_hello(name, padding_bytes=200)))
        for segment in (traces.tcp(source_port, 443, isn, 0, traces.SYN), hello):
            yield traces.ethernet(traces.ip(source, SERVER, 6, segment))


@attack("TLS hellos, names of a service", packets=40_000)
def tls_hellos(r: random.Random) -> Iterator[bytes]:
    return hellos(r, itertools.repeat(NAME))


@attack("TLS hellos, names that differ", packets=40_000)
def tls_names(r: random.Random) -> Iterator[bytes]:
    return hellos(r, (f"{r.getrandbits(64):x}.example" for _ in itertools.count()))


@attack("names made for expressions", packets=4_000)
def crafted_names(r: random.Random) -> Iterator[bytes]:
    return hellos(r, ("avod" + "s3" * 60 + "-" * 60 + f"{number}.akamaihd.ne" for number in itertools.count()))


@attack("tls hellos, never ended", packets=40_000)
def endless_hellos(r: random.Random) -> Iterator[bytes]:
    hello = record(client_hello(NAME, padding_bytes=12_000))
    while True:
        source, source_port, isn = client(r), port(r), r.getrandbits(32)
        yield traces.ethernet(traces.ip(source, SERVER, 6, traces.tcp(source_port, 443, isn, 0, traces.SYN)))
        for at in range(0, 8_000, 100):
            piece = traces.tcp(source_port, 443, isn + 1 + at, 1, traces.ACK, hello[at : at + 100])
            yield traces.ethernet(traces.ip(source, SERVER, 6, piece))


@attack("QUIC Initials, valid", packets=40_000)
def quic_valid(r: random.Random) -> Iterator[bytes]:
    made = repeated(lambda: quic_initial(r.randbytes(8), 0, 0, client_hello(NAME)), 200)
    while True:
        yield to_server(r, 17, traces.udp(port(r), 443, r.choice(made)))


@attack("QUIC Initials, garbage", packets=40_000)
def quic_garbage(r: random.Random) -> Iterator[bytes]:
    made = repeated(lambda: b"\xc3\0\0\0\1\x08" + r.randbytes(8) + b"\0\0\x44\xb0" + r.randbytes(1200), 200)
    while True:
        yield to_server(r, 17, traces.udp(port(r), 443, r.choice(made)))


def dns_answers(r: random.Random, solicited: bool) -> Iterator[bytes]:
    while True:
        resolved = traces.dns_message(r, f"{r.getrandbits(40):x}.netflix.com", "192.0.2.1")
        whom, whose_port = client(r), port(r)
        if solicited:
            query = resolved[:2] + b"\1\0\0\1" + bytes(6) + resolved[12 : resolved.index(b"\0\0\1\0\1") + 5]
            yield traces.ethernet(traces.ip(whom, "10.0.0.53", 17, traces.udp(whose_port, 53, query)))
        yield traces.ethernet(traces.ip("10.0.0.53", whom, 17, traces.udp(53, whose_port, resolved)), up=False)


@attack("DNS answers nobody asked for", packets=20_000)
def dns_unsolicited(r: random.Random) -> Iterator[bytes]:
    return dns_answers(r, solicited=False)


@attack("DNS queries and answers", packets=20_000)
def dns_solicited(r: random.Random) -> Iterator[bytes]:
    return dns_answers(r, solicited=True)


@attack("DNS over TCP, a stream a segment", packets=20_000)
def dns_over_tcp(r: random.Random) -> Iterator[bytes]:
    while True:
        message = traces.dns_message(r, NAME, "192.0.2.1")
        segment = traces.tcp(53, port(r), r.getrandbits(32), 1, traces.ACK, len(message).to_bytes(2) + message)
        yield traces.ethernet(traces.ip("10.0.0.53", client(r), 6, segment), up=False)


@attack("TCP with forty bytes of options")
def many_options(r: random.Random) -> Iterator[bytes]:
    options = b"\1" * 20 + b"\x05\x12" + bytes(16)
    while True:
        yield to_server(r, 6, traces.tcp(port(r), 443, r.getrandbits(32), 1, traces.ACK, bytes(10), options=options))


@attack("thirty extension headers")
def extension_headers(r: random.Random) -> Iterator[bytes]:
    while True:
        body = traces.udp(port(r), 443, bytes(20))
        yield traces.ethernet(traces.ip(f"2001:db8::{r.randrange(1, 65_536):x}", "2001:db8:2::1", 17, body,
                                        extensions=[60] * 30))  # fmt: skip


@attack("tunnels in tunnels")
def deep_tunnels(r: random.Random) -> Iterator[bytes]:
    while True:
        packet = traces.ip(client(r), SERVER, 17, traces.udp(port(r), 443, bytes(20)))
        for _ in range(10):
            packet = traces.ip("172.16.0.1", "172.16.0.2", 47, b"\0\0\x08\0" + packet)
        yield traces.ethernet(packet)


# How they are measured


def config_of(one: Attack) -> Config:
    config = load_config(CONFIG)
    flows = config.flow_cache.model_copy(update={"max_flows": one.max_flows})
    return config.model_copy(update={"flow_cache": flows, "decapsulate": ("gre", "vxlan", "gtpu")})


def blocks_of(one: Attack, packets: int) -> list[Block]:
    """The frames of an attack, at RATE packets a second."""
    blocks, frames = [], itertools.islice(one.frames(random.Random(1)), packets)
    for first in range(0, packets, _BLOCK_FRAMES):
        part = list(itertools.islice(frames, _BLOCK_FRAMES))
        table = records(np.zeros(len(part), FRAME))
        lengths = np.fromiter(map(len, part), np.int64, len(part))
        table["ts_ns"] = START_NS + (first + np.arange(len(part))) * (10**9 // RATE)
        table["offset"] = np.cumsum(lengths) - lengths
        table["captured_bytes"] = table["wire_bytes"] = lengths
        table["link_type"] = 1
        blocks.append(Block(np.frombuffer(bytearray(b"".join(part)), np.uint8), table))
    return blocks


class Nobody:
    """A receiver that drops what it is given."""

    def rows(self, *_: Any) -> None: ...

    def summary(self, *_: Any) -> None: ...

    def done_until(self, *_: Any) -> None: ...

    def restart(self, *_: Any) -> None: ...


def settings_of(config: Config, capped: bool = True) -> Settings:
    most = config.daemon.max_short_flows if capped else None
    return Settings(
        names_per_second=NAMES_PER_SECOND, quic_attempts_per_second=QUIC_ATTEMPTS_PER_SECOND, max_short_flows=most
    )


def cpu_us(plan: Plan, blocks: list[Block], packets: int) -> tuple[float, dict[str, int]]:
    """CPU time of a packet, and what the worker counted."""
    worker = Worker(plan, Nobody(), settings_of(plan.config))
    worker.warm_up()
    before_ns = time.process_time_ns()
    for block in blocks:
        worker.process(block)
    worker.finish()
    return (time.process_time_ns() - before_ns) / packets / 1e3, worker.counters


def write_records(name: str, packets: int, capped: bool) -> None:
    """Body of the child: records of an attack in a file, as a replay writes them; prints its memory."""
    one = ATTACKS[name]
    plan = Plan.of(config_of(one))
    aggregator = Aggregator(plan, 1)
    worker = Worker(plan, aggregator, settings_of(plan.config, capped))
    worker.warm_up()
    blocks = blocks_of(one, packets)
    blocks_bytes = sum(block.buffer.nbytes + block.frames.nbytes for block in blocks)
    with tempfile.TemporaryDirectory() as folder:
        file = file_sink("JSONLines", Place(plan, Path(folder), Path(folder), {"records": File("records", None)}))
        for block in blocks:
            worker.process(block)
            for batch in aggregator.ready():
                file.write(Interval(0, [batch], []))
        flows_bytes = worker.resident_bytes
        worker.finish()
        for batch in aggregator.ready():
            file.write(Interval(0, [batch], []))
        file.close()
    print(json.dumps({"peak_bytes": peak_bytes() - blocks_bytes - flows_bytes, "records": aggregator.records}))


def peak_bytes() -> int:
    """The most that this process had resident; the figure of getrusage(2) begins with that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def memory_bytes(name: str, packets: int, capped: bool) -> int:
    """What a child takes for an attack beside the flow cache, above one with ten packets of it."""
    peaks = []
    for count in (10, packets):
        command = [sys.executable, __file__, "--child", name, str(count), *(["--capped"] if capped else [])]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(json.loads(done.stdout)["peak_bytes"]))
    return max(peaks[1] - peaks[0], 0)


def measure(name: str, divide: int, repetitions: int, with_memory: bool) -> dict[str, Any]:
    one = ATTACKS[name]
    packets, plan = max(one.packets // divide, 100), Plan.of(config_of(one))
    blocks = blocks_of(one, packets)
    cpu_us(plan, blocks[:1], len(blocks[0].frames))
    found = [cpu_us(plan, blocks, packets) for _ in range(repetitions)]
    best, counted = min(us for us, _ in found), found[0][1]
    told = {key: count for key, count in counted.items() if count and key not in _QUIET}
    row = {"attack": name, "packets": packets, "cpu_us": round(best, 3), "packets_per_s": round(1e6 / best), **told}
    if with_memory:
        row |= {f"memory{end}_mib": round(memory_bytes(name, packets, capped) / (1 << 20), 1)
                for end, capped in (("", False), ("_capped", True))}  # fmt: skip
    return row


def line(row: dict[str, Any]) -> str:
    known = ("attack", "packets", "cpu_us", "packets_per_s", "memory_mib", "memory_capped_mib")
    told = ", ".join(f"{key.replace('_', ' ')} {count:,}" for key, count in row.items() if key not in known)
    memory = " | ".join(f"{row[key]:,.0f}" if key in row else "" for key in known[4:])
    mark = "" if row["cpu_us"] <= LIMIT_US else " (!)"
    return (
        f"| {row['attack']} | {row['packets']:,} | {row['cpu_us']:.2f}{mark} | {row['packets_per_s']:,} | {memory} "
        f"| {told} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the packets; the figures mean nothing")
    parser.add_argument("--only", action="append", metavar="ATTACK", help="of the first column; may be repeated")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true", help="CPU time only")
    parser.add_argument("--json", type=Path, help="keep the rows here")
    parser.add_argument("--child", nargs=2, metavar=("ATTACK", "PACKETS"), help=argparse.SUPPRESS)
    parser.add_argument("--capped", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        write_records(arguments.child[0], int(arguments.child[1]), arguments.capped)
        return
    print(f"{stamp()}\n")
    print("| attack | packets | CPU, µs a packet | packets/s of a core | memory, MiB | capped | counted |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for name in arguments.only or ATTACKS:
        if name not in ATTACKS:
            parser.error(f"no attack {name!r}; there are: {', '.join(ATTACKS)}")
        rows.append(measure(name, 50 if arguments.quick else 1, arguments.repetitions, not arguments.no_memory))
        print(line(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
