"""A bounded sample of live packets in a trace file, through the capture that the daemon has."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from trafficrefinery.capture.rings.afpacket import RingReader
from trafficrefinery.capture.rings.sockets import open_rings
from trafficrefinery.capture.traces.reader import PcapWriter
from trafficrefinery.config import Config
from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.system.progress import Progress

RECORDING = "recording"
MOST_BYTES = 4 << 30
_POLL_S = 0.1


class Recorded(NamedTuple):
    """What was recorded.

    Args:
        lost: packets that found no room in the ring.
        seconds: how long; shorter than wanted when the room was used up.
    """

    interface: str
    packets: int
    lost: int
    seconds: float


def record_live(
    config: Config, interface: str, duration_s: float, path: Path, progress: Progress, most_bytes: int = MOST_BYTES
) -> Recorded:
    """Write what arrives on an interface to a trace file, for a time, or until there are `most_bytes`.

    Raises:
        UsageError: there is no such interface, or no permission to capture on it.
        TrafficRefineryError: no packet arrived.
    """
    (ring,) = open_rings(interface, config.capture, 1, config.decapsulate)
    reader = RingReader([ring])
    started = time.monotonic()
    size = 0
    try:
        with PcapWriter(path, ring.link_type) as writer:
            while (passed_s := time.monotonic() - started) < duration_s and size < most_bytes:
                block = reader.poll(min(_POLL_S, duration_s - passed_s))
                if block is not None:
                    writer.write_frames(block)
                    size += int(block.frames["captured_bytes"].sum())
                progress(RECORDING, int(passed_s * 1000), int(duration_s * 1000), writer.frames)
            packets = writer.frames
        lost = reader.losses().drops
    finally:
        reader.close()
        ring.close()
    if not packets:
        raise TrafficRefineryError(
            f"--interface: {interface}: no packet arrived in {duration_s:g} s; is it the right one, and is it up?"
        )
    return Recorded(interface, packets, lost, passed_s)
