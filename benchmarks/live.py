"""Measures the daemon on a pair of virtual interfaces: loss, CPU time, latency, start and stop, memory. Needs root.

python benchmarks/live.py --quick              every part at a tenth of its length: does it run?
python benchmarks/live.py                      all of it

A veth pair passes less than a million packets a second: figures of the daemon state the rate that was sent, with the
sender of `sender.py`. What the packet path does at line rate is measured on a ring that was filled before.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import floor
import numpy as np
import workloads
from measure import Figure, Report, ratios, stamp, timed
from packet_path import Receiver, config_of

from trafficrefinery.capture.rings.afpacket import RingReader
from trafficrefinery.capture.rings.sockets import open_rings
from trafficrefinery.config.daemon import Capture
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker
from trafficrefinery.jit import records
from trafficrefinery.packets.parser import PACKET

THREE = ["PacketCounters", "TCPCounters", "VideoSegments"]
INSIDE, OUTSIDE = "trbench0", "trbench1"
LISTEN = "127.0.0.1:9465"
INTERVAL_S, GRACE_S = 2, 1


@contextlib.contextmanager
def network() -> Iterator[None]:
    """A veth pair in a network namespace that this process, and what it starts, is in meanwhile."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    name = f"trbench-{os.getpid()}"
    ip("netns", "add", name)
    try:
        with open(f"/run/netns/{name}") as other:  # noqa: PTH123 (a descriptor is wanted)
            enter(other.fileno())
        ip("link", "set", "lo", "up")
        ip("link", "add", INSIDE, "type", "veth", "peer", "name", OUTSIDE)
        for end in (INSIDE, OUTSIDE):
            Path(f"/proc/sys/net/ipv6/conf/{end}/disable_ipv6").write_text("1")
            ip("link", "set", end, "up")
            subprocess.run(
                ["ethtool", "-K", end, *["tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off"]],
                check=True,
                capture_output=True,
            )
        yield
    finally:
        enter(own)
        ip("netns", "del", name)


def enter(descriptor: int) -> None:
    """setns(2)."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def send(trace: Path, *options: str, wait: bool = True) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        ["tcpreplay", "-q", "-K", "-i", OUTSIDE, *options, str(trace)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip
    if wait:
        process.wait()
    return process


def sent(process: subprocess.Popen[str]) -> tuple[int, float]:
    """Packets, and packets a second."""
    text = process.communicate()[0]
    packets = int(re.search(r"Successful packets:\s+(\d+)", text)[1])
    return packets, float(re.search(r"([\d.]+) pps", text)[1])


def ring(report: Report, directory: Path, repetitions: int, divide: int) -> None:
    """A ring of 256 MiB that was filled before, walked by one worker."""
    trace = workloads.trace_of("min_size", directory, 10 * divide)
    for title, collect in (("counters", THREE[:1]), ("three classes", THREE)):
        plan = Plan.of(config_of(collect))
        paths, floors, packets = [], [], 0
        for turn in range(2 * repetitions + 2):
            (socket,) = open_rings(INSIDE, Capture(RingSize="256MiB", Interfaces=(INSIDE,)), 1)
            send(trace)
            reader = RingReader([socket])
            time.sleep(0.1)
            if turn % 2:
                worker = Worker(plan, Receiver())
                sample = timed(drain, reader, worker)
                packets = worker.counters["packets"]
                assert worker.counters["attributed"] == packets
            else:
                sample = timed(drain, reader, Floor())
            if turn > 1:
                (paths if turn % 2 else floors).append(sample)
            reader.close()
            socket.close()
        report.add(
            Figure(f"filled ring, {title}", "Mpps", [packets / s.wall_s / 1e6 for s in paths], [packets / s.cpu_s / 1e6 for s in paths]),
            ratios(f"filled ring, {title}, over walking and parsing it", paths, floors),
        )  # fmt: skip


class Floor:
    """Parses headers, and nothing else."""

    def __init__(self) -> None:
        self._batch = records(np.zeros(64, PACKET))

    def process(self, block: Any) -> None:
        floor.parse_all(block.buffer, block.frames, self._batch)


def drain(reader: RingReader, worker: Any) -> None:
    while (block := reader.poll(0)) is not None:
        worker.process(block)


@contextlib.contextmanager
def daemon(
    directory: Path, collect: list[str], source: str = "afpacket"
) -> Iterator[tuple[subprocess.Popen[bytes], Path, float]]:
    """A running daemon, its output folder, and the seconds until it captured."""
    out = Path(tempfile.mkdtemp(dir=directory))
    config = out / "config.json"
    services = [{"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": collect}]
    config.write_text(json.dumps({
        "Services": services, "Interval": f"{INTERVAL_S}s", "Grace": f"{GRACE_S}s", "Metrics": {"Listen": LISTEN},
        "Capture": {"Source": source, "Interfaces": [INSIDE]}, "Daemon": {"StateFolder": str(out / "state")},
    }))  # fmt: skip
    before = time.perf_counter()
    log = out / "log"
    with log.open("wb") as told:
        process = subprocess.Popen([sys.executable, "-m", "trafficrefinery", "run", "-c", str(config), "-o", str(out)], stderr=told)  # fmt: skip
    try:
        while b"capturing" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)
        yield process, out, time.perf_counter() - before
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def metrics() -> dict[str, float]:
    """Names with labels, and values."""
    with urllib.request.urlopen(f"http://{LISTEN}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def user_s(name: str) -> tuple[float, float]:
    """User and system seconds of the daemon's process of this name."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        if path.read_text().strip() == name:
            fields = path.with_name("stat").read_text().rpartition(")")[2].split()
            ticks = os.sysconf("SC_CLK_TCK")
            return int(fields[11]) / ticks, int(fields[12]) / ticks
    raise LookupError(name)


