"""The compiled walk over a block of a TPACKET_V3 ring: where each frame lies.

Offsets are unsigned, as in `walk`. The kernel wrote the block, so its lengths are believed.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import kernel, prefetch
from trafficrefinery.packets.parser import STRIPPED_TAG, TAG_BYTES

# struct tpacket_block_desc
BLOCK_HEADER = np.dtype(
    [
        ("version", "u4"),
        ("private_offset", "u4"),
        ("status", "u4"),  # KERNEL_OWNS, or bits of which OURS is one
        ("packets", "u4"),
        ("first_packet", "u4"),  # offset in the block
        ("used_bytes", "u4"),
        ("sequence", "u8"),
        ("first_s", "u4"),
        ("first_ns", "u4"),
        ("last_s", "u4"),
        ("last_ns", "u4"),
    ]
)
KERNEL_OWNS, OURS = 0, 1

# Words of struct tpacket3_hdr.
_NEXT, _SECONDS, _NANOSECONDS, _CAPTURED, _WIRE, _STATUS, _OFFSETS, _TAG = (np.uint64(n) for n in (*range(7), 8))
_MAC_SHIFT = np.uint32(0 if sys.byteorder == "little" else 16)
_MAC_BITS, _TAG_VALID = np.uint32(0xFFFF), np.uint32(1 << 4)
_2, _12, _16 = np.uint64(2), np.uint64(12), np.uint64(16)
_AHEAD_BYTES, _LINE_BYTES, _SMALL_BYTES = np.uint64(4096), np.uint64(64), np.uint64(256)

Records = Any  # from jit.records(): elements with attributes, which NumPy's types do not know


@kernel
def walk_block(
    buffer: NDArray[np.uint8],
    words: NDArray[np.uint32],
    start: int,
    left: int,
    link_type: int,
    frame_bytes: int,
    frames: Records,
    oversized: NDArray[np.int64],
) -> tuple[int, int | np.int64]:
    """Index packets from byte `start` on, `left` at most; returns (how many, where the next one begins).

    Args:
        words: the same memory as `buffer`.
        frame_bytes: the most that a frame has without tags; larger ones are added to `oversized[0]`.
    """
    count, at = 0, np.uint64(start)
    while count < left and count < len(frames):
        word = at >> _2
        data = at + np.uint64((words[word + _OFFSETS] >> _MAC_SHIFT) & _MAC_BITS)
        wire_bytes = np.int64(words[word + _WIRE])
        frame = frames[count]
        frame.ts_ns = np.int64(words[word + _SECONDS]) * 1_000_000_000 + np.int64(words[word + _NANOSECONDS])
        frame.offset = np.int64(data)
        frame.captured_bytes = words[word + _CAPTURED]
        frame.link_type = link_type
        frame.stripped_tag = 0
        if wire_bytes > frame_bytes:
            limit, kind = frame_bytes, data + _12
            while (
                limit < frame_bytes + 2 * TAG_BYTES
                and link_type == 1
                and np.int64(kind - data) + 1 < np.int64(words[word + _CAPTURED])
                and (
                    (buffer[kind] == 0x81 and buffer[kind + np.uint64(1)] == 0)
                    or (buffer[kind] == 0x88 and buffer[kind + np.uint64(1)] == 0xA8)
                )
            ):
                limit += TAG_BYTES
                kind += np.uint64(TAG_BYTES)
            if wire_bytes > limit:
                oversized[0] += 1
        if words[word + _STATUS] & _TAG_VALID:
            frame.stripped_tag = STRIPPED_TAG | (words[word + _TAG] & _MAC_BITS)
            wire_bytes += TAG_BYTES
        frame.wire_bytes = wire_bytes
        following = np.uint64(words[word + _NEXT])
        if following >= _SMALL_BYTES:  # the hardware guesses right with small frames
            line = at + _AHEAD_BYTES
            while line < at + _AHEAD_BYTES + following:
                prefetch(buffer, np.int64(line))
                line += _LINE_BYTES
        count += 1
        at += following
    return count, np.int64(at)
