"""Small traces of flows of three applications, with labels of each flow and of each client."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from support.naive.frames import Frame
from support.traces import ACK, FIN, SECOND, SYN, ethernet, ip, tcp, udp, write_trace

START_S = 1_600_000_000
APPS = ("bulk", "call", "chat")
FILES = ("a.pcap", "b.pcap", "c.pcap")
CONFIG = {
    "Interval": "10s",
    "Services": [{"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]},
                  "Collect": ["PacketCounters", "PacketSizes", "PacketTimes"]}],
}  # fmt: skip


class MadeFlow(NamedTuple):
    """A flow of a trace, as a label file would name it.

    Args:
        times: of its packets, s since the epoch.
    """

    app: str
    client_ip: str
    client_port: int
    server_ip: str
    server_port: int
    protocol: str
    times: tuple[float, ...]


def flows_of(number: int) -> list[MadeFlow]:
    """Four flows of each application in a file; each application has two clients. A chat has its eighth packet in the
    interval after its first one, a call goes on for three intervals, and a bulk transfer ends with FINs."""
    made = []
    for at, app in enumerate(APPS):
        for one in range(4):
            r = random.Random(f"{number}{app}{one}")
            start_s = START_S + 1 + r.random()
            gaps = {"bulk": [0.01] * 24, "call": [1.4] * 20, "chat": [1.0] * 4 + [9.0] + [0.5] * 7}[app]
            times = [start_s]
            for gap in gaps:
                times.append(times[-1] + gap * (0.9 + 0.2 * r.random()))
            made.append(MadeFlow(
                app, f"10.0.{number}.{10 * at + one % 2 + 1}", 40_000 + 10 * at + one, f"192.0.2.{r.randrange(1, 9)}",
                443, "udp" if app == "call" else "tcp", tuple(times),
            ))  # fmt: skip
    return made


def _frames(flow: MadeFlow) -> Iterator[Frame]:
    r = random.Random(flow.client_port)
    seq = {True: 100, False: 900}
    last = len(flow.times) - 1
    for number, time_s in enumerate(flow.times):
        up = number % {"bulk": 4, "call": 2, "chat": 2}[flow.app] == 0
        size = {"bulk": 40 if up else 1_300, "call": 160, "chat": 60}[flow.app] + r.randrange(20)
        ends = (flow.client_ip, flow.client_port), (flow.server_ip, flow.server_port)
        (source, source_port), (target, target_port) = ends if up else ends[::-1]
        payload = b"\x17" * size
        if flow.protocol == "udp":
            body, kind = udp(source_port, target_port, payload), 17
        else:
            flags = ACK
            if number == 0:
                payload, flags = b"", SYN
            elif flow.app == "bulk" and number > last - 4:
                payload, flags = b"", ACK | FIN
            body, kind = tcp(source_port, target_port, seq[up], seq[not up], flags, payload), 6
            seq[up] += len(payload) + (number == 0)
        data = ethernet(ip(source, target, kind, body), up=up)
        yield Frame(round(time_s * SECOND), data, len(data))


def write_traces(folder: Path) -> None:
    """The files, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(FILES):
        frames = [frame for flow in flows_of(number) for frame in _frames(flow)]
        write_trace(folder / name, sorted(frames, key=lambda frame: frame.ts_ns))
