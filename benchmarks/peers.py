"""What a user would pick instead, side by side on the same traces, with the nearest equal output.

    python benchmarks/peers.py --install     also makes virtual environments for the tools in Python
    python benchmarks/peers.py --quick       small traces: does it run?

From Debian: `apt-get install tshark tcpdump softflowd nfdump`. A tool that is not there is listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import workloads
from measure import Figure, Report, markdown
from packet_path import ALL_TRAFFIC, COUNTERS, THREE

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent / ".cache" / "peers"
FAST, SLOW, VERY_SLOW = 5_000_000, 200_000, 5_000
FIELDS = [
    "frame.time_epoch",
    "ip.src",
    "ip.dst",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "ip.len",
    "tcp.len",
    "tcp.seq",
]
NFSTREAM = "import sys, nfstream; nfstream.NFStreamer(source=sys.argv[1], statistical_analysis=True, n_dissections=0, " \
    "n_meters=1, active_timeout=10).to_csv(sys.argv[2])"  # fmt: skip
# The command line of cicflowmeter 0.5 hands its arguments on in the wrong order.
CICFLOWMETER = "import sys, cicflowmeter.sniffer as c; s, session = c.create_sniffer(sys.argv[1], None, 'csv', sys.argv[2]); " \
    "s.start(); s.join(); session.flush_flows()"  # fmt: skip
# A process of its own starts the tool: what a process has in memory at most begins with what its parent had.
LAUNCH = """
import json, os, sys, time
before = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)
wall_s = time.perf_counter() - before
print(json.dumps([wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)]),
      file=open(os.environ["USAGE"], "w"))
