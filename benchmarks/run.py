"""Measures the figures of the project, prints them beside their targets, and keeps them.

python benchmarks/run.py --quick               every part at a fiftieth of its size: does it run?
python benchmarks/run.py                       all of it; the machine should have nothing else to do
python benchmarks/run.py --only inserts        one part
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import flow_cache
import output
import packet_path
import sessions
from measure import Report

import costs

PARTS = {
    "one-worker": packet_path.one_worker,
    "two-workers": packet_path.two_workers,
    "inserts": flow_cache.inserts,
    "closing": flow_cache.closing,
    "memory": flow_cache.memory,
    "json-lines": output.json_lines,
    "start": output.start,
    "whole-replay": packet_path.whole_replay,
    "other-traces": packet_path.other_traces,
    "names": packet_path.names,
    "sessions": sessions.session_view,
    "sampling": costs.sampling,
    "profile": costs.profile,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the size; the figures mean nothing")
    parser.add_argument("--only", choices=PARTS, action="append", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--repetitions", type=int, help="how often each is measured; default 7, quick 1")
    parser.add_argument("--traces", type=Path, help="keep the traces here, and use the ones that are there")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="where the JSON goes")
    arguments = parser.parse_args()
    repetitions = arguments.repetitions or (1 if arguments.quick else 7)
    report = Report("quick" if arguments.quick else "figures", repetitions=repetitions)
    with tempfile.TemporaryDirectory(prefix="trafficrefinery-") as made:
        directory = arguments.traces or Path(made)
        directory.mkdir(parents=True, exist_ok=True)
        for name in arguments.only or PARTS:
            PARTS[name](report, directory, repetitions, 50 if arguments.quick else 1)
    print(report.write(arguments.results))


if __name__ == "__main__":
    main()
