"""What tests run in processes of their own: a module that these find, as they do not find a test's."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct

from trafficrefinery.capture.rings.afpacket import RingReader
from trafficrefinery.capture.rings.afxdp import XdpReader
from trafficrefinery.capture.rings.xdp_sockets import XdpInterface
from trafficrefinery.config.daemon import Capture
from trafficrefinery.daemon.channels.channel import Channel, Writer
from trafficrefinery.jit.shared_memory import Shared


def read_some(rings, blocks, pipe):
    """A worker that reads some blocks, tells what it gave back, and then hangs with a block in its hands."""
    reader = RingReader(rings)
    done = []
    for _ in range(blocks):
        buffer, frames = reader.poll(20)
        where = zip(frames["offset"].tolist(), frames["captured_bytes"].tolist(), strict=True)
        data = [buffer[at : at + size].tobytes() for at, size in where]
        reader.release()
        done += data
    reader.poll(20)
    pipe.send(done)
    signal.pause()


def read_some_xdp(sockets, blocks, pipe):
    """The same of AF_XDP, one block at a time."""
    reader = XdpReader(sockets)
    done = []
    for _ in range(blocks):
        done += [
            bytes(memoryview(block.buffer)[f["offset"] :][: f["captured_bytes"]])
            for block in [reader.poll(20)]
            for f in block.frames
        ]
        reader.release()
        pipe.send("next")
    reader.poll(20)
    pipe.send(done)
    signal.pause()


def hold_xdp(interface, pipe):
    """A daemon that captures until it is killed."""
    held = XdpInterface(interface, Capture(RingSize="4MiB", BlockSize="256KiB"), 1)
    pipe.send(held.mode)
    signal.pause()


def packet_socket(interface):
    """What a program on the machine sees of an interface."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.bind((interface, 0x0003))
    made.setblocking(False)
    return made


def drop_capabilities(numbers):
    """Of this thread only."""
    _keep(set(range(64)) - set(numbers))


def keep_capabilities(numbers):
    """Of this thread only."""
    _keep(set(numbers))


def _keep(numbers):
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    assert libc.capget(header, data) == 0
    words = list(struct.unpack("6I", data.raw))
    for half in (0, 1):
        mask = sum(1 << number % 32 for number in numbers if number // 32 == half)
        for which in range(3):
            words[3 * half + which] &= mask
    assert libc.capset(header, struct.pack("6I", *words)) == 0


def send_and_die(made: Channel, positions: Shared, count: int) -> None:
    """A writer that is killed after some messages."""
    writer = Writer(made, positions.array[0], os.getpid())
    for number in range(count):
        writer.send(number + 1, [number.to_bytes(4, "little") * 100])
    os.kill(os.getpid(), signal.SIGKILL)