class Sent(NamedTuple):
    """What became of packets: each was received, or counted where it was lost.

    Args:
        packets: that the sender's driver took.
        rate: a second.
        drops: that the source counted.
        cable: that the virtual cable dropped before anything could capture them, as its interfaces count.
        user_ns, system_ns: of the worker's time, a packet.
    """

    packets: int
    rate: float
    received: int
    drops: int
    cable: int
    user_ns: float
    system_ns: float


def cable_drops() -> int:
    """Frames that either end of the virtual cable counts as dropped."""
    ends = json.loads(subprocess.run(["ip", "-j", "-s", "link"], check=True, stdout=subprocess.PIPE).stdout)
    counts = {end["ifname"]: end["stats64"] for end in ends}
    return int(counts[OUTSIDE]["tx"]["dropped"]) + int(counts[INSIDE]["rx"]["dropped"])


def counted() -> tuple[int, int]:
    found = metrics()
    received, drops = (
        int(found[f'trafficrefinery_{name}_total{{worker="0"}}']) for name in ("received_packets", "kernel_drops")
    )
    return received, drops


def send_at(trace: Path, seconds: float, rate: int | None = None) -> Sent:
    """Send for some time at a rate, or as fast as the sender can; every packet has to be accounted for."""
    before, times, lost = counted(), user_s("tr-worker0"), cable_drops()
    sender = [sys.executable, str(Path(__file__).with_name("sender.py")), OUTSIDE, str(trace), str(seconds)]
    told = subprocess.run([*sender, *([str(rate)] if rate else [])], check=True, stdout=subprocess.PIPE, text=True)
    made = json.loads(told.stdout)
    packets = made["packets"]
    time.sleep(2)
    received, drops = (after - was for after, was in zip(counted(), before, strict=True))
    user, system = (after - was for after, was in zip(user_s("tr-worker0"), times, strict=True))
    counts, taken = cable_drops() - lost, max(received, 1)
    cable = packets - received - drops
    # What AF_XDP finds no room for, the cable's driver counts as well.
    assert cable in (counts, counts - drops), (received, drops, counts, packets)
    return Sent(packets, packets / made["seconds"], received, drops, cable, user / taken * 1e9, system / taken * 1e9)


RATES = (100_000, 200_000, 300_000, 400_000, 600_000, None)
"""Packets a second; None: as many as the sender reaches."""


