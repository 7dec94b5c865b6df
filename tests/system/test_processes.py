"""A child ends with its parent, and leaves Ctrl-C to it; there is one way to start one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.sources import PACKAGE, ROOT, package_files
from trafficrefinery.errors import ElsewhereError
from trafficrefinery.system import processes

PARENT = """
import subprocess, sys, time
from concurrent.futures import ProcessPoolExecutor
from trafficrefinery.errors import ElsewhereError
from trafficrefinery.system import processes

if __name__ == "__main__":
    if sys.argv[1] == "function":
        print(processes.start(time.sleep, 600).pid, flush=True)
    elif sys.argv[1] == "pool":
        pool = ProcessPoolExecutor(1, processes.CONTEXT, processes.begin)
        pool.submit(time.sleep, 600)
        print(*pool._processes, flush=True)
    else:
        print(subprocess.Popen(["sleep", "600"], preexec_fn=processes.end_with_parent).pid, flush=True)
    time.sleep(600)
"""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(what, timeout_s=20) -> bool:
    until = time.monotonic() + timeout_s
    while not what() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(what())


@pytest.mark.parametrize("kind", ["function", "pool", "program"])
def test_a_child_ends_when_its_parent_is_killed(tmp_path, kind):
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, tmp_path / "parent.py", kind], stdout=subprocess.PIPE, text=True,
                          cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as parent:  # fmt: skip
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert runs(child)
        parent.kill()
        parent.wait()
        assert wait_until(lambda: not runs(child))


def test_a_child_that_was_left_alone_before_it_began_does_not_begin(tmp_path):
    (tmp_path / "parent.py").write_text(
        "import os, signal\nfrom trafficrefinery.system import processes\n"
        "if __name__ == '__main__':\n"
        "    child = processes.start(print, 'it runs')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "parent.py"], capture_output=True, text=True, check=False,
                          cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")


def test_an_interrupt_is_the_parents():
    child = processes.start(time.sleep, 600)
    try:
        for _ in range(20):  # also before it has begun
            os.kill(child.pid, signal.SIGINT)
            time.sleep(0.01)
        assert child.is_alive()
    finally:
        processes.end(child)
    assert child.exitcode == -signal.SIGTERM
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT} == set()


def test_a_child_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(processes, "_END_WITHIN_S", 0.2)
    child = processes.start(signal.sigwait, {signal.SIGUSR1})
    wait_until(lambda: "State:\tS" in Path(f"/proc/{child.pid}/status").read_text())
    os.kill(child.pid, signal.SIGSTOP)
    processes.end(child)
    assert not child.is_alive()


@pytest.mark.parametrize("path", [*package_files(), *sorted((ROOT / "lab").rglob("*.py"))],
                         ids=lambda path: str(path.relative_to(ROOT)))  # fmt: skip
def test_there_is_one_way_to_start_a_child(path):
    """The lab's server of forks is another one, with what a session needs loaded; its children end in the same way."""
    name = str(path.relative_to(ROOT))
    if name not in (f"{PACKAGE}/system/processes.py", "lab/trafficrefinery_lab/world.py"):
        assert not re.search(
            r"PDEATHSIG|get_context\(|multiprocessing\.Process\(|os\.fork\(|\bfork\(\)", path.read_text()
        )


def test_a_function_runs_apart_and_its_errors_come_back(capfd):
    assert processes.apart(sum, [1, 2], 3) == 6
    assert processes.apart(os.getpid) != os.getpid()
    assert processes.apart(print, "not part of the answer") is None
    assert capfd.readouterr().err == "not part of the answer\n"
    with pytest.raises(ElsewhereError, match="ValueError: invalid literal") as raised:
        processes.apart(int, "x")
    assert "Traceback" in raised.value.trace
    with pytest.raises(ElsewhereError, match=r"_exit in a process of its own ended \(3\)"):
        processes.apart(os._exit, 3)
