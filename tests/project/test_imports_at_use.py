"""What each process imports: nothing that only training, plots or the lab need, and tables where they are used."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from support.traces import ethernet, ip, udp
from trafficrefinery.capture.traces.reader import PcapWriter

# For training, plots, reports, the lab, development, and for compiling, which is done once and cached.
NEVER = ("sklearn", "scipy", "joblib", "matplotlib", "jinja2", "threadpoolctl", "optuna", "distributed", "pandas", "rich",
         "aioquic", "trafficrefinery_lab", "numba", "llvmlite")  # fmt: skip
TABLES = ("polars", "pyarrow")
SERVER = ("waitress", "prometheus_client")
MODELS = ("trafficrefinery.models",)

PROCESSES = {
    "trafficrefinery.daemon.workers.capturing": (*NEVER, *TABLES, *SERVER, *MODELS),
    "trafficrefinery.daemon.workers.naming": (*NEVER, *TABLES, *SERVER, *MODELS),
    "trafficrefinery.daemon.supervisor": (*NEVER, *TABLES, *MODELS),
    "trafficrefinery.daemon.workers.aggregating": (*NEVER, *TABLES, *SERVER, *MODELS),
    "trafficrefinery.daemon.workers.inference": (*NEVER, *TABLES, *SERVER, *MODELS),
    "trafficrefinery.replaying.single": (*NEVER, *TABLES, *SERVER, *MODELS),
    "trafficrefinery.replaying.workers": (*NEVER, *TABLES, *SERVER, *MODELS),
    "trafficrefinery.replaying.batch": (*NEVER, *TABLES, *SERVER, *MODELS),
    "trafficrefinery.models.stream": (*NEVER, "polars"),
}
"""Module with the body of a process: what it does not import."""


@pytest.mark.parametrize("module", PROCESSES)
def test_a_process_imports_only_what_it_needs_to_begin(module):
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert imported_of(json.loads(done.stdout), PROCESSES[module]) == set()


def imported_of(modules: list[str], forbidden: tuple[str, ...]) -> set[str]:
    return {name for name in modules if any(f"{name}.".startswith(f"{one}.") for one in forbidden)}


REPLAY = """
import json, sys
from trafficrefinery.cli.main import main
try:
    main(["replay", *sys.argv[1:], "--quiet"])
finally:
    print(json.dumps(sorted(sys.modules)))
"""


def test_a_replay_without_models_does_not_import_them(tmp_path):
    trace = tmp_path / "a.pcap"
    with PcapWriter(trace) as out:
        out.write(10**18, ethernet(ip("192.0.2.1", "198.51.100.1", 17, udp(1024, 53, b"question"))))
    config = tmp_path / "config.json"
    service = {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["PacketCounters"]}
    config.write_text(json.dumps({"Services": [service]}))
    done = subprocess.run(
        [sys.executable, "-c", REPLAY, trace, "-c", config, "--out", tmp_path / "out"], capture_output=True, text=True, check=True,
        env={**os.environ, "TRAFFICREFINERY_JIT": "off"},
    )  # fmt: skip
    assert (tmp_path / "out" / "records.jsonl").read_text().count("\n") == 1
    assert imported_of(json.loads(done.stdout), (*MODELS, *SERVER, *NEVER, "pyarrow")) == set()
