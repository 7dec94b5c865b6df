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
        ("flags", "u4"),  # 0; reserved for live capture
    ],
    align=True,
)


class Block(NamedTuple):
    """Some frames in capture order. The buffer is valid until the source is asked for the next block."""

    buffer: NDArray[np.uint8]
    frames: NDArray[np.void]  # of FRAME
