"""A long time in a short one: a daemon over a trace of many short flows, at many times real time; does anything grow?

Every half hour of the trace, a flood fills the flow cache, whose capacity is not whole chunks, and goes idle.

`make soak` is a day in ten minutes: python tests/soak.py --minutes 10. `test_soak` takes one of these minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import socket
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from support import traces
from support.daemon_runs import Daemon, answer, configuration
from support.naive.frames import Frame

SPEED = 144  # a day in ten minutes
FLOWS_PER_S, PACKETS, GAP_S = 4, 8, 2  # of the trace: flows begin, have packets, so far apart
NAMES = 200
FLOOD_FLOWS, FLOOD_EVERY_S, MAX_FLOWS = 4_000, 1_800, 3_001
_SAMPLE_S = 2.0


class Sample(NamedTuple):
    """One process at one time.

    Pages of libraries do not count as resident: processes give them back when they are ready, and they return one by
    one.
    """

    resident_bytes: int
    descriptors: int
    shared: int  # descriptors of shared memory


def write_trace(path: Path, span_s: int) -> int:
    """A trace of short flows, each of other ends, with a DNS answer every ten seconds; the number of packets."""
    template = traces.ethernet(traces.ip("10.0.0.0", "192.0.2.5", 17, traces.udp(0, 3478, bytes(72))))
    flows = np.repeat(np.arange(FLOWS_PER_S * span_s), PACKETS)
    times_ns = flows * (10**9 // FLOWS_PER_S) + np.tile(np.arange(PACKETS) * GAP_S * 10**9, FLOWS_PER_S * span_s)
    frames = np.tile(np.frombuffer(template, np.uint8), (len(flows), 1))
    frames[:, 27:30] = (flows[:, None] >> np.array([16, 8, 0])) & 0xFF  # the client's address
    frames[:, 34:36] = (20_000 + flows[:, None] % 9973) >> np.array([8, 0]) & 0xFF  # and its port
    packets = ((int(times_ns[i]), frames[i].tobytes()) for i in np.argsort(times_ns, kind="stable"))
    floods = [packet for start_s in range(300, span_s, FLOOD_EVERY_S) for packet in flood(start_s)]
    asked = [
        (second * 10**9, answer(f"edge{second // 10 % NAMES}.video.example", f"203.0.113.{second // 10 % NAMES}"))
        for second in range(0, span_s, 10)
    ]
    with path.open("wb") as file:
        file.write(traces.pcap_bytes([]))
        for time_ns, data in heapq.merge(packets, asked, floods):
            frame = Frame(traces.START_NS + time_ns, data, len(data))
            file.write(traces.pcap_bytes([frame])[24:])
    return len(frames) + len(asked) + len(floods)


def flood(start_s: int) -> list[tuple[int, bytes]]:
    """A second of SYNs, each of a flow of its own: time and frame."""
    return [
        (start_s * 10**9 + i * (10**9 // FLOOD_FLOWS),
         traces.ethernet(traces.ip(f"10.200.{i >> 8}.{i & 255}", "192.0.2.6", 6, traces.tcp(1_024, 443, i, 0, 2))))
        for i in range(FLOOD_FLOWS)
    ]  # fmt: skip


def samples_of(daemon: Daemon) -> dict[str, Sample]:
    found = {}
    for name, pid in {**daemon.processes(), "supervisor": daemon.pid}.items():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/status").read_text().split("\n")
            resident_kib = sum(int(line.split()[1]) for line in fields if line.startswith(("RssAnon:", "RssShmem:")))
            targets = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]
            shared = sum(str(target).startswith("/memfd:") for target in targets)
            found[name] = Sample(resident_kib * 1024, len(targets), shared)
    return found


def soak(folder: Path, minutes: float) -> dict[str, list[Sample]]:
    """Run it; the samples of each process, over the time in which it captured."""
    trace = folder / "trace.pcap"
    count = write_trace(trace, round(minutes * 60 * SPEED))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    config = configuration(
        (), Interval="10s", Metrics={"Listen": listen}, Capture={"Workers": 1}, Daemon={"MaxWaiting": "16MiB"},
        FlowCache={"IdleTimeout": "60s", "MaxFlows": MAX_FLOWS}, Sinks={"JSONLines": {"RotateSize": "4MiB", "KeepSize": "16MiB"}},
    )  # fmt: skip
    daemon = Daemon(folder, config, None, "--file", trace, "--speed", SPEED)
    series: dict[str, list[Sample]] = defaultdict(list)
    metrics: dict[str, float] = {}
    try:
        daemon.start()
        while daemon.process is not None and daemon.process.poll() is None:
            for name, sample in samples_of(daemon).items():
                series[name].append(sample)
            with contextlib.suppress(OSError):  # it has ended
                metrics = daemon.metrics()
                daemon.get("/api/v1/flows?service=Net")
            time.sleep(_SAMPLE_S)
        assert daemon.wait() == 0, daemon.log
    finally:
        daemon.end()
    assert metrics["packets_total"] > count * 0.9
    assert metrics["flows_evicted_total{capacity}"] > FLOOD_FLOWS - MAX_FLOWS
    assert metrics["process_restarts_total"] == metrics["dropped_rows_total"] == 0
    kept_bytes = sum(path.stat().st_size for path in daemon.out.iterdir())
    assert kept_bytes < 32 << 20, f"{kept_bytes} bytes are kept"
    return series


def growth(series: dict[str, list[Sample]]) -> list[str]:
    """What grew after the first third of the time: each as a sentence."""
    grown = []
    for name, samples in series.items():
        third = len(samples) // 3
        middle, last = samples[third : 2 * third], samples[2 * third : -1]
        for part in Sample._fields:
            before, after = (median(getattr(sample, part) for sample in half) for half in (middle, last))
            allowed = before * 1.02 + (4 << 20) if part == "resident_bytes" else before
            if after > allowed:
                grown.append(f"{name}: {part} from {before:,.0f} to {after:,.0f}")
    return grown


def table(series: dict[str, list[Sample]]) -> str:
    lines = ["process      MiB at a third, two thirds, the end   descriptors   shared memory"]
    for name, samples in series.items():
        at = [samples[len(samples) * part // 3 - (part == 3)] for part in (1, 2, 3)]
        mib = "".join(f"{sample.resident_bytes / (1 << 20):11.1f}" for sample in at)
        lines.append(f"{name:12}{mib} {at[0].descriptors:8} {at[2].descriptors:5} {at[0].shared:9} {at[2].shared:5}")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        series = soak(Path(folder), minutes)
    grown = growth(series)
    sys.stdout.write(table(series) + "".join(f"{line}\n" for line in grown))
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
