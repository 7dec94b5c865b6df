"""Network namespaces without a name: each lives as long as its descriptor or a process in it, and leaves nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.system.processes import end_with_parent

_REALTIME_PRIORITY = 1
_CLONE_NEWNET = 0x40000000
_THIS = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def run_at_once() -> None:
    """The calling process runs whenever it can: other work on the machine must not show as delay in the traces."""
    with contextlib.suppress(PermissionError):  # a container may not allow it
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_REALTIME_PRIORITY))


def run_when_idle() -> None:
    """The calling process leaves the processors to others again."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _begin() -> None:
    end_with_parent()
    run_at_once()


def command_path(name: str, package: str) -> str:
    """Where a program of the system is.

    Raises:
        UsageError: it is not there; with the name of Debian's package.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise UsageError(f"{name}: is not installed; it is in Debian's package {package}: apt-get install {package}")
    return path


class Namespace:
    """A network namespace.

    Raises:
        UsageError: this process may not make any.
    """

    def __init__(self) -> None:
        before = os.open(_THIS, os.O_RDONLY)
        try:
            _checked(_libc.unshare(_CLONE_NEWNET))
            self.fd = os.open(_THIS, os.O_RDONLY)
            _checked(_libc.setns(before, _CLONE_NEWNET))
        except OSError as error:
            hint = "run it as root" if error.errno == errno.EPERM else "this kernel or container allows none"
            raise UsageError(f"network namespaces cannot be made ({error.strerror}); {hint}") from None
        finally:
            os.close(before)

    @property
    def path(self) -> str:
        """By which other processes of this user open it while this one lives."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread makes its sockets and starts its processes in the namespace."""
        before = os.open(_THIS, os.O_RDONLY)
        try:
            _checked(_libc.setns(self.fd, _CLONE_NEWNET))
            yield
        finally:
            _checked(_libc.setns(before, _CLONE_NEWNET))
            os.close(before)

    def run(self, *command: str, text: str | None = None) -> None:
        """Run a command to its end.

        Raises:
            TrafficRefineryError: it failed; with its words.
        """
        with self.inside():
            done = subprocess.run(command, check=False, capture_output=True, text=True, input=text)
        if done.returncode:
            raise TrafficRefineryError(f"{' '.join(command)}: {' '.join((done.stderr or done.stdout).split())}")

    def ip(self, *lines: str) -> None:
        """Lines of `ip`, one after the other."""
        self.run(command_path("ip", "iproute2"), "-batch", "-", text="".join(f"{line}\n" for line in lines))

    def set(self, **settings: str) -> None:
        """Set kernel parameters below net; `__` stands for the dots."""
        with self.inside():
            for name, value in settings.items():
                Path("/proc/sys/net", *name.split("__")).write_text(value)

    def start(self, command: Sequence[str], log: IO[bytes], stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a command that ends with this process."""
        with self.inside():
            return subprocess.Popen(
                command, stdin=stdin, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_begin  # noqa: PLW1509
            )  # fmt: skip

    def close(self) -> None:
        os.close(self.fd)


def enter(path: str) -> None:
    """Move the calling thread into the namespace of another process, see `Namespace.path`."""
    fd = os.open(path, os.O_RDONLY)
    try:
        _checked(_libc.setns(fd, _CLONE_NEWNET))
    finally:
        os.close(fd)
