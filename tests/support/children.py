"""What tests run in processes of their own: a module that these find, as they do not find a test's."""

from __future__ import annotations

import os
import signal

from trafficrefinery.capture.rings.afpacket import RingReader
from trafficrefinery.daemon.channels.channel import Channel, Writer
from trafficrefinery.daemon.channels.shared_memory import Shared


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


def send_and_die(made: Channel, positions: Shared, count: int) -> None:
    """A writer that is killed after some messages."""
    writer = Writer(made, positions.array[0], os.getpid())
    for number in range(count):
        writer.send(number + 1, [number.to_bytes(4, "little") * 100])
    os.kill(os.getpid(), signal.SIGKILL)
