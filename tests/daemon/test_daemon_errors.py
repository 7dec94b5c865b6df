"""What hinders the start of the daemon: one line that says what and what to do, status 2, at once."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.daemon_runs import LISTEN, Daemon, configuration
from support.networks import Namespace, Wire, needs_command, needs_root


class End(NamedTuple):
    status: int
    error: str


@pytest.fixture(scope="module")
def wire():
    needs_root()
    made = Wire()
    made.far.run(needs_command("ip", "iproute2"), "link", "set", "lo", "up")
    yield made
    made.close()


def run(folder: Path, namespace: Namespace, prefix: tuple[str, ...] = (), **changes: Any) -> End:
    """Run the daemon until it gives up; most of what that takes is importing the compiler and the tables."""
    daemon = Daemon(folder, configuration(**changes), namespace)
    command = [*prefix, sys.executable, "-m", "trafficrefinery", "run", "-c", str(daemon.path)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with namespace.inside():
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    sys.stdout.write(f"{cpu_s:.1f} s of CPU: {done.stderr}")
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    return End(done.returncode, done.stderr.removeprefix("error: ").strip())


def check(end: End, *words: str) -> None:
    assert end.status == 2
    for word in words:
        assert word in end.error


def test_no_such_interface(wire, tmp_path):
    end = run(tmp_path, wire.far, Capture={"Interfaces": ["miror0"]})
    check(end, "Capture.Interfaces", 'there is no interface "miror0"', 'did you mean "mirror0"?')


def test_no_interface_at_all(wire, tmp_path):
    check(run(tmp_path, wire.far, Capture={"Interfaces": []}), str(tmp_path / "daemon.json"), "Capture.Interfaces")


def test_no_permission(wire, tmp_path):
    """A user without capabilities. It is root by number, who may read the interpreter wherever that is."""
    setpriv = (needs_command("setpriv", "util-linux"), "--bounding-set=-all", "--inh-caps=-all")
    end = run(tmp_path, wire.far, setpriv)
    check(end, "CAP_NET_RAW", "CAP_NET_ADMIN", "systemd unit grants them (AmbientCapabilities)")


def test_a_ring_that_is_too_large_for_memory(wire, tmp_path):
    end = run(tmp_path, wire.far, Capture={"RingSize": "1024GiB", "BlockSize": "1MiB"})
    check(end, "Capture.RingSize", "1048576 MiB", "are available", "lower RingSize or Workers")


def test_a_block_that_is_too_small_for_a_frame(wire, tmp_path):
    needs_command("ip", "iproute2")
    wire.set_far("mtu", "9000")
    try:
        end = run(tmp_path, wire.far, Capture={"RingSize": "64KiB", "BlockSize": "4KiB"})
    finally:
        wire.set_far("mtu", "1500")
    check(end, "Capture.BlockSize", "9000", "16384B")


def test_a_port_in_use(wire, tmp_path):
    host, port = LISTEN.split(":")
    with wire.far.inside(), socket.socket() as other:
        other.bind((host, int(port)))
        other.listen()
        check(run(tmp_path, wire.far), "Metrics.Listen", LISTEN, "another program listens there", "choose another port")


def test_an_output_folder_that_is_a_file(wire, tmp_path):
    (tmp_path / "file").write_text("")
    end = run(tmp_path, wire.far, OutFolder=str(tmp_path / "file"))
    check(end, str(tmp_path / "file"))


def test_an_output_folder_that_cannot_be_made(wire, tmp_path):
    end = run(tmp_path, wire.far, OutFolder="/proc/records")
    check(end, "/proc/records")


def test_an_output_folder_on_a_disk_that_is_read_only(wire, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], check=True)
    try:
        check(run(tmp_path, wire.far, OutFolder=str(folder)), str(folder), "Read-only file system")
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_no_output_folder(wire, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(configuration()))
    command = [sys.executable, "-m", "trafficrefinery", "run", "-c", path]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (2, f"error: {path}: OutFolder: is missing; set it, or give --out DIR\n")


def test_a_core_that_is_not_there(wire, tmp_path):
    check(run(tmp_path, wire.far, Capture={"Cpus": [4095]}), "Capture.Cpus[0]", "there is no core 4095")


@pytest.fixture
def running(wire, tmp_path):
    """A daemon on an interface without link."""
    (tmp_path / "first").mkdir()
    wire.near.run("ip", "link", "set", wire.near_name, "down")
    daemon = Daemon(tmp_path / "first", configuration(Metrics={"Listen": "127.0.0.1:9465"}), wire.far)
    yield daemon
    daemon.end()
    wire.near.run("ip", "link", "set", wire.near_name, "up")


def test_without_link_a_daemon_waits_and_another_one_may_not_write_to_its_folder(wire, tmp_path, running):
    running.start()
    assert "mirror0 is down or has no carrier; capture starts when it comes up" in running.log
    (tmp_path / "second").mkdir()
    end = run(tmp_path / "second", wire.far, OutFolder=str(running.out))
    check(end, str(running.out), "another daemon (pid ", "stop it, or name another folder with OutFolder")
    wire.near.run("ip", "link", "set", wire.near_name, "up")
    running.wait_until(lambda: running.process.poll() is None, "it ended")
    assert running.stop() == 0
