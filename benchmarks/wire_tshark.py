"""Frame by frame against tshark: addresses, ports and lengths of the innermost TCP or UDP header.

    python benchmarks/wire_tshark.py [DIRECTORY]

Reads all traces of a directory (default: those of nDPI beside the project) with every tunnel looked into, and prints a
table of the differences by kind, with an example of each.
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import workloads
from measure import stamp

from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.costs.measure import check_loop
from trafficrefinery.errors import TraceError
from trafficrefinery.jit import records
from trafficrefinery.packets.layers import REASONS
from trafficrefinery.packets.parser import PACKET
from trafficrefinery.packets.tunnels import TUNNELS, tunnel_table

_FIELDS = (
    "frame.protocols", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.srcport", "tcp.dstport", "tcp.len",
    "udp.srcport", "udp.dstport", "udp.length", "ip.len", "ipv6.plen", "frame.len", "frame.cap_len",
)  # fmt: skip
_OPTIONS = ("ip.defragment", "ipv6.defragment", "tcp.desegment_tcp_streams", "ip.check_checksum")


class Reading(NamedTuple):
    """What is known of one frame; None stands for unknown."""

    what: str  # tcp, udp, or why it is neither
    ends: frozenset[tuple[int, int]] = frozenset()
    payload_bytes: int | None = None
    ip_bytes: int | None = None


def ours(path: Path) -> Iterator[Reading]:
    """What the packet loop reads."""
    tunnels = tunnel_table(TUNNELS)
    with TraceReader([path]) as reader:
        for block in reader:
            packets, reasons = records(np.zeros(len(block.frames), PACKET)), np.zeros(len(block.frames), np.int64)
            check_loop.parse_all(block.buffer, block.frames, tunnels, packets, reasons)
            for reason, packet in zip(reasons.tolist(), np.asarray(packets), strict=True):
                yield Reading(REASONS[reason]) if reason else _reading_of(packet)


def _reading_of(packet: Any) -> Reading:  # a NumPy record
    if packet["fragment"] == 2:
        return Reading("later fragment")
    ends = frozenset((int(packet[f"{x}_hi"]) << 64 | int(packet[f"{x}_lo"]), int(packet[f"{x}_port"])) for x in "ab")
    what = "tcp" if packet["protocol"] == 6 else "udp"
    return Reading(what, ends, int(packet["payload_bytes"]), int(packet["ip_bytes"]))


def theirs(path: Path) -> Iterator[Reading]:
    """What tshark prints of the last header of each kind."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "occurrence=l"]
    command += [part for option in _OPTIONS for part in ("-o", f"{option}:FALSE")]
    command += [part for field in _FIELDS for part in ("-e", field)]
    lines = subprocess.run(command, check=False, capture_output=True, text=True).stdout.splitlines()
    for line in lines:
        values = dict(zip(_FIELDS, line.split("\t"), strict=True))
        protocols = values["frame.protocols"].split(":")
        layers = [layer for layer in protocols if layer in ("tcp", "udp", "udplite", "icmp", "icmpv6", "ip", "ipv6")]
        what = next((layer for layer in layers if layer.startswith("icmp")), layers[-1] if layers else "other")
        if what not in ("tcp", "udp") or not values[f"{what}.srcport"]:
            yield Reading("other")
            continue
        layer = next(name for name in reversed(layers) if name in ("ip", "ipv6"))
        yield Reading(
            what,
            frozenset((_number(values[f"{layer}.{x}"]), int(values[f"{what}.{x}port"])) for x in ("src", "dst")),
            int(values["tcp.len"]) if what == "tcp" and values["tcp.len"] else None,
            int(values["ip.len"]) if layer == "ip" else int(values["ipv6.plen"]) + 40,
        )


def _number(address: str) -> int:
    made = ipaddress.ip_address(address)
    return int(made) | (0xFFFF << 32 if made.version == 4 else 0)


def difference(a: Reading, b: Reading) -> str:
    """The kind of difference between our reading and theirs; empty when they agree."""
    transport = ("tcp", "udp")
    if a.what == "later fragment" or (a.what not in transport and b.what not in transport):
        return ""
    kinds = {
        f"{b.what} for tshark, {a.what} for us": a.what != b.what,
        "other addresses or ports": a.ends != b.ends,
        "more bytes than the IP header says": b.ip_bytes and a.ip_bytes and a.ip_bytes > b.ip_bytes,
        "fewer bytes than the IP header says (no more were on the wire)": b.ip_bytes and a.ip_bytes != b.ip_bytes,
        "another TCP payload": b.payload_bytes is not None and a.payload_bytes != b.payload_bytes,
    }
    return next((kind for kind, holds in kinds.items() if holds), "")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else (workloads.shared_data() or Path()) / "ndpi"
    counts: Counter[str] = Counter()
    examples: dict[str, dict[str, int]] = defaultdict(dict)
    frames = traces = 0
    for path in sorted(folder.glob("*.pcap*")):
        traces += 1
        try:
            mine = list(ours(path))
        except TraceError as error:
            mine = []
            counts["not read"] += 1
            examples["not read"][f"{path.name} ({error})"] = 0
        peer = list(theirs(path))
        frames += len(mine)
        if len(mine) != len(peer):
            counts["another number of frames"] += abs(len(mine) - len(peer))
            examples["another number of frames"][path.name] = min(len(mine), len(peer)) + 1
        for number, (a, b) in enumerate(zip(mine, peer, strict=False), 1):
            kind = difference(a, b)
            if kind:
                counts[kind] += 1
                examples[kind].setdefault(path.name, number)
    print(
        f"{stamp()}\n\n{frames:,} frames of {traces} traces; {frames - sum(counts.values()):,} are read as by tshark\n"
    )
    for kind, count in counts.most_common():
        where = ", ".join(f"{name}#{number}" for name, number in list(examples[kind].items())[:6])
        print(f"{count:7,}  {kind}: {len(examples[kind])} traces, {where}")


if __name__ == "__main__":
    main()
