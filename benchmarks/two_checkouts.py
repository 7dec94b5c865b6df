"""Packet rates of two checkouts, in one run: is the packet path slower than it was?

python benchmarks/two_checkouts.py BEFORE AFTER [--repetitions 9] [--only flows_1k,min_size]

Each checkout has its own environment in .venv, and its own benchmarks are run: a process for each, a replay in each in
turn. Printed are nanoseconds of CPU time a packet, the least of all, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measure import stamp

CHILD = """
import gc, json, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1] + "/benchmarks", sys.argv[1]]
import packet_path as p, workloads
folder = Path(sys.argv[2])
runs = {}
for name, rule in (("flows_100k", p.BY_PREFIX), ("flows_1k", p.BY_PREFIX), ("min_size", p.BY_PREFIX), ("real_mix", p.ALL_TRAFFIC)):
    trace = workloads.trace_of(name, folder, 1)
    for what, classes in p.SETS.items():
        runs[f"{name}, {what}"] = p.Plan.of(p.config_of(classes, rule)), trace
for name in ("dns_heavy", "tls_hellos"):
    runs[name] = p.Plan.of(p.config_of(p.COUNTERS, p.BY_NAME)), workloads.trace_of(name, folder, 1)
print(json.dumps(list(runs)), flush=True)
for line in sys.stdin:
    gc.collect()
    sample, counters, _ = p.run(*runs[line.strip()])
    print(json.dumps(sample.cpu_s / counters["packets"] * 1e9), flush=True)
"""


class Checkout:
    """A process that replays in one checkout."""

    def __init__(self, folder: Path, traces: Path) -> None:
        environment = {**os.environ, "TRAFFICREFINERY_CACHE_DIR": str(folder / ".cache" / "benchmarks")}
        command = [folder / ".venv" / "bin" / "python", "-c", CHILD, folder, traces]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=traces, env=environment
        )
        self.names: list[str] = self._answer()

    def _answer(self) -> list[str] | float:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a checkout ended with an error, see above")
        return json.loads(line)

    def ns_per_packet(self, name: str) -> float:
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def compare(checkouts: list[Checkout], only: list[str], repetitions: int) -> Iterator[tuple[str, float, float]]:
    """Workload, and the least time a packet in each checkout; the first replay of each is not counted."""
    for name in checkouts[0].names:
        if name not in checkouts[1].names or (only and not any(one in name for one in only)):
            continue
        times: list[list[float]] = [[], []]
        for turn in range(repetitions + 1):
            for which in (0, 1) if turn % 2 else (1, 0):
                ns = checkouts[which].ns_per_packet(name)
                if turn:
                    times[which].append(ns)
        yield name, min(times[0]), min(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--only", default="", help="workloads whose names hold one of these, with commas between")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkouts = [Checkout(one.resolve(), Path(folder)) for one in (options.before, options.after)]
        print(f"{stamp(options.before, options.after)}\n")
        print("| workload | before, ns a packet | after, ns a packet | after / before |\n| --- | ---: | ---: | ---: |")
        for name, before, after in compare(
            checkouts, [one for one in options.only.split(",") if one], options.repetitions
        ):
            print(f"| {name} | {before:.1f} | {after:.1f} | {after / before:.2f} |", flush=True)
        for checkout in checkouts:
            checkout.end()


if __name__ == "__main__":
    main()
