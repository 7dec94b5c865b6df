"""The compiled walks over the rings of an AF_XDP socket: where each frame lies, and which memory the kernel gets back.

Offsets are unsigned, as in `walk`. The kernel wrote the descriptors, so they are believed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.bpf.xdp_program import STAMP_BYTES
from trafficrefinery.jit import kernel, prefetch

_1, _3, _7, _STAMP = np.uint64(1), np.uint64(3), np.uint64(7), np.uint64(STAMP_BYTES)
_LENGTH = np.uint64(0xFFFFFFFF)
_AHEAD = np.uint64(8)
OLDEST_STAMP_NS = 3_600_000_000_000
"""What is older was not stamped: a driver without room for metadata left there what it liked."""

Records = Any  # from jit.records(): elements with attributes, which NumPy's types do not know


@kernel
def walk_descriptors(
    buffer: NDArray[np.uint8],
    stamps: NDArray[np.uint64],
    descriptors: NDArray[np.uint64],
    start: int,
    times_ns: tuple[int, int, int],
    frame_bytes: int,
    frames: Records,
    oversized: NDArray[np.int64],
) -> int:
    """Index as many frames as `frames` has, at most, up to a time; returns how many.

    Args:
        stamps: the same memory as `buffer`.
        descriptors: struct xdp_desc, as (address, length and options).
        start: the first one's number, counted without end.
        times_ns: CLOCK_MONOTONIC of now and of the last frame at most, and what has to be added for the time of day.
        frame_bytes: the most that a frame has, with tags; larger ones are added to `oversized[0]`.
    """
    mask = np.uint64(len(descriptors) // 2 - 1)
    now_ns, until_ns, to_wall_ns = times_ns
    at = np.uint64(start)
    for i in range(len(frames)):
        prefetch(buffer, np.int64(descriptors[((at + _AHEAD) & mask) << _1] - _STAMP))
        word = (at & mask) << _1
        address = descriptors[word]
        length = np.int64(descriptors[word + _1] & _LENGTH)
        ts_ns = np.int64(0)
        if address >= _STAMP and address & _7 == 0:
            ts_ns = np.int64(stamps[(address - _STAMP) >> _3])
        if ts_ns <= now_ns - OLDEST_STAMP_NS or ts_ns > now_ns:
            ts_ns = np.int64(now_ns)
        if ts_ns > until_ns and i > 0:
            return i
        frame = frames[i]
        frame.ts_ns = ts_ns + to_wall_ns
        frame.offset = np.int64(address)
        frame.captured_bytes = length
        frame.wire_bytes = length
        frame.link_type = 1
        frame.stripped_tag = 0
        if length > frame_bytes:
            oversized[0] += 1
        at += _1
    return len(frames)


@kernel
def hand_back(
    descriptors: NDArray[np.uint64], start: int, count: int, fill: NDArray[np.uint64], fill_at: int, chunk_bytes: int
) -> None:
    """Write the addresses of the memory of frames into the ring from which the kernel takes memory for new ones."""
    mask, fill_mask = np.uint64(len(descriptors) // 2 - 1), np.uint64(len(fill) - 1)
    at, to, chunk = np.uint64(start), np.uint64(fill_at), ~np.uint64(chunk_bytes - 1)
    for _ in range(count):
        fill[to & fill_mask] = descriptors[(at & mask) << _1] & chunk
        at += _1
        to += _1
