"""A machine in namespaces of its own, over a copy-on-write view of this one's files: with a real systemd, or bare."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("systemctl", "systemd-sysusers", "setpriv", "unshare", "nsenter", "ip")
NAMESPACES = ("mount", "pid", "uts", "ipc", "net", "cgroup")
# Where the machine has what the tests run with: the service sees neither /home nor /root nor /tmp.
CHECKOUT, WHEELS = Path("/usr/local/src/trafficrefinery"), Path("/usr/local/src/wheels")
DEPENDENCIES, INTERPRETER = Path("/usr/local/lib/dependencies"), Path("/opt/interpreter")
_BOOT_TIMEOUT_S = 60


class CannotBootError(Exception):
    """This machine does not let us start a systemd; the message says why."""


class Machine:
    """What was booted; processes that are run here are in its namespaces."""

    def __init__(self, pid: int) -> None:
        self._enter = ["nsenter", "--target", str(pid), *(f"--{name}" for name in NAMESPACES), "--root", "--wd"]
        self.root = Path(f"/proc/{pid}/root")

    def run(self, *command: object, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command as root; its output is text, standard error with it when it fails."""
        environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "SYSTEMD_PAGER": ""}
        entered = [*self._enter, *map(str, command)]
        done = subprocess.run(entered, check=False, capture_output=True, text=True, env=environment, timeout=timeout_s)
        assert done.returncode == 0 or not check, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def show(self, *properties: str, unit: str = "trafficrefinery.service") -> dict[str, str]:
        """Properties of a unit."""
        shown = self.run("systemctl", "show", unit, *(f"--property={name}" for name in properties)).stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def wait_until(self, what: str, timeout_s: float = 60, **properties: str) -> dict[str, str]:
        """Wait until the service's properties are these; fails with the journal."""
        until = time.monotonic() + timeout_s
        while (shown := self.show(*properties)) != properties:
            assert time.monotonic() < until, f"{what}: {shown}\n{self.journal()}"
            time.sleep(0.05)
        return shown

    def journal(self) -> str:
        """What the service said."""
        return self.run("journalctl", "--unit=trafficrefinery.service", "--output=cat", "--no-pager").stdout

    def install(self) -> None:
        """What `make install` does on a user's machine, but packages are those that the tests run with."""
        python = Path(sys.executable).resolve()
        if self.settings():
            python = INTERPRETER / python.relative_to(sys.base_prefix)
        (wheel,) = (self.root / WHEELS.relative_to("/")).glob("*.whl")
        installer = CHECKOUT / "systemd" / "install"
        settings = ["PIP_OPTIONS=--no-deps --no-index", f"PACKAGES={DEPENDENCIES}", *self.settings()]
        self.run("env", *settings, installer, "install", python, WHEELS / wheel.name, timeout_s=600)  # it compiles
        self.run("systemd-sysusers", "trafficrefinery.conf")  # a machine without systemd leaves it to the user
        packages = Path(
            f"usr/local/lib/trafficrefinery/current/lib/python{sysconfig.get_python_version()}/site-packages"
        )
        (self.root / packages / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
        with (self.root / "etc/default/trafficrefinery").open("a") as file:
            file.writelines(line + "\n" for line in self.settings())

    @staticmethod
    def settings() -> list[str]:
        """What the interpreter needs in its environment when it is bound elsewhere than it was built for."""
        if Path(sys.base_prefix).is_relative_to("/usr"):
            return []
        return [f"LD_LIBRARY_PATH={INTERPRETER / 'lib'}"]

    def drop_in(self, name: str, text: str) -> None:
        """Set directives of the unit, or take them back with an empty text."""
        folder = self.root / "etc/systemd/system/trafficrefinery.service.d"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.conf").write_text(text)
        self.run("systemctl", "daemon-reload")


def _binds(wheel: Path) -> list[str]:
    binds = [ROOT, CHECKOUT, wheel.parent, WHEELS, sysconfig.get_path("purelib"), DEPENDENCIES]
    if Machine.settings():
        binds += [sys.base_prefix, INTERPRETER]
    return [str(path) for path in binds]


@contextlib.contextmanager
def booted(wheel: Path) -> Iterator[Machine]:
    """Boot a systemd, and end all of it afterwards; CannotBootError where this machine does not let us."""
    with _control_group() as group, _machine("systemd", wheel, group) as machine:
        yield machine


@contextlib.contextmanager
def bare(wheel: Path) -> Iterator[Machine]:
    """The same without systemd."""
    with _machine("nothing", wheel, None) as machine:
        yield machine


@contextlib.contextmanager
def _machine(init: str, wheel: Path, group: Path | None) -> Iterator[Machine]:
    # Whatever happens to the tests, all of it ends with them.
    unshare = [
        "setpriv",
        "--pdeathsig=KILL",
        "unshare",
        "--fork",
        "--kill-child",
        *(f"--{name}" for name in NAMESPACES),
    ]
    boot = Path(__file__).with_suffix(".sh")
    # The shell joins the control group before its namespaces are made, so that this is the root of theirs.
    join = f"echo 0 >{group}/cgroup.procs;" if group else ""
    with tempfile.TemporaryDirectory(prefix="trafficrefinery-") as folder:
        process = subprocess.Popen(
            ["bash", "-c", f'set -e; {join} exec "$@"', "boot", *unshare, boot, init, folder, *_binds(wheel)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield Machine(_wait_for_boot(process, "systemd" if init == "systemd" else "sleep"))
        finally:
            process.kill()
            process.communicate()


def _wait_for_boot(process: subprocess.Popen[str], name: str) -> int:
    """The process that is process 1 there, when all that was to be started is."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + _BOOT_TIMEOUT_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            child = int(children.read_text() or 0)
            if child and Path(f"/proc/{child}/comm").read_text().strip() == name:
                ask = ["true"] if name == "sleep" else ["systemctl", "is-system-running"]
                done = Machine(child).run(*ask, check=False)
                if done.returncode == 0 or done.stdout.strip() == "degraded":
                    return child
        time.sleep(0.05)
    process.kill()
    raise CannotBootError(f"{name} did not start: {process.communicate()[1].strip()}")


@contextlib.contextmanager
def _control_group() -> Iterator[Path]:
    """A control group of version 2 for the machine, wherever this system has them mounted."""
    if os.geteuid() != 0:
        raise CannotBootError("only root may")
    with tempfile.TemporaryDirectory(prefix="trafficrefinery-cgroup-") as mounted:
        mount = ["mount", "-t", "cgroup2", "cgroup2", mounted]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            raise CannotBootError("control groups of version 2 cannot be mounted")
        group = Path(tempfile.mkdtemp(prefix="trafficrefinery-", dir=mounted))
        try:
            yield group
        finally:
            _remove(group)
            subprocess.run(["umount", mounted], check=True)


def _remove(group: Path) -> None:
    """Remove a control group and those in it, when the last process has gone."""
    for folder, _, _ in os.walk(group, topdown=False):
        until = time.monotonic() + 10
        while True:
            try:
                Path(folder).rmdir()
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
