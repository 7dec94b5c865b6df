"""Live capture from memory-mapped rings of the kernel (TPACKET_V3), in place.

The supervisor opens the sockets (`open_rings`) and keeps them; a worker maps their rings (`RingReader`). A block of a
ring belongs to the kernel until it is full or its time is over, then to the reader until that asks for the next. So the
buffer of a `Block` is the ring itself: its bytes are valid until the next call of `poll` or `release`.
"""

from __future__ import annotations

import mmap
import select
import socket
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.frames import FRAME, FRAMES_PER_BLOCK, Block, Losses
from trafficrefinery.capture.interfaces import interface_drops, receive_offloads
from trafficrefinery.jit.memory import table

from .block import BLOCK_HEADER, KERNEL_OWNS, OURS, walk_block
from .sockets import PACKET_STATISTICS, SOL_PACKET, RingSocket, open_ring_for_names, open_rings

__all__ = [
    "RingReader", "RingSocket", "interface_drops", "open_ring_for_names", "open_rings", "receive_offloads",
]  # fmt: skip


class _Ring:
    """A mapped ring. `position` is the block to be read next: the kernel fills them in turn."""

    def __init__(self, ring: RingSocket) -> None:
        self.socket = ring
        size = ring.block_bytes * ring.block_count
        self._memory = mmap.mmap(ring.socket.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self.buffer: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8)
        self.words: NDArray[np.uint32] = self.buffer.view(np.uint32)
        self.headers: NDArray[np.void] = np.ndarray(
            ring.block_count, BLOCK_HEADER, self._memory, strides=ring.block_bytes
        )
        self.position = self._first_block()

    def _first_block(self) -> int:
        """The oldest block that is ready, or the one that the kernel is filling; other readers were here before."""
        ready = self.headers["status"] & OURS
        sequence = self.headers["sequence"].astype(np.int64)
        position = int(np.where(ready, sequence, np.iinfo(np.int64).max).argmin() if ready.any() else sequence.argmax())
        # Blocks that became ready while they were looked at.
        while self._is_ready(before := (position - 1) % self.socket.block_count) and (
            self.headers["sequence"][before] < self.headers["sequence"][position]
        ):
            position = before
        return position

    def _is_ready(self, position: int) -> bool:
        return bool(self.headers["status"][position] & OURS)

    @property
    def is_ready(self) -> bool:
        return self._is_ready(self.position)

    @property
    def first_ns(self) -> int:
        header = self.headers[self.position]
        return int(header["first_s"]) * 1_000_000_000 + int(header["first_ns"])

    def packets(self) -> tuple[int, int]:
        """(offset of the first, how many) in the current block."""
        header = self.headers[self.position]
        return self.position * self.socket.block_bytes + int(header["first_packet"]), int(header["packets"])

    def give_back(self) -> None:
        """The kernel may fill the current block again."""
        self.headers["status"][self.position] = KERNEL_OWNS
        self.position = (self.position + 1) % self.socket.block_count


class RingReader:
    """Reads the rings of one worker, block by block; of several rings the one whose next block is the oldest.

    Attributes:
        oversized_total: frames that are larger than the link allows: merged by an offload.
    """

    def __init__(self, sockets: Sequence[RingSocket], *, frames_per_block: int = FRAMES_PER_BLOCK) -> None:
        self._rings = [_Ring(ring) for ring in sockets]
        self._frames = table(frames_per_block, FRAME)
        self._oversized = np.zeros(1, np.int64)
        self._current: _Ring | None = None
        self._at = self._left = 0  # in the current block: where the next packet is, and how many are left
        self._poll = select.poll()
        self._sockets = {ring.socket.socket.fileno(): ring.socket for ring in self._rings}
        for fd in self._sockets:
            self._poll.register(fd, select.POLLIN)
        for ring in self._rings[:1]:  # compiled before the first packets wait
            self._index(ring)

    @property
    def oversized_total(self) -> int:
        return int(self._oversized[0])

    def poll(self, timeout_s: float) -> Block | None:
        """The next frames; None when there are none for this time, or an interface changed its state."""
        self.release()
        if self._left == 0 and not self._next_block():
            self._wait(timeout_s)
            if not self._next_block():
                return None
        ring = self._current
        assert ring is not None, "packets are left in a block"
        return Block(ring.buffer, self._frames[: self._index(ring)])

    def _index(self, ring: _Ring) -> int:
        """Find the next packets of the current block; returns how many."""
        count, at = walk_block(
            ring.buffer, ring.words, self._at, self._left, ring.socket.link_type, ring.socket.frame_bytes,
            self._frames, self._oversized,
        )  # fmt: skip
        self._at, self._left = int(at), self._left - count
        return count

    def release(self) -> None:
        """Give a block whose packets were all handed over back to the kernel; their bytes are no longer valid."""
        if self._current is not None and self._left == 0:
            self._current.give_back()
            self._current = None

    def skip(self) -> None:
        """Give all blocks that are ready back to the kernel, and forget what it counted until now."""
        for ring in self._rings:
            for _ in range(ring.socket.block_count):
                if not ring.is_ready:
                    break
                ring.give_back()
        self.losses()

    def leave(self) -> bool:
        """Leave the current block, of which frames are for another reader, as it is; whether other rings are left."""
        assert self._current is not None, "frames were handed over"
        self._rings.remove(self._current)
        self._current, self._left = None, 0
        return bool(self._rings)

    def _next_block(self) -> bool:
        while ready := [ring for ring in self._rings if ring.is_ready]:
            self._current = min(ready, key=lambda ring: ring.first_ns)
            self._at, self._left = self._current.packets()
            if self._left > 0:
                return True
            self.release()  # older kernels hand over empty blocks too
        return False

    def _wait(self, timeout_s: float) -> None:
        for fd, events in self._poll.poll(timeout_s * 1000):
            if events & ~select.POLLIN:
                # An interface went down. Read, the error is gone, and so is the reason to return at once from now on.
                self._sockets[fd].socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def states(self) -> dict[str, str]:
        """Each interface as `up`, `down` or `removed`. When it comes up again, capture goes on by itself; when it was
        removed, its sockets have to be opened again."""
        return {ring.socket.interface: ring.socket.state() for ring in self._rings}

    def losses(self) -> Losses:
        """What happened since the last call, of this reader or one before it: the kernel counts from zero then."""
        total = np.zeros(3, np.int64)
        for ring in self._rings:
            packets, drops, freezes = struct.unpack(
                "III", ring.socket.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)
            )
            total += packets - drops, drops, freezes
        return Losses(*total.tolist())

    def close(self) -> None:
        """Let go of the rings; the sockets stay open. The mappings go with the last array on them."""
        self._current, self._left = None, 0
        self._rings, self._sockets = [], {}
