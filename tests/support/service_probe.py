"""Stands in for the daemon where its service runs: tries out what the unit grants and what it refuses.

Usage: service_probe.py [--once] INTERFACE OUTCOMES. Writes a JSON object to OUTCOMES: for each attempt null, or the
name of the error. Then it tells systemd that it is ready, and does as it is told: SIGHUP reload, SIGUSR1 hang,
SIGTERM end.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np

from trafficrefinery.daemon.notify import Notifier
from trafficrefinery.jit import cache_dir, kernel

SOL_PACKET = 263
ADD_MEMBERSHIP, RX_RING, VERSION, FANOUT, FANOUT_DATA = 1, 5, 10, 18, 22
TPACKET_V3, PROMISCUOUS, FANOUT_CBPF = 2, 1, 6
ETH_P_ALL = 3
BLOCK_BYTES, BLOCKS = 1 << 20, 4
CLONE_NEWUSER = 0x10000000

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


@kernel
def add_up(numbers):
    total = 0
    for number in numbers:
        total += number
    return total


def capture(interface: str) -> None:
    """A ring as the daemon's, in a fanout group, promiscuous; a frame that is sent shows in its first block."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as ring:
        ring.setsockopt(SOL_PACKET, VERSION, TPACKET_V3)
        frames = BLOCK_BYTES // 2048 * BLOCKS
        ring.setsockopt(SOL_PACKET, RX_RING, struct.pack("7I", BLOCK_BYTES, BLOCKS, 2048, frames, 10, 0, 0))
        ring.bind((interface, ETH_P_ALL))
        membership = struct.pack("iHH8s", socket.if_nametoindex(interface), PROMISCUOUS, 0, b"")
        ring.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, membership)
        ring.setsockopt(SOL_PACKET, FANOUT, 0x4711 | FANOUT_CBPF << 16)
        to_the_first = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # ret #0
        ring.setsockopt(SOL_PACKET, FANOUT_DATA, struct.pack("HxxxxxxQ", 1, ctypes.addressof(to_the_first)))
        with mmap.mmap(ring.fileno(), BLOCK_BYTES * BLOCKS) as blocks:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sender.sendto(b"probe", ("255.255.255.255", 9))
            assert select.select([ring], [], [], 5)[0], "no frame was captured"
            _, packets = struct.unpack_from("II", blocks, 8)
            assert packets >= 1


def interface_statistics(interface: str) -> None:
    """What an interface lost is read by netlink and from /sys."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.bind((0, 0))
    int(Path(f"/sys/class/net/{interface}/statistics/rx_dropped").read_text())


def compile_numba() -> None:
    assert add_up(np.arange(10)) == 45
    place = cache_dir()
    assert place is not None
    assert list(place.rglob("*.o"))


def shared_memory() -> None:
    fd = os.memfd_create("probe")
    os.ftruncate(fd, 4 << 20)
    with mmap.mmap(fd, 4 << 20) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory[0] = 1
    os.close(fd)


def lock_memory() -> None:
    memory_bytes = 64 << 20
    with mmap.mmap(-1, memory_bytes) as memory:
        start = ctypes.c_char.from_buffer(memory)
        check(libc.mlock(ctypes.byref(start), ctypes.c_size_t(memory_bytes)))
        check(libc.munlock(ctypes.byref(start), ctypes.c_size_t(memory_bytes)))
        del start


def realtime() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def pin() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    os.sched_setaffinity(0, cores)


def write_to(folder: str | None) -> None:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())


def listen() -> None:
    with socket.create_server(("127.0.0.1", 0)):
        pass


def child_process() -> None:
    assert subprocess.run(["/bin/true"], check=False).returncode == 0


def open_socket(family: int, kind: int) -> None:
    socket.socket(family, kind).close()


def attempts(interface: str) -> dict[str, Callable[[], object]]:
    """What must work, then what must not."""
    return {
        "capture": lambda: capture(interface),
        "interface statistics": lambda: interface_statistics(interface),
        "compile": compile_numba,
        "shared memory": shared_memory,
        "lock memory": lock_memory,
        "real-time priority": realtime,
        "pin": pin,
        "write state": lambda: write_to(os.environ["STATE_DIRECTORY"]),
        "write cache": lambda: write_to(os.environ["TRAFFICREFINERY_CACHE_DIR"]),
        "write runtime": lambda: write_to(os.environ["RUNTIME_DIRECTORY"]),
        "write /tmp": lambda: write_to("/tmp"),
        "listen": listen,
        "child process": child_process,
        "write /etc": lambda: write_to("/etc"),
        "write /usr": lambda: write_to("/usr/local/lib"),
        "write /var/lib": lambda: write_to("/var/lib"),
        "change a kernel setting": lambda: Path("/proc/sys/net/core/rmem_max").write_text("1048576"),
        "read /root": lambda: list(Path("/root").iterdir()),
        "read /etc/shadow": lambda: Path("/etc/shadow").read_text(),
        "see other processes": lambda: Path("/proc/1/status").read_text(),
        "end another process": lambda: os.kill(1, signal.SIGTERM),
        "become root": lambda: os.setuid(0),
        "give a file away": lambda: os.chown(os.environ["STATE_DIRECTORY"], 0, 0),
        "mount": lambda: check(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
        "make a namespace": lambda: check(libc.unshare(CLONE_NEWUSER)),
        "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
        "trace a process": lambda: check(libc.ptrace(0, 0, None, None)),
        "exotic socket": lambda: open_socket(40, socket.SOCK_STREAM),  # AF_VSOCK
        "make a device": lambda: os.mknod(os.environ["STATE_DIRECTORY"] + "/device", 0o20600, os.makedev(1, 1)),
        "make a set-user-ID file": lambda: make_suid(os.environ["STATE_DIRECTORY"] + "/suid"),
        "change the host's name": lambda: socket.sethostname("probe"),
    }


def make_suid(path: str) -> None:
    Path(path).write_text("")
    try:
        Path(path).chmod(0o4755)
    finally:
        Path(path).unlink()


def outcome(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    except Exception as error:  # noqa: BLE001 (what it was is what the test wants to see)
        return repr(error)
    return None


def main() -> None:
    *options, interface, outcomes = sys.argv[1:]
    told: list[int] = []

    def keep(number: int, _: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, keep)
    found: dict[str, object] = {name: outcome(attempt) for name, attempt in attempts(interface).items()}
    status = Path("/proc/self/status").read_text()
    found["process"] = dict(line.split(":\t", 1) for line in status.splitlines())
    Path(outcomes).write_text(json.dumps(found))
    if not options:
        live(told)


def live(told: list[int]) -> None:
    notifier = Notifier()
    beat_s = (notifier.watchdog_interval_s() or 1) / 2
    notifier.ready("probing")
    while signal.SIGTERM not in told:
        if signal.SIGHUP in told:
            told.remove(signal.SIGHUP)
            notifier.reloading()
            time.sleep(0.5)
            notifier.ready("reloaded")
        if signal.SIGUSR1 not in told:
            notifier.watchdog()
        with contextlib.suppress(InterruptedError):
            time.sleep(min(beat_s, 0.1))
    notifier.stopping()


if __name__ == "__main__":
    main()
