"""Live capture from AF_XDP sockets, in place.

The supervisor opens the sockets (`xdp_sockets`) and keeps them; a worker maps their rings (`XdpReader`). A frame is the
worker's until its memory is given back: the buffer of a `Block` is the memory itself, and its bytes are valid until the
next call of `poll` or `release`.

A worker may be killed anywhere, and others go on with the same fill ring. It has one writer at a time: who holds the
lock of its queue, which the kernel takes from a dead process (fcntl(2)). What is about to be given back is noted before
that; the one store that moves the producer's index decides whether it was, and who takes the lock next finds the note.
"""

from __future__ import annotations

import fcntl
import mmap
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.bpf.xdp_program import STAMP_BYTES, UNCLAIMED
from trafficrefinery.capture.frames import FRAME, FRAMES_PER_BLOCK, Block, Losses
from trafficrefinery.jit.memory import table

from .descriptors import hand_back, walk_descriptors
from .xdp_sockets import FILL_OFFSET, SOL_XDP, STATISTICS, Places, XdpSocket

_INDEX = 0xFFFF_FFFF  # rings count frames in 32 bits
_FASTEST_PPS = 15_000_000
"""10 Gbit/s of the smallest frames. A reader may sleep while they fill a quarter of its ring."""
_STEP_NS = 1_000_000
_TOGETHER_NS, _FOREVER_NS = 1_000_000, 1 << 62
"""Frames of a queue may be handed over so long before those of another; turns cost more than that is worth."""


