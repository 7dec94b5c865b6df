"""`trafficrefinery run` as a user runs it, in tests: in a network of its own, waited for, asked, and ended.

The first daemon of a machine compiles for a minute; later ones load what it compiled (TRAFFICREFINERY_CACHE_DIR).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dpkt
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support import networks, replay_runs, replays, traces
from support.naive.frames import Frame
from trafficrefinery.cli import main as cli

LISTEN = "127.0.0.1:9464"
COMPILE_TIMEOUT_S, TIMEOUT_S = 500, 60
_POLL_S = 0.02


def configuration(interfaces: Sequence[str] = ("mirror0",), **changes: Any) -> dict[str, Any]:
    """That of all tests, whose classes log each packet, with intervals that a test can wait for; `changes` of a
    section are merged into it."""
    services = [{key: value for key, value in service.items() if key != "Interval"} for service in replays.SERVICES]
    small = {"RingSize": "8MiB", "BlockSize": "256KiB", "Workers": 1}
    config = {
        **replays.BASE, "Interval": "2s", "Services": services, "Metrics": {"Listen": LISTEN},
        "Capture": {"Interfaces": list(interfaces), **small}, "Daemon": {"MaxWaiting": "64MiB"},
    }  # fmt: skip
    for key, value in changes.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    return config


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """What `condition` gives as soon as that is true."""
    until = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < until, what
        time.sleep(_POLL_S)
    return found


class Daemon:
    """One daemon, with folders of its own in `folder`: `out`, `state`; started again, it finds them.

    Args:
        namespace: the network it runs in; None: the test's.
        prefix: a command that runs the rest of its arguments, such as `setpriv ...`.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], namespace: networks.Namespace | None = None,
        *options: object, prefix: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.folder, self.namespace, self.out = folder, namespace, folder / "out"
        self._options, self._prefix = options, prefix
        self.path = folder / "daemon.json"
        self.write(config)
        self._log_path = folder / "log"
        self._log_start = 0
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, config: Mapping[str, Any]) -> None:
        """Another configuration, for the next start or reload."""
        self.out = Path(config.get("OutFolder", self.folder / "out"))
        self._listen = config["Metrics"]["Listen"]
        section = {"StateFolder": str(self.folder / "state"), **config.get("Daemon", {})}
        self.path.write_text(json.dumps({**config, "OutFolder": str(self.out), "Daemon": section}))

    def start(self, *, wait: bool = True, **environment: str) -> Daemon:
        """Start it; `wait` until it captures."""
        self._log_start = self._log_path.stat().st_size if self._log_path.exists() else 0
        command = [*self._prefix, sys.executable, "-m", "trafficrefinery", "run", "-c", str(self.path)]
        with self._log_path.open("ab") as log, self._inside():
            self.process = subprocess.Popen(
                [*command, *map(str, self._options)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                start_new_session=True, env={**os.environ, **environment},
            )  # fmt: skip
        if wait:
            self.wait_for("capturing", COMPILE_TIMEOUT_S)
        return self

    def _inside(self) -> contextlib.AbstractContextManager[None]:
        return self.namespace.inside() if self.namespace else contextlib.nullcontext()

    # What it says.

    @property
    def log(self) -> str:
        """What it said since it was started last."""
        with self._log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode()

    def wait_for(self, text: str, timeout_s: float = TIMEOUT_S, times: int = 1) -> None:
        """Until its log has a text."""
        self.wait_until(lambda: self.log.count(text) >= times, f"never said {text!r}", timeout_s)

    def wait_until(self, condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
        """As the function, but it fails at once when the daemon ends, and tells what that said."""
        until = time.monotonic() + timeout_s
        while not (found := condition()):
            assert self.process is not None
            assert self.process.poll() is None, f"{what}: ended with {self.process.returncode}\n{self.log}"
            assert time.monotonic() < until, f"{what}\n{self.log}"
            time.sleep(_POLL_S)
        return found

    def get(self, path: str) -> str:
        """The body of an answer of the query interface."""
        with self._inside():
            try:
                with urllib.request.urlopen(f"http://{self._listen}{path}", timeout=10) as answer:
                    return str(answer.read().decode())
            except urllib.error.HTTPError as error:
                with error:
                    return error.read().decode()

    def metrics(self) -> dict[str, float]:
        """Metric → its value, summed over labels, without the prefix; `metric{value of a label}` for each by itself."""
        values: dict[str, float] = defaultdict(float)
        for family in text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                name = sample.name.removeprefix("trafficrefinery_")
                values[name] += sample.value
                for label in sample.labels.values():
                    values[f"{name}{{{label}}}"] += sample.value
        return values

    def wait_for_packets(self, count: int) -> None:
        """Until so many packets were taken from rings or lost, since the daemon or its generation began."""
        self.wait_until(
            lambda: (m := self.metrics())["packets_total"] + m["kernel_drops_total"] >= count,
            f"{count} packets never came",
        )

    # Its processes.

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def processes(self) -> dict[str, int]:
        """worker0, names, aggregator, ... → pid, of those that run."""
        found = {}
        for pid in children_of(self.pid):
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if name.startswith("tr-"):
                    found[name.removeprefix("tr-")] = pid
        return found

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def stop(self, timeout_s: float = 30) -> int:
        """SIGTERM; the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        assert self.process is not None
        try:
            status = self.process.wait(timeout_s)
        finally:
            self.end()
        return status

    def end(self) -> None:
        """At once, when it still runs; its processes end with it."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    # What it wrote.

    def records(self) -> list[dict[str, Any]]:
        return list(lines_in(self.out, "records"))

    def intervals(self) -> list[dict[str, Any]]:
        return list(lines_in(self.out, "intervals"))

    def wait_for_intervals(self, count: int) -> None:
        """Until so many intervals were written."""
        self.wait_until(lambda: len(self.intervals()) >= count, f"{count} intervals were never written")


def children_of(pid: int) -> list[int]:
    """Child processes, of all threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def lines_in(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Whole lines of all files of a kind, complete or not, in the order in which they were opened."""
    for path in sorted(folder.glob(f"{kind}-*.jsonl*")):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)


class Dump:
    """`dumpcap` on an interface, beside the daemon: the kernel gives both the same packets with the same times."""

    def __init__(self, folder: Path, namespace: networks.Namespace, interface: str) -> None:
        command = networks.needs_command("dumpcap", "tshark")
        self.path, self._log = folder / "dump.pcapng", folder / "dump.log"
        with self._log.open("wb") as log:
            self._process = namespace.start(
                command, "-q", "-B", "64", "-i", interface, "-w", self.path, stdin=subprocess.DEVNULL, stderr=log
            )
        wait_until(lambda: "File:" in self._log.read_text(), f"dumpcap does not start: {self._log.read_text()}")

    def stop(self, packets: int) -> Path:
        """The dump, as soon as it has so many packets."""
        wait_until(lambda: self._count() >= packets, f"{packets} packets never came to dumpcap")
        self._process.send_signal(signal.SIGINT)
        self._process.wait(TIMEOUT_S)
        return self.path

    def close(self) -> None:
        """End it, when a test failed before it did."""
        self._process.kill()
        self._process.wait()

    def _count(self) -> int:
        """Packets in the file: enhanced packet blocks of pcapng."""
        data, at, count = self.path.read_bytes(), 0, 0
        while at + 12 <= len(data):
            kind, length = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")
            at += length
            count += kind == 6 and at <= len(data)
        return count


NOTING = """
import os, struct
from pathlib import Path
from trafficrefinery.capture.rings import afxdp

poll, folder = afxdp.XdpReader.poll, Path(__file__).parent


def noted(self, timeout_s):
    block = poll(self, timeout_s)
    if block is not None:
        memory = memoryview(block.buffer)
        with (folder / f"{os.getpid()}.blocks").open("ab") as out:
            for ts, at, size in block.frames[["ts_ns", "offset", "captured_bytes"]].tolist():
                out.write(struct.pack("=qI", ts, size) + bytes(memory[at : at + size]))
    return block


afxdp.XdpReader.poll = noted
"""


def noting_blocks(folder: Path) -> Path:
    """A folder for PYTHONPATH: workers of AF_XDP write there what they are handed over."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NOTING)
    return folder


class Noted:
    """What they wrote, as `Dump`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def stop(self, packets: int) -> Path:
        wait_until(lambda: len(self._frames()) >= packets, f"{packets} packets never came")
        return traces.write_trace(self._folder / "noted.pcap", sorted(self._frames(), key=lambda frame: frame.ts_ns))

    def _frames(self) -> list[Frame]:
        found = []
        for path in self._folder.glob("*.blocks"):
            data, at = path.read_bytes(), 0
            while at < len(data):
                ts_ns, size = struct.unpack_from("=qI", data, at)
                found.append(Frame(ts_ns, data[at + 12 : at + 12 + size], size))
                at += 12 + size
        return found


def replayed(trace: Path, config: Mapping[str, Any], folder: Path) -> tuple[list[Any], list[Any]]:
    """Records and intervals that `replay` writes of a trace with the same configuration."""
    path, out = folder / "replay.json", folder / "replay"
    path.write_text(json.dumps(config))
    assert cli._run(["replay", str(trace), "-c", str(path), "-o", str(out), "--quiet"]) == 0
    return replay_runs.lines(out / "records.jsonl"), replay_runs.lines(out / "intervals.jsonl")


def sent_packets(tcpreplay: str) -> int:
    """How many packets tcpreplay says that it sent."""
    found = re.search(r"Actual: (\d+) packets", tcpreplay)
    assert found is not None, tcpreplay
    return int(found[1])


@pytest.fixture
def run(tmp_path: Path, wire: networks.Wire) -> Iterator[Callable[..., Daemon]]:
    """Start a daemon at the far end of the wire; `run(folder=..., options=(...), Capture={...})`."""
    wire.far.run(networks.needs_command("ip", "iproute2"), "link", "set", "lo", "up")
    started: list[Daemon] = []

    def start(*, folder: str = "daemon", options: Sequence[object] = (), **changes: Any) -> Daemon:
        (tmp_path / folder).mkdir(exist_ok=True)
        daemon = Daemon(tmp_path / folder, configuration(**changes), wire.far, *options)
        started.append(daemon)
        return daemon.start()

    yield start
    for daemon in started:
        daemon.end()


# What is sent.


def answer(name: str, server: str, client: str = "10.0.0.1") -> bytes:
    """A frame with the DNS answer that gives a name's address to a client."""
    message = dpkt.dns.DNS(id=1, qr=1, rd=1, ra=1)
    message.qd = [dpkt.dns.DNS.Q(name=name, type=dpkt.dns.DNS_A)]
    message.an = [dpkt.dns.DNS.RR(name=name, type=dpkt.dns.DNS_A, ttl=900, rdata=traces.packed(server))]
    return traces.ethernet(traces.ip("10.0.0.53", client, 17, traces.udp(53, 40_000, bytes(message))), up=False)


def datagrams(count: int, client: str = "10.0.0.1", server: str = "192.0.2.5", flows: int = 1) -> list[bytes]:
    """Frames of some flows in turn; by the configuration's prefixes they are of the service Net."""
    made = [
        traces.ethernet(traces.ip(client, server, 17, traces.udp(20_000 + flow, 3478, bytes(100))))
        for flow in range(flows)
    ]
    return [made[number % flows] for number in range(count)]
