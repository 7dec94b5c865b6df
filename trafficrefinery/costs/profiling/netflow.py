"""What NetFlow of the same traffic takes on the disk: by a real exporter and collector, where these are installed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from trafficrefinery.capture.traces.reader import PcapWriter, TraceReader
from trafficrefinery.system.processes import end_with_parent

_EXPORTER, _COLLECTOR = "softflowd", "nfcapd"
ACTIVE_TIMEOUT_S = 300
"""The longest that a flow goes on without an export; the paper's five minutes."""
_MOST_BYTES = 2 << 30  # of the trace that the exporter reads
_BUFFER_BYTES = 8_000_000
_START_S, _QUIET_S, _STOP_S, _EXPORT_S = 20.0, 0.5, 20.0, 600.0


class NetFlow(NamedTuple):
    """What the collector wrote.

    Args:
        absent: why there is nothing; empty when there is.
        packets: of the trace that were exported.
        lost: flow records that did not reach the collector.
    """

    absent: str
    records: int = 0
    bytes: int = 0
    packets: int = 0
    lost: int = 0


def netflow(traces: list[str], folder: Path) -> NetFlow:
    """Export the flows of traces as NetFlow version 9 over the loopback interface, and collect them.

    Args:
        folder: for the files, which may be removed after.
    """
    paths = {name: shutil.which(name, path=_search_path()) for name in (_EXPORTER, _COLLECTOR)}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        packages = {_EXPORTER: "softflowd", _COLLECTOR: "nfdump"}
        wanted = " ".join(packages[name] for name in missing)
        return NetFlow(f"{' and '.join(missing)} not installed (Debian: apt-get install {wanted})")
    trace = folder / "exported.pcap"
    _write(traces, trace)
    flows = folder / "flows"
    flows.mkdir()
    port = _free_port()
    collector = subprocess.Popen(
        [str(paths[_COLLECTOR]), "-b", "127.0.0.1", "-p", str(port), "-w", str(flows), "-B", str(_BUFFER_BYTES)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=end_with_parent,  # noqa: PLW1509
    )  # fmt: skip
    try:
        if not _listens(collector, port):
            return NetFlow(f"{_COLLECTOR} does not start: {_last_line(_stopped(collector))}")
        said = _export(str(paths[_EXPORTER]), trace, port, folder)
        if isinstance(said, NetFlow):
            return said
        time.sleep(_QUIET_S)
        told = _stopped(collector)
    finally:
        if collector.poll() is None:
            collector.kill()
            collector.communicate()
        trace.unlink()
    sent = re.search(r"Flows exported: \d+ \((\d+) records\)", said)
    packets = re.search(r"Packets processed: (\d+)", said)
    received = sum(map(int, re.findall(r"Ident: \S+ Flows: (\d+)", told)))
    size = sum(path.stat().st_size for path in flows.rglob("nfcapd.*"))
    if sent is None or packets is None:
        return NetFlow(f"{_EXPORTER} does not tell what it exported")
    return NetFlow("", received, size, int(packets[1]), int(sent[1]) - received)


def _export(exporter: str, trace: Path, port: int, folder: Path) -> str | NetFlow:
    command = [
        exporter, "-d", "-6", "-r", str(trace), "-n", f"127.0.0.1:{port}", "-v", "9",
        "-t", f"maxlife={ACTIVE_TIMEOUT_S}", "-m", "1000000", "-p", str(folder / "pid"), "-c", "none",
    ]  # fmt: skip
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_EXPORT_S)
    except subprocess.TimeoutExpired:
        return NetFlow(f"{_EXPORTER} did not end within {_EXPORT_S:.0f} s")
    if ran.returncode:
        return NetFlow(f"{_EXPORTER} failed: {_last_line(ran.stderr or ran.stdout)}")
    return ran.stdout + ran.stderr


def _search_path() -> str:
    """Daemons lie where users do not look."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"


def _write(traces: list[str], path: Path) -> None:
    """The exporter reads plain pcap of one link type."""
    size = 0
    with TraceReader(traces) as reader:
        writer: PcapWriter | None = None
        for block in reader:
            if writer is None:
                writer = PcapWriter(path, int(block.frames["link_type"][0]))
            writer.write_frames(block)
            size += int(block.frames["captured_bytes"].sum())
            if size > _MOST_BYTES:
                break
        if writer is not None:
            writer.close()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(collector: subprocess.Popen[str], port: int) -> bool:
    """Whether the collector has its port before long."""
    wanted = f":{port:04X}"
    until = time.monotonic() + _START_S
    while time.monotonic() < until and collector.poll() is None:
        if any(line.split()[1].endswith(wanted) for line in Path("/proc/net/udp").read_text().splitlines()[1:]):
            return True
        time.sleep(0.05)
    return False


def _stopped(collector: subprocess.Popen[str]) -> str:
    """End the collector, which completes its files; what it said."""
    collector.terminate()
    try:
        return collector.communicate(timeout=_STOP_S)[0]
    except subprocess.TimeoutExpired:
        collector.kill()
        return collector.communicate()[0]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"
