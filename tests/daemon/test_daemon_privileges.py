"""The daemon that root started by hand: what its processes may still do, and who can read what it writes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support import replay_runs
from support.daemon_runs import run
from support.networks import wire
from trafficrefinery.daemon.privileges import CAPTURE, FILES, SUPERVISOR, XDP_SUPERVISOR, Capability

__all__ = ["run", "wire"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to give up")


def bits(kept):
    return sum(1 << one for one in kept)


def capabilities(pid):
    """Of each thread: what it may do; and what the processes that it starts may."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.split(":\t") for line in (task / "status").read_text().splitlines() if ":\t" in line)
        found.append({name: int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd")})
        found[-1] |= {"NoNewPrivs": int(fields["NoNewPrivs"]), "name": fields["Name"]}
    return found


def main_thread(pid):
    fields = dict(
        line.split(":\t") for line in Path(f"/proc/{pid}/task/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return int(fields["CapPrm"], 16)


SCRIPT = """
import os, subprocess, sys
from trafficrefinery.daemon.privileges import FILES, keep_only, permitted
keep_only(FILES)
print(permitted())
subprocess.run([sys.executable, "-c", "from trafficrefinery.daemon.privileges import permitted; print(permitted())"])
try:
    os.setuid(1)
except PermissionError:
    print("no setuid")
keep_only(())
print(permitted())
subprocess.run(["/bin/sh", "-c", "grep CapEff /proc/self/status"])
"""


def test_what_is_given_up_does_not_come_back_in_processes_that_are_started():
    one_thread = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as `run` sets it: a process gives up what its thread has
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=one_thread)
    assert sorted(done.stdout.splitlines()) == sorted(["2", "2", "no setuid", "0", "CapEff:\t0000000000000000"])
    assert done.stderr == ""


@pytest.mark.parametrize("source", ["afpacket", "afxdp", "pcap"])
def test_processes_keep_what_they_need(run, source):
    daemon = run(Capture={"Source": source})
    processes = daemon.processes()
    most = XDP_SUPERVISOR if source == "afxdp" else SUPERVISOR
    assert main_thread(daemon.pid) == bits(most)
    for name, pid in processes.items():
        expected = 0 if name.startswith("worker") else bits(FILES)
        assert main_thread(pid) == expected, name
        for thread in capabilities(pid):
            assert thread["NoNewPrivs"] == 1
            assert thread["CapBnd"] & ~bits(most) == 0
            assert thread["CapInh"] == thread["CapAmb"] == 0
            if name == "aggregator":  # which reads no packets; its libraries start threads when they are imported
                continue
            may_have = bits((*FILES, Capability.SYS_NICE, *(CAPTURE if source == "pcap" else ())))
            assert thread["CapPrm"] & ~may_have == 0, (name, thread)
    # A worker that is killed comes back, captures, and has given up as much.
    os.kill(processes["worker0"], signal.SIGKILL)
    daemon.wait_until(
        lambda: (
            (pid := daemon.processes().get("worker0", processes["worker0"])) != processes["worker0"]
            and main_thread(pid) == 0
        ),
        "no other worker came",
        300,
    )
    assert daemon.stop() == 0
    for path in (daemon.out, *daemon.out.rglob("*"), *(daemon.folder / "state").rglob("*")):
        assert not path.stat().st_mode & stat.S_IRWXO, path


def test_what_root_replays_is_not_for_everybody(tmp_path):
    trace = replay_runs.traces.write_trace(tmp_path / "trace.pcap", replay_runs.frames())
    config = replay_runs.configuration(tmp_path)
    options = ["-c", config, "-o", tmp_path / "out", "--write-pcap", tmp_path / "packets", "--quiet"]
    script = "import os, sys; os.umask(0o022); from trafficrefinery.cli.main import main; main(sys.argv[1:])"
    subprocess.run([sys.executable, "-c", script, "replay", trace, *options], check=True)
    written = [*(tmp_path / "out").rglob("*"), *(tmp_path / "packets").rglob("*")]
    assert len(written) > 3
    for path in (tmp_path / "out", tmp_path / "packets", *written):
        assert not path.stat().st_mode & stat.S_IRWXO, path
