"""Frames with DNS that the XDP program copied into a ring of BPF (BPF_MAP_TYPE_RINGBUF), each in a record of one size.

The ring begins with a page for the reader's position, and one for the kernel's; then come its bytes, mapped twice, so
that what goes over the end goes on behind it. Frames are copied once more: the kernel's page may only be read.
"""

from __future__ import annotations

import mmap
import select

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.bpf.xdp_program import (
    NAME_HEAD_BYTES,
    NAME_RECORD_BYTES,
    NAMES_LOST,
    RING_HEAD_BYTES,
)
from trafficrefinery.capture.frames import FRAME, Block, Losses
from trafficrefinery.jit.memory import table

from .afxdp import Clock
from .xdp_sockets import NamesRing

_AT_ONCE = 256
_BUSY, _DISCARDED = 1 << 31, 1 << 30  # BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT
_RECORD = np.dtype(
    [("length", "u4"), ("page", "u4"), ("stamp_ns", "u8"), ("wire_bytes", "u4"), ("captured_bytes", "u4")]
)


class XdpNames:
    """Reads the ring for names of one interface."""

    oversized_total = 0

    def __init__(self, ring: NamesRing) -> None:
        self._ring = ring
        page = mmap.PAGESIZE
        self._position = np.frombuffer(mmap.mmap(ring.ring.fileno(), page), np.uint64)
        self._kernels = np.frombuffer(
            mmap.mmap(ring.ring.fileno(), page + 2 * ring.ring_bytes, prot=mmap.PROT_READ, offset=page), np.uint8
        )
        self._counts = np.frombuffer(mmap.mmap(ring.counts.fileno(), page, prot=mmap.PROT_READ), np.uint64)
        self._buffer: NDArray[np.uint8] = table(_AT_ONCE * NAME_RECORD_BYTES, np.uint8)
        self._frames = table(_AT_ONCE, FRAME)
        self._clock, self._received = Clock(), 0
        self._poll = select.poll()
        self._poll.register(ring.ring.fileno(), select.POLLIN)

    def poll(self, timeout_s: float) -> Block | None:
        """The next frames; None when there are none for this time."""
        count = self._copy()
        if not count:
            self._poll.poll(timeout_s * 1000)
            count = self._copy()
        if not count:
            return None
        records = np.ndarray(count, _RECORD, self._buffer, strides=NAME_RECORD_BYTES)
        frames = self._frames[:count]
        lead_bytes = RING_HEAD_BYTES + NAME_HEAD_BYTES
        frames["ts_ns"] = records["stamp_ns"].astype(np.int64) + self._clock.to_wall_ns()
        frames["offset"] = np.arange(count) * NAME_RECORD_BYTES + lead_bytes
        for name in ("wire_bytes", "captured_bytes"):
            frames[name] = records[name]
        frames["link_type"], frames["stripped_tag"] = 1, 0
        frames = frames[records["length"] & _DISCARDED == 0]
        self._received += len(frames)
        return Block(self._buffer, frames)

    def _copy(self) -> int:
        """Records that are whole, out of the ring; how many."""
        position = int(self._position[0])
        count = min(_AT_ONCE, (int(self._kernels[:8].view(np.uint64)[0]) - position) // NAME_RECORD_BYTES)
        start = mmap.PAGESIZE + position % self._ring.ring_bytes
        data = self._kernels[start : start + count * NAME_RECORD_BYTES]
        is_busy = np.ndarray(count, "u4", data, strides=NAME_RECORD_BYTES) & _BUSY != 0 if count else np.zeros(0, bool)
        count = int(is_busy.argmax()) if is_busy.any() else count
        self._buffer[: count * NAME_RECORD_BYTES] = data[: count * NAME_RECORD_BYTES]
        self._position[0] = position + count * NAME_RECORD_BYTES
        return count

    def skip(self) -> None:
        """Names last: all that came is read."""

    def leave(self) -> bool:
        """Nothing is left for another reader."""
        return False

    def losses(self) -> Losses:
        """What happened since the last call, of this reader or one before it."""
        state, number = self._ring.state.array, self._ring.number
        lost = int(self._counts[NAMES_LOST // 8])
        drops = lost - int(state["told_names_lost"][number])
        state["told_names_lost"][number] = lost
        received, self._received = self._received, 0
        return Losses(received, drops, 0)

    def close(self) -> None:
        """The mappings go with the last array on them."""