def highest_rate(report: Report, directory: Path, repetitions: int, divide: int) -> None:  # noqa: ARG001 - once, and long
    """The highest rate at which nothing is lost, for a minute; where loss begins; and what packets take."""
    trace = workloads.trace_of("min_size", directory, 10 * divide)
    for source in ("afpacket", "afxdp"):
        with daemon(directory, THREE, source) as (process, _out, start_s):
            send_at(trace, 1, RATES[0])  # what is loaded with the first packets
            held, lossy = RATES[0], None
            for rate in RATES:
                at = send_at(trace, max(4 / divide, 1), rate)
                print(f"  {source}, {rate or 'all'}: {at}", flush=True)
                if at.drops + at.cable:
                    lossy = at
                    break
                held = rate
            minute = send_at(trace, 60 / divide, held)
            print(f"  {source}, a minute: {minute}", flush=True)
            most = send_at(trace, max(10 / divide, 1))
            print(f"  {source}, as fast as the sender can: {most}", flush=True)
            resident = metrics()['trafficrefinery_process_resident_memory_bytes{process="worker0"}']
            before = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            process.wait()
            stop_s = time.perf_counter() - before
        report.add(
            Figure(f"{source}, sent for a minute", "Mpps", [minute.rate / 1e6]),
            Figure(f"{source}, lost of these", "packets", [minute.drops + minute.cable], at_most=0),
            Figure(f"{source}, worker's user time a packet", "ns", [minute.user_ns], at_most=100),
            Figure(f"{source}, worker's system time a packet", "ns", [minute.system_ns]),
            *([Figure(f"{source}, loss begins at", "Mpps", [lossy.rate / 1e6])] if lossy else []),
            Figure(f"{source}, as fast as the sender can", "Mpps", [most.rate / 1e6]),
            Figure(f"{source}, of these captured", "Mpps", [most.rate * most.received / most.packets / 1e6]),
            Figure(f"{source}, of these counted as lost by the source", "packets", [most.drops]),
            Figure(f"{source}, of these dropped by the virtual cable", "packets", [most.cable]),
            Figure(f"{source}, worker's user time a packet then", "ns", [most.user_ns]),
            Figure(f"{source}, resident memory of the worker", "MiB", [resident / 2**20]),
            Figure(f"{source}, start to capturing", "s", [start_s]),
            Figure(f"{source}, SIGTERM to exit, last interval written", "s", [stop_s], at_most=5),
        )


def latency(report: Report, directory: Path, repetitions: int, divide: int) -> None:  # noqa: ARG001 - by intervals
    """From the end of an interval to its records on disk: the grace is part of it."""
    for flows in (10_000, 100_000):
        trace = directory / f"latency-{flows}.pcap"
        if not trace.exists():
            workloads.min_size(trace, 4 * flows, flows)
        with daemon(directory, THREE[:1]) as (_, out, _start_s):
            sending = send(trace, f"--pps={2 * flows}", "--loop=0", f"--duration={60 // divide or 4}", wait=False)
            waits, known = [], 0
            while sending.poll() is None:
                for path in out.glob("intervals-*"):
                    lines = path.read_bytes().count(b"\n")
                    if lines > known:
                        now_s, known = time.time(), lines
                        end_s = json.loads(path.read_bytes().splitlines()[-1])["ts_end"]
                        waits.append(now_s - end_s - GRACE_S)
                time.sleep(0.005)
            sending.communicate()
        waits = waits[2:] or waits  # the first intervals begin before the sender is up to speed
        report.add(
            Figure(f"close to disk, {flows:,} active flows, p50", "s", [float(np.percentile(waits, 50))]),
            Figure(f"close to disk, {flows:,} active flows, p99", "s", [float(np.percentile(waits, 99))]),
        )


PARTS = {"ring": ring, "highest-rate": highest_rate, "latency": latency}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the length; the figures mean nothing")
    parser.add_argument("--only", choices=PARTS, action="append", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--traces", type=Path, help="keep the traces here, and use the ones that are there")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where the JSON goes")
    arguments = parser.parse_args()
    report = Report("live-quick" if arguments.quick else "live")
    print(stamp())
    with tempfile.TemporaryDirectory(prefix="trafficrefinery-") as made, network():
        directory = arguments.traces or Path(made)
        directory.mkdir(parents=True, exist_ok=True)
        for name in arguments.only or PARTS:
            PARTS[name](report, directory, 1 if arguments.quick else 5, 10 if arguments.quick else 1)
    print(report.write(arguments.results))


if __name__ == "__main__":
    main()
