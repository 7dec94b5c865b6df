"""Memory of the daemon on a quiet link: each process of `trafficrefinery run`, with the video services and a model.

    sudo python benchmarks/memory.py [--workers 1] [--model lab] [--modules]

It runs in a network namespace of its own, on one end of a pair of virtual interfaces. PSS counts a page that N processes
share as an Nth for each, so the sum is what the machine has less while the daemon runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "tr-memory"
HEAVY = ("numba", "llvmlite", "polars", "pyarrow", "scipy", "sklearn", "pandas", "matplotlib", "jinja2", "re2", "rich",
         "prometheus_client", "pydantic", "cryptography", "dpkt", "joblib", "waitress", "orjson")  # fmt: skip
START_S, SETTLE_S = 300, 15


def family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from family(int(child))


def memory_kib(pid: int) -> dict[str, int]:
    """Figures of a process, in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {"rss": found["Rss"], "pss": found["Pss"], "private": found["Private_Clean"] + found["Private_Dirty"]}


def loaded(pid: int) -> list[str]:
    """The large packages that a process has files of in memory: those with compiled modules."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return [name for name in HEAVY if f"site-packages/{name}/" in maps or f"site-packages/_{name}" in maps]


def main() -> None:
    """Start the daemon, wait until it is idle, and print a row for each process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--model", default="lab")
    parser.add_argument("--modules", action="store_true", help="also the large packages with compiled modules in each")
    given = parser.parse_args()
    text = "\n".join(
        line for line in (ROOT / "configs/video.json").read_text().splitlines() if not line.lstrip().startswith("//")
    )
    config = json.loads(text)
    inside = ["ip", "netns", "exec", NAMESPACE]
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        subprocess.run([*inside, "ip", "link", "add", "left0", "type", "veth", "peer", "name", "right0"], check=True)
        for name in ("lo", "left0", "right0"):
            subprocess.run([*inside, "ip", "link", "set", name, "up"], check=True)
        with tempfile.TemporaryDirectory() as folder:
            config |= {
                "OutFolder": f"{folder}/out", "Metrics": {"Listen": "127.0.0.1:9464"},
                "Capture": {"Interfaces": ["left0"], "Workers": given.workers, "RingSize": "8MiB", "BlockSize": "256KiB"},
                "Inference": {"Models": [given.model]},
            }  # fmt: skip
            (Path(folder) / "video.json").write_text(json.dumps(config))
            measure(inside, folder, given.modules)
    finally:
        subprocess.run(["ip", "netns", "delete", NAMESPACE], check=False)


def measure(inside: list[str], folder: str, modules: bool) -> None:
    """Run the daemon and print its memory."""
    command = [*inside, sys.executable, "-m", "trafficrefinery", "run", "-c", f"{folder}/video.json"]
    # pandas, which PyArrow takes where it finds it, is installed for the tests only.
    Path(folder, "pandas.py").write_text("raise ImportError\n")
    environment = {**os.environ, "PYTHONPATH": folder}
    with (
        Path(folder, "log").open("w+b") as log,
        subprocess.Popen(command, stderr=log, stdout=log, env=environment) as started,
    ):
        until = time.monotonic() + START_S
        ready = [
            "bash",
            "-c",
            "exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; grep -q '200 OK' <&3",
        ]
        while subprocess.run([*inside, *ready], check=False, stderr=subprocess.DEVNULL).returncode:
            if started.poll() is not None or time.monotonic() > until:
                started.kill()
                raise SystemExit(f"the daemon did not start:\n{Path(folder, 'log').read_text()}")
            time.sleep(0.5)
        time.sleep(SETTLE_S)
        total = {"rss": 0, "pss": 0, "private": 0}
        print(f"{'process':16} {'RSS MiB':>8} {'PSS MiB':>8} {'private':>8}")
        for pid in family(started.pid):
            name, used = Path(f"/proc/{pid}/comm").read_text().strip(), memory_kib(pid)
            total = {key: total[key] + used[key] for key in total}
            more = " ".join(loaded(pid)) if modules else ""
            print(
                f"{name:16} {used['rss'] / 1024:8.0f} {used['pss'] / 1024:8.0f} {used['private'] / 1024:8.0f}  {more}"
            )
        print(f"{'all':16} {total['rss'] / 1024:8.0f} {total['pss'] / 1024:8.0f} {total['private'] / 1024:8.0f}")
        os.kill(started.pid, signal.SIGTERM)
        started.wait(60)


if __name__ == "__main__":
    main()