class Clock:
    """What is to be added to CLOCK_MONOTONIC for the time of day, until that is set anew."""

    def __init__(self) -> None:
        self._to_wall_ns = self._measured()

    @staticmethod
    def _measured() -> int:
        """The result of the fastest of three tries."""
        tries = []
        for _ in range(3):
            before = time.monotonic_ns()
            wall_ns = time.time_ns()
            after = time.monotonic_ns()
            tries.append((after - before, wall_ns - (before + after) // 2))
        return min(tries)[1]

    def to_wall_ns(self) -> int:
        """What has to be added."""
        measured = self._measured()
        if abs(measured - self._to_wall_ns) > _STEP_NS:
            self._to_wall_ns = measured
        return self._to_wall_ns


class _Mapped:
    """A ring of a socket: indices that count without end, and entries."""

    def __init__(self, one: socket.socket, places: Places, words: int, offset: int = 0) -> None:
        self._memory = mmap.mmap(one.fileno(), places.entries + 8 * words, offset=offset)
        data = np.frombuffer(self._memory, np.uint8)
        self.producer: NDArray[np.uint32] = data[places.producer :][:4].view(np.uint32)
        self.consumer: NDArray[np.uint32] = data[places.consumer :][:4].view(np.uint32)
        self.entries: NDArray[np.uint64] = data[places.entries :].view(np.uint64)


class _Queue:
    """A socket of this worker. Of its frames, `done` were given back, and `taken` handed over."""

    def __init__(self, place: XdpSocket) -> None:
        self.place, self.state = place, place.state.array
        self.ring = _Mapped(place.socket, place.rx, 2 * place.entries)
        self.fill = _Mapped(place.socket, place.fill, place.fill_entries, FILL_OFFSET)
        self.buffer: NDArray[np.uint8] = place.memory.array
        self.stamps: NDArray[np.uint64] = self.buffer.view(np.uint64)
        with self._locked(wait=True):
            pass  # what another worker was at when it was killed is settled
        self.taken = self.done
        self.ring.consumer[0] = self.taken

    @property
    def done(self) -> int:
        return int(self.state["done"][self.place.number])

    @property
    def waiting(self) -> int:
        return (int(self.ring.producer[0]) - self.taken) & _INDEX

    @property
    def head_ns(self) -> int:
        """The stamp of the next frame."""
        address = int(self.ring.entries[2 * (self.taken % self.place.entries)])
        return int(self.stamps[(address - STAMP_BYTES) // 8])

    def take(self, until_ns: int, clock: Clock, frames: Any, oversized: NDArray[np.int64]) -> Block:
        """The next frames, as many as `frames` has room for, up to a time of CLOCK_MONOTONIC."""
        found, to_wall_ns = frames[: self.waiting], clock.to_wall_ns()
        count = walk_descriptors(
            self.buffer, self.stamps, self.ring.entries, self.taken, (time.monotonic_ns(), until_ns, to_wall_ns),
            self.place.frame_bytes, found, oversized,
        )  # fmt: skip
        self.taken = (self.taken + count) & _INDEX
        return Block(self.buffer, found[:count])

    def give_back(self, *, wait: bool = False) -> None:
        """Let the kernel have the memory of what was handed over; not when another worker is just at it."""
        count = (self.taken - self.done) & _INDEX
        if not count:
            return
        with self._locked(wait=wait) as is_locked:
            if not is_locked:
                return
            state, number, first = self.state, self.place.number, self.place.first
            start, at_fill = self.done, int(self.fill.producer[0])
            state["giver"][first], state["from_frame"][first], state["at_fill"][first] = number, start, at_fill
            state["giving"][first] = count
            hand_back(self.ring.entries, start, count, self.fill.entries, at_fill, self.place.chunk_bytes)
            self.fill.producer[0] = (at_fill + count) & _INDEX
            self._settle()
        self.ring.consumer[0] = self.done

    @contextmanager
    def _locked(self, *, wait: bool) -> Iterator[bool]:
        """While this is the one that writes to the fill ring, and nothing is half done; False: another one is."""
        fd, queue = self.place.state.fileno(), self.place.queue
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, queue)
        except OSError:
            yield False
            return
        try:
            self._settle()
            yield True
        finally:
            fcntl.lockf(fd, fcntl.LOCK_UN, 1, queue)

    def _settle(self) -> None:
        """What was being given back was, if the fill ring has moved on."""
        state, first = self.state, self.place.first
        count, moved = int(state["giving"][first]), int(self.fill.producer[0])
        if count and moved != int(state["at_fill"][first]):
            state["done"][int(state["giver"][first])] = (int(state["from_frame"][first]) + count) & _INDEX
        state["giving"][first] = 0

    def losses(self) -> Losses:
        """What happened since this was last asked, by whichever worker; the kernel counts from the start."""
        state, number = self.state, self.place.number
        dropped, _, _, full, empty, _ = struct.unpack("6Q", self.place.socket.getsockopt(SOL_XDP, STATISTICS, 48))
        received = int(self.ring.producer[0])
        new = (received - int(state["told_received"][number])) & _INDEX
        lost = dropped - int(state["told_dropped"][number]) + full - int(state["told_full"][number])
        empties = empty - int(state["told_empty"][number]) if number == self.place.first else 0
        state["told_received"][number], state["told_dropped"][number] = received, dropped
        state["told_full"][number], state["told_empty"][number] = full, empty
        return Losses(new, lost, empties)


class XdpReader:
    """Reads the sockets of one worker; of several the one whose next frame is the oldest, up to those of the others.

    Attributes:
        oversized_total: frames that are larger than the link allows: merged by an offload.
    """

    def __init__(
        self, sockets: Sequence[XdpSocket], idle_ns: int = 0, *, frames_per_block: int = FRAMES_PER_BLOCK
    ) -> None:
        self._queues = [_Queue(one) for one in sockets]
        self._leading = [(queue, _mapped_counts(queue.place)) for queue in self._queues if queue.place.leads]
        self._idle_s = min(idle_ns / 1e9, min((one.entries for one in sockets), default=0) / 4 / _FASTEST_PPS)
        self._frames = table(frames_per_block, FRAME)
        self._oversized = np.zeros(1, np.int64)
        self._clock, self._current = Clock(), None
        self._poll = select.poll()
        for one in sockets:
            self._poll.register(one.socket.fileno(), select.POLLIN)

    _current: _Queue | None

    @property
    def oversized_total(self) -> int:
        return int(self._oversized[0])

    def poll(self, timeout_s: float) -> Block | None:
        """The next frames; None when there are none for this time, or an interface changed its state."""
        self.release()
        ready = [queue for queue in self._queues if queue.waiting]
        if not ready:
            self._wait(timeout_s)
            ready = [queue for queue in self._queues if queue.waiting]
            if not ready:
                return None
        until_ns = _FOREVER_NS
        if len(ready) > 1:
            ready.sort(key=lambda queue: queue.head_ns)
            until_ns = ready[1].head_ns + _TOGETHER_NS
        self._current = ready[0]
        return ready[0].take(until_ns, self._clock, self._frames, self._oversized)

    def release(self) -> None:
        """Give the memory of frames that were handed over back to the kernel; their bytes are no longer valid."""
        for queue in self._queues:
            queue.give_back()
        self._current = None

    def skip(self) -> None:
        """Give all frames that are there back to the kernel, and forget what it counted until now."""
        for queue in self._queues:
            queue.taken = (queue.taken + queue.waiting) & _INDEX
            queue.give_back(wait=True)
        self.losses()

    def leave(self) -> bool:
        """Leave the last block, of which frames are for another reader, as it is; whether other sockets are left."""
        assert self._current is not None, "frames were handed over"
        self._queues.remove(self._current)
        self._poll.unregister(self._current.place.socket.fileno())
        self._current = None
        return bool(self._queues)

    def _wait(self, timeout_s: float) -> None:
        """For frames; once there are some, a little more for others, as each turn costs what many frames do."""
        events = self._poll.poll(timeout_s * 1000)
        if any(what & ~select.POLLIN for _, what in events):
            time.sleep(min(timeout_s, 0.05))  # an interface went down: returning at once would spin
        elif events:
            time.sleep(self._idle_s)

    def losses(self) -> Losses:
        """What happened since the last call, of this reader or one before it."""
        found = [queue.losses() for queue in self._queues]
        received, drops, empties = (sum(counts) for counts in zip(*found, strict=True)) if found else (0, 0, 0)
        for queue, counts in self._leading:
            unclaimed = int(counts[UNCLAIMED // 8])
            drops += unclaimed - int(queue.state["told_unclaimed"][queue.place.number])
            queue.state["told_unclaimed"][queue.place.number] = unclaimed
        return Losses(received, drops, empties)

    def close(self) -> None:
        """Let go of the rings; the sockets stay open. The mappings go with the last array on them."""
        self._queues, self._leading, self._current = [], [], None


def _mapped_counts(place: XdpSocket) -> NDArray[np.uint64]:
    """The counts that the XDP program keeps."""
    return np.frombuffer(mmap.mmap(place.counts.fileno(), mmap.PAGESIZE), np.uint64)
