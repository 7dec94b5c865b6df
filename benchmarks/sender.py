"""Sends the frames of a trace over an interface, again and again, as fast as one core does or at a rate.

    python benchmarks/sender.py INTERFACE TRACE SECONDS [PACKETS_A_SECOND]

Frames go to the driver in one system call for many, past the queueing discipline (sendmmsg(2); PACKET_QDISC_BYPASS in
packet(7)). It prints, as JSON, how many packets the driver took, and in how many seconds.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
import time
from pathlib import Path

from trafficrefinery.capture.traces.reader import TraceReader

BATCH = 256
FRAMES = 1 << 18
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20
_libc = ctypes.CDLL(None, use_errno=True)


class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p), ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t), ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint32),
    )  # fmt: skip


def frames_of(trace: Path) -> list[bytes]:
    """The first frames of a trace."""
    found: list[bytes] = []
    with TraceReader([str(trace)]) as reader:
        for block in reader:
            for frame in block.frames:
                start = int(frame["offset"])
                found.append(block.buffer[start : start + int(frame["captured_bytes"])].tobytes())
                if len(found) == FRAMES:
                    return found
    return found


def send(interface: str, frames: list[bytes], seconds: float, rate: float | None = None) -> tuple[int, float]:
    """Packets that the driver took, and seconds."""
    count = len(frames) // BATCH * BATCH
    memory = ctypes.create_string_buffer(b"".join(frames[:count]))
    vectors, messages = (Vector * count)(), (Message * count)()
    address = ctypes.addressof(memory)
    for number, frame in enumerate(frames[:count]):
        vectors[number].base, vectors[number].length = address, len(frame)
        address += len(frame)
        messages[number].vectors = ctypes.addressof(vectors[number])
        messages[number].vector_count = 1
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out:
        out.bind((interface, 0))
        out.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        first, size, sent, at = ctypes.addressof(messages), ctypes.sizeof(Message), 0, 0
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            if rate is not None and sent > passed * rate:
                time.sleep((sent - passed * rate) / rate)
                continue
            done = _libc.sendmmsg(out.fileno(), ctypes.c_void_p(first + at * size), min(BATCH, count - at), 0)
            if done < 0:
                number = ctypes.get_errno()
                if number not in (errno.ENOBUFS, errno.EAGAIN):
                    raise OSError(number, os.strerror(number))
                continue
            sent, at = sent + done, (at + done) % count
        return sent, time.monotonic() - started


if __name__ == "__main__":
    interface, trace, seconds, *rate = sys.argv[1:]
    sent, took_s = send(interface, frames_of(Path(trace)), float(seconds), float(rate[0]) if rate else None)
    print(json.dumps({"packets": sent, "seconds": took_s}))
