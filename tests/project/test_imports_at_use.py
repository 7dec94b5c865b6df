"""What each process imports: nothing that only training, plots or the lab need, and tables where they are used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# For training, plots, reports, the lab, development, and for compiling, which is done once and cached.
NEVER = ("sklearn", "scipy", "joblib", "matplotlib", "jinja2", "threadpoolctl", "optuna", "distributed", "pandas", "rich",
         "aioquic", "trafficrefinery_lab", "numba")  # fmt: skip
TABLES = ("polars", "pyarrow")
SERVER = ("waitress", "prometheus_client")

PROCESSES = {
    "trafficrefinery.daemon.workers.capturing": (*NEVER, *TABLES, *SERVER),
    "trafficrefinery.daemon.workers.naming": (*NEVER, *TABLES, *SERVER),
    "trafficrefinery.daemon.supervisor": (*NEVER, "polars"),
    "trafficrefinery.daemon.workers.aggregating": (*NEVER, "polars"),
    "trafficrefinery.daemon.workers.inference": (*NEVER, "polars"),
    "trafficrefinery.replaying.single": (*NEVER, *TABLES, *SERVER),
    "trafficrefinery.models.stream": (*NEVER, "polars"),
}
"""Module with the body of a process: what it does not import."""


@pytest.mark.parametrize("module", PROCESSES)
def test_a_process_imports_only_what_it_needs_to_begin(module):
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in json.loads(done.stdout)} & set(PROCESSES[module]) == set()
