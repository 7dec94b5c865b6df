"""What every capture source hands to the packet loop: a buffer of bytes, and where each frame lies in it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FRAME = np.dtype(
    [
        ("ts_ns", "i8"),  # capture time, nanoseconds since the epoch
        ("offset", "i8"),  # of the frame's first byte in the buffer
        ("captured_bytes", "u4"),  # bytes of the frame that are in the buffer
        ("wire_bytes", "u4"),  # bytes of the frame on the wire
        ("link_type", "u4"),  # LINKTYPE_ number of the pcap format
        ("stripped_tag", "u4"),  # the outer VLAN tag, if the kernel took it out, with parser.STRIPPED_TAG; else 0
    ],
    align=True,
)

FRAMES_PER_BLOCK = 8192


class Block(NamedTuple):
    """Some frames in capture order. The buffer is valid until the source is asked for the next block."""

    buffer: NDArray[np.uint8]
    frames: NDArray[np.void]  # of FRAME


class Losses(NamedTuple):
    """What a live source received and lost since it was last asked."""

    received: int  # packets that it took
    drops: int  # packets that found no room
    freezes: int  # times that the ring was full
