"""TCP events against tshark's `tcp.analysis`, trace by trace: retransmissions, their kinds, reordering, losses, windows.

    python benchmarks/retransmissions_tshark.py [DIRECTORY]

Replays all traces of a directory (default: those of nDPI beside the project) through the worker with `TCPCounters` for
every flow, and compares the sums of each trace. Prints a table of the events, and the traces that differ.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import workloads
from measure import stamp
from replays import replayed

from trafficrefinery.config import parse_config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.packets.layers import TUNNELS

CONFIG = {
    "Decapsulate": list(TUNNELS),
    "Services": [{"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": ["TCPCounters"]}],
}
EVENTS = {
    "retransmissions": "retransmission",
    "fast_retransmissions": "fast_retransmission",
    "spurious_retransmissions": "spurious_retransmission",
    "out_of_order": "out_of_order",
    "lost_segments": "lost_segment",
    "duplicate_acks": "duplicate_ack",
    "zero_windows": "zero_window",
}
"""Our names, and tshark's."""


def ours(plan: Plan, path: Path) -> Counter[str]:
    """The events of a trace in its records, both directions."""
    found: Counter[str] = Counter()
    for record in replayed(plan, path)[0]:
        values = record["features"]["TCPCounters"]
        found.update({event: values[f"{event}_up"] + values[f"{event}_down"] for event in EVENTS})
    return found


def theirs(path: Path) -> Counter[str]:
    """The events that tshark reports, by our names."""
    fields = [part for name in EVENTS.values() for part in ("-e", f"tcp.analysis.{name}")]
    command = ["tshark", "-n", "-r", str(path), "-Y", "tcp.analysis.flags", "-T", "fields", "-E", "occurrence=l"]
    lines = subprocess.run([*command, *fields], check=False, capture_output=True, text=True).stdout.splitlines()
    found: Counter[str] = Counter()
    for line in lines:
        found.update(event for event, value in zip(EVENTS, line.split("\t"), strict=True) if value)
    return found


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else (workloads.shared_data() or Path()) / "ndpi"
    plan = Plan.of(parse_config(CONFIG))
    totals: dict[str, Counter[str]] = {event: Counter() for event in EVENTS}
    differences = []
    for path in sorted(folder.glob("*.pcap*")):
        mine, peer = ours(plan, path), theirs(path)
        for event, total in totals.items():
            total.update(traces=1, ours=mine[event], theirs=peer[event], equal=mine[event] == peer[event])
            if mine[event] != peer[event]:
                differences.append((abs(mine[event] - peer[event]), path.name, event, mine[event], peer[event]))
    print(f"{stamp()}\n")
    print("| event | tshark | ours | traces that are equal |\n| --- | ---: | ---: | ---: |")
    for event, total in totals.items():
        name = event.replace("_", " ")
        print(f"| {name} | {total['theirs']:,} | {total['ours']:,} | {total['equal']} of {total['traces']} |")
    print()
    for _, name, event, mine_n, peer_n in sorted(differences, reverse=True):
        print(f"{name}: {event.replace('_', ' ')}: ours {mine_n}, tshark {peer_n}")


if __name__ == "__main__":
    main()