"""


class Tool(NamedTuple):
    """A peer.

    Args:
        output: what its output is nearest to.
        packets: how many it is given: some seconds' worth.
        command: of a trace and a folder for the output; its standard output goes to a file in the folder too.
        needs: the program, or a package of Python.
        writes: whether the output is in files, where it can be seen whether there is any.
    """

    output: str
    packets: int
    command: Callable[[str, str], list[str]]
    needs: str
    writes: bool = True


def _ours(collect: list[str], workers: int) -> Callable[[str, str], list[str]]:
    def command(trace: str, out: str) -> list[str]:
        config = Path(out) / "config.json"
        config.write_text(json.dumps({"Services": [{"Name": "All", "Filter": ALL_TRAFFIC, "Collect": collect}]}))
        replay = [sys.executable, "-m", "trafficrefinery", "replay", trace, "-c", str(config), "-o", f"{out}/records"]
        return [*replay, "--workers", str(workers), "--quiet"]

    return command


TOOLS = {
    "trafficrefinery, counters": Tool("8 fields, 10 s", FAST, _ours(COUNTERS, 1), sys.executable),
    "trafficrefinery, three classes": Tool("TCP, segments, counters, 10 s", FAST, _ours(THREE, 1), sys.executable),
    "trafficrefinery, three classes, 2 workers": Tool(
        "TCP, segments, counters, 10 s", FAST, _ours(THREE, 2), sys.executable
    ),
    "tcpdump": Tool("none: only copies", FAST, lambda t, _: ["tcpdump", "-r", t, "-w", "/dev/null"], "tcpdump", False),
    "softflowd": Tool(
        "counters, to a socket", FAST,
        lambda t, o: ["softflowd", "-d", "-r", t, "-n", "127.0.0.1:9", "-v", "9", "-m", "2000000", "-t", "maxlife=10",
                      "-p", f"{o}/pid", "-c", "none"], "softflowd", writes=False,
    ),
    "nfpcapd": Tool("counters", FAST, lambda t, o: ["nfpcapd", "-r", t, "-w", o, "-e", "10,10"], "nfpcapd"),
    "nfstream": Tool(
        "40 statistics", SLOW, lambda t, o: [_python("nfstream"), "-c", NFSTREAM, t, f"{o}/flows.csv"], "nfstream"
    ),
    "dpkt loop": Tool(
        "counters, 10 s", SLOW, lambda t, o: [sys.executable, str(HERE / "dpkt_loop.py"), t, f"{o}/flows"], sys.executable
    ),
    "tshark, fields": Tool(
        "10 fields a packet", SLOW,
        lambda t, _: ["tshark", "-r", t, "-T", "fields", *(x for field in FIELDS for x in ("-e", field))], "tshark",
    ),
    "tshark, conversations": Tool(
        "counters", SLOW, lambda t, _: ["tshark", "-r", t, "-q", "-z", "conv,tcp", "-z", "conv,udp"], "tshark"
    ),
    "cicflowmeter": Tool(
        "82 fields", VERY_SLOW,
        lambda t, o: [_python("cicflowmeter"), "-c", CICFLOWMETER, t, f"{o}/flows.csv"], "cicflowmeter",
    ),
}  # fmt: skip

TRACES = {"1,000 flows": (workloads.exchanges, 1_000), "100,000 flows": (workloads.exchanges, 100_000)}
if workloads.shared_data() is not None:
    TRACES["real mix"] = (workloads.real_mix, 0)


def _python(package: str) -> str:
    return str(ENVIRONMENTS / package / "bin" / "python")


def install(package: str) -> None:
    """A virtual environment for one tool in Python, with the newest Python that is there; they do not agree on NumPy."""
    python = next(filter(None, (shutil.which(f"python3.{minor}") for minor in (13, 12))), sys.executable)
    for command in (
        [python, "-m", "venv", ENVIRONMENTS / package],
        [_python(package), "-m", "pip", "install", package],
    ):
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            return


def absence(tool: Tool) -> str | None:
    """Why a tool cannot be run, if so."""
    if tool.needs in ("nfstream", "cicflowmeter"):
        if not Path(_python(tool.needs)).exists():
            return "not installed; see --install"
        found = subprocess.run([_python(tool.needs), "-c", f"import {tool.needs}"], check=False, capture_output=True)
        return f"not installed; see --install (`import {tool.needs}` fails)" if found.returncode else None
    return None if shutil.which(tool.needs) else f"no program {tool.needs}"


class Run(NamedTuple):
    """One run of a tool."""

    wall_s: float
    cpu_s: float
    memory_bytes: int


def measure(tool: Tool, trace: Path) -> Run | str:
    """Run a tool once; a text says what went wrong."""
    with tempfile.TemporaryDirectory(dir=trace.parent) as out, tempfile.NamedTemporaryFile() as usage:
        command = [sys.executable, "-I", "-S", "-c", LAUNCH, *tool.command(str(trace), out)]
        with (Path(out) / "stdout").open("wb") as stdout:
            environment = {**os.environ, "USAGE": usage.name}
            done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=environment, check=True)
        wall_s, cpu_s, memory_bytes, code = json.loads(Path(usage.name).read_text())
        if code:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            return f"exit {code}: {words[-1] if words else ''}"
        if tool.writes and sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file()) < 1000:
            return "wrote nothing"
    return Run(wall_s, cpu_s, memory_bytes)


def traces_of(title: str, directory: Path, divide: int) -> dict[int, Path]:
    """Traces of one kind, for fast and slow tools; a tiny one, which shows how long a tool takes to start."""
    make, flows = TRACES[title]
    found = {}
    for packets in (FAST, SLOW, VERY_SLOW, 0):
        size = max(packets // divide, 100)
        path = directory / f"peers-{make.__name__}-{flows}-{size}.pcap"
        if not path.exists():
            make(path, size, max(1, min(flows, size // 8)))
        found[packets] = path
    return found


def count(trace: Path) -> int:
    import floor

    return floor.walk(trace)


def side_by_side(report: Report, directory: Path, repetitions: int, divide: int) -> list[list[str]]:
    """Each tool on each trace, in turn; returns the rows of the table."""
    reasons = {name: reason for name, tool in TOOLS.items() if (reason := absence(tool)) is not None}
    here = {name: tool for name, tool in TOOLS.items() if name not in reasons}
    rates: dict[str, dict[str, str]] = {name: {} for name in TOOLS}
    memory, starts = dict.fromkeys(TOOLS, 0), dict[str, float]()
    for title in TRACES:
        traces = traces_of(title, directory, divide)
        packets = {size: count(path) for size, path in traces.items()}
        runs: dict[str, list[tuple[Run | str, Run | str]]] = {name: [] for name in here}
        for _ in range(repetitions + 1):  # the first fills caches
            for name, tool in here.items():
                runs[name].append((measure(tool, traces[0]), measure(tool, traces[tool.packets])))
        for name, tool in here.items():
            good = [
                (start, whole) for start, whole in runs[name][1:] if isinstance(start, Run) and isinstance(whole, Run)
            ]
            if len(good) < repetitions:
                rates[name][title] = next(run for pair in runs[name] for run in pair[::-1] if isinstance(run, str))
                continue
            starts[name] = statistics.median(start.wall_s for start, _ in good)
            more = (packets[tool.packets] - packets[0]) / 1e3
            seconds = [whole.wall_s - starts[name] for _, whole in good]
            figure = Figure(f"{name}: {title}", "kpps", [more / max(second, 1e-3) for second in seconds])
            report.add(figure)
            rates[name][title] = f"{figure.value:,.0f}" if figure.value >= 10 else f"{figure.value:.1f}"
            memory[name] = max(memory[name], *(whole.memory_bytes for _, whole in good))
    rows = []
    for name, tool in TOOLS.items():
        cells = (
            [rates[name].get(title, "") for title in TRACES]
            if name in here
            else [reasons[name]] + [""] * (len(TRACES) - 1)
        )
        start = f"{starts[name]:.2f}" if name in starts else ""
        rows.append([name, tool.output, *cells, f"{memory[name] / 1e6:,.0f}" if memory[name] else "", start])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small traces; the figures mean nothing")
    parser.add_argument("--install", action="store_true", help="install the tools in Python that are not there")
    parser.add_argument("--repetitions", type=int, help="default 3, quick 1")
    parser.add_argument("--traces", type=Path, help="keep the traces here, and use the ones that are there")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where the results go")
    arguments = parser.parse_args()
    if arguments.install:
        for package in ("nfstream", "cicflowmeter"):
            install(package)
    repetitions = arguments.repetitions or (1 if arguments.quick else 3)
    report = Report("peers-quick" if arguments.quick else "peers", repetitions=repetitions)
    with tempfile.TemporaryDirectory(prefix="trafficrefinery-") as made:
        directory = arguments.traces or Path(made)
        directory.mkdir(parents=True, exist_ok=True)
        rows = side_by_side(report, directory, repetitions, 100 if arguments.quick else 1)
    columns = ["thousand packets a second", "output", *TRACES, "memory, MB", "start, s"]
    report.about["table"] = [columns, *rows]
    print(markdown(columns, rows))
    print(report.write(arguments.results))


if __name__ == "__main__":
    main()
