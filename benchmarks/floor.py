"""The floor of all packet figures: walk the records of the mapped trace and parse the headers, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.jit import borrowed, kernel, records
from trafficrefinery.packets.parser import PACKET, parse
from trafficrefinery.packets.tunnels import tunnel_table

_BATCH = 64


@kernel
def parse_all(
    buffer: NDArray[np.uint8], frames: Any, tunnels: NDArray[np.int64], batch: Any
) -> int:  # records have no static type
    """Parse all frames of a block, in turn into each of some packet records; returns how many are no packets."""
    buffer = borrowed(buffer)
    frames = borrowed(frames)
    batch = borrowed(batch)
    tunnels = borrowed(tunnels)
    refused = 0
    for i in range(len(frames)):
        if parse(buffer, frames[i], tunnels, 0, batch[i & (_BATCH - 1)]) != 0:
            refused += 1
    return refused


def walk(trace: Path) -> int:
    """Only walk the records; returns how many there are."""
    with TraceReader([trace]) as reader:
        return sum(len(block.frames) for block in reader)


def walk_and_parse(trace: Path) -> int:
    """Returns the number of frames that are no packets."""
    batch, tunnels = records(np.zeros(_BATCH, PACKET)), tunnel_table(())
    with TraceReader([trace]) as reader:
        return sum(parse_all(block.buffer, block.frames, tunnels, batch) for block in reader)
