"""Memory and CPU time of the daemon on a quiet link: each process of `trafficrefinery run`, with the video services.

    sudo python benchmarks/memory.py [--source afpacket] [--workers 1] [--model lab] [--modules] [--seconds 60]

It runs in a network namespace of its own, on one end of a pair of virtual interfaces. RSS counts a page in each process
that has it. PSS counts a page that N processes share as an Nth for each, so the sum is what the machine has less while
the daemon runs; a part of it are pages of files, which the kernel drops when it needs memory. Private pages are those that
no other process has.
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

from measure import stamp

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


def cpu_s(pid: int) -> float:
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def loaded(pid: int) -> list[str]:
    """The large packages that a process has files of in memory: those with compiled modules."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return [name for name in HEAVY if f"site-packages/{name}/" in maps or f"site-packages/_{name}" in maps]


def main() -> None:
    """Start the daemon, wait until it is idle, and print a row for each process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--source", choices=["afpacket", "afxdp"], default="afpacket")
    parser.add_argument("--model", help="of the inference worker; without one, there is no such process")
    parser.add_argument("--seconds", type=int, default=60, help="for which CPU time is measured")
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
                "Capture": {"Source": given.source, "Interfaces": ["left0"], "Workers": given.workers, "RingSize": "8MiB", "BlockSize": "256KiB"},
                "Inference": {"Models": [given.model] if given.model else []},
            }  # fmt: skip
            (Path(folder) / "video.json").write_text(json.dumps(config))
            measure(inside, folder, given)
    finally:
        subprocess.run(["ip", "netns", "delete", NAMESPACE], check=False)


def measure(inside: list[str], folder: str, given: argparse.Namespace) -> None:
    """Run the daemon and print its memory and CPU time."""
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
        before = {pid: cpu_s(pid) for pid in family(started.pid)}
        time.sleep(given.seconds)
        rows = []
        for pid, from_s in before.items():
            used = memory_kib(pid)
            shares = [*(kib / 1024 for kib in used.values()), 100 * (cpu_s(pid) - from_s) / given.seconds]
            more = " ".join(loaded(pid)) if given.modules else ""
            rows.append((Path(f"/proc/{pid}/comm").read_text().strip(), shares, more))
        rows.append(("all", [sum(column) for column in zip(*(shares for _, shares, _ in rows), strict=True)], ""))
        print(stamp())
        print(f"{'process':16} {'RSS MiB':>8} {'PSS MiB':>8} {'private':>8} {'CPU %':>6}")
        for name, (rss, pss, private, cpu), more in rows:
            print(f"{name:16} {rss:8.0f} {pss:8.0f} {private:8.0f} {cpu:6.2f}  {more}".rstrip())
        os.kill(started.pid, signal.SIGTERM)
        started.wait(60)


if __name__ == "__main__":
    main()
