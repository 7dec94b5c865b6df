"""Networks for tests: namespaces without a name, which end with the test even when that is killed, and veth pairs.

A namespace lives as long as its descriptor or a process in it. Offloads of its interfaces are off, and nothing but the
test sends: no address, no IPv6.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_OFFLOADS = ("rx", "tx", "sg", "tso", "gso", "gro", "rxvlan", "txvlan")


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def needs_root() -> None:
    """Skip the test where there can be no namespaces."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root; run the tests as root")
    try:
        Namespace().close()
    except OSError as error:
        pytest.skip(
            f"network namespaces are not to be had here ({error.strerror}); run the tests in a privileged place"
        )


def needs_command(name: str, package: str | None = None) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return path or pytest.skip(f"{name} is not installed (Debian: apt-get install {package or name})")


class Namespace:
    """A network namespace, with loopback down."""

    def __init__(self) -> None:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _checked(_libc.unshare(_CLONE_NEWNET))
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            _checked(_libc.setns(before, _CLONE_NEWNET))
        finally:
            os.close(before)
        with self.inside():
            for which in ("all", "default"):
                with contextlib.suppress(OSError):  # a kernel without IPv6
                    Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6").write_text("1")

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread makes its sockets and starts its processes in the namespace."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _checked(_libc.setns(self.fd, _CLONE_NEWNET))
            yield
        finally:
            _checked(_libc.setns(before, _CLONE_NEWNET))
            os.close(before)

    def run(self, *command: str | Path, **options: Any) -> str:
        """What a command in the namespace prints."""
        with self.inside():
            done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
        assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}{done.stdout}"
        return done.stdout

    def start(self, *command: str | Path, **options: Any) -> subprocess.Popen[Any]:
        with self.inside():
            return subprocess.Popen(command, **options)

    def close(self) -> None:
        os.close(self.fd)


class Wire:
    """Two namespaces with a cable between them: what is sent at `near` arrives at `far`, and the other way round.

    Attributes:
        near, far: the namespaces.
        near_name, far_name: the ends of the cable.
        closing: what is to be closed with the cable.
    """

    def __init__(self, mtu_bytes: int = 1500) -> None:
        self.near, self.far, self.closing = Namespace(), Namespace(), contextlib.ExitStack()
        self.near_name, self.far_name = f"n{os.getpid() % 10**6}x{id(self) % 9999}"[:14], "mirror0"
        self.connect(mtu_bytes)

    def connect(self, mtu_bytes: int = 1500, queues: int = 1) -> None:
        """Lay the cable; again, when it was removed."""
        ip, ethtool = needs_command("ip", "iproute2"), needs_command("ethtool")
        path = f"/proc/{os.getpid()}/fd/{self.far.fd}"
        self.near.run(
            ip, "link", "add", self.near_name, "numtxqueues", str(queues), "mtu", str(mtu_bytes), "type", "veth",
            "peer", "name", self.far_name, "numrxqueues", str(queues), "mtu", str(mtu_bytes), "netns", path,
        )  # fmt: skip
        for namespace, name in ((self.near, self.near_name), (self.far, self.far_name)):
            for offload in _OFFLOADS:
                with contextlib.suppress(AssertionError):  # one that cannot be changed
                    namespace.run(ethtool, "-K", name, offload, "off")
            namespace.run(ip, "link", "set", name, "up")
        self._settle()

    def _settle(self) -> None:
        """Until the kernel has noted the carrier at both ends, what is sent is lost."""
        ip, end = needs_command("ip", "iproute2"), time.monotonic() + 30
        for namespace, name in ((self.near, self.near_name), (self.far, self.far_name)):
            while " state UP " not in namespace.run(ip, "-o", "link", "show", name):
                assert time.monotonic() < end, f"{name} has no carrier"
                time.sleep(0.01)

    def send(self, frames: Iterable[bytes]) -> None:
        """Send raw frames from `near`, one after the other."""
        send_frames(self.near, self.near_name, frames)

    def replay(self, trace: Path, *options: str) -> str:
        """Send a trace from `near` with tcpreplay; as fast as it can unless the options say otherwise."""
        command = needs_command("tcpreplay")
        return self.near.run(command, "-i", self.near_name, *(options or ("--topspeed",)), trace)

    def set_far(self, *words: str) -> None:
        """`ip link set` at the far end."""
        self.far.run(needs_command("ip", "iproute2"), "link", "set", self.far_name, *words)
        if "up" in words:
            self._settle()

    def keep(self, sockets: list[Any]) -> list[Any]:
        """Things with `close`, for the life of the cable."""
        for each in sockets:
            self.closing.callback(each.close)
        return sockets

    def close(self) -> None:
        self.closing.close()
        self.near.close()
        self.far.close()


def send_frames(namespace: Namespace, interface: str, frames: Iterable[bytes]) -> None:
    with namespace.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.bind((interface, 0))
        for frame in frames:
            sender.send(frame)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A fresh cable."""
    needs_root()
    cable = Wire()
    yield cable
    cable.close()


def each_padded(frames: Sequence[bytes]) -> list[bytes]:
    """Frames as Ethernet carries them: 60 bytes at least."""
    return [frame.ljust(60, b"\0") for frame in frames]
