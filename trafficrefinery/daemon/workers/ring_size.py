"""How long the rings hold packets: long enough for a worker that hangs to be replaced?"""

from __future__ import annotations

import math

from trafficrefinery.capture.rings.xdp_layout import SMALLEST_CHUNK_BYTES, entries_in
from trafficrefinery.config import Config
from trafficrefinery.config.units import format_duration, format_rate, format_size

_RESTART_S = 3.0
"""From the end of a worker until its successor reads: it starts Python, and loads what is compiled."""
_FRAME_BYTES, _FRAME_OVERHEAD_BYTES = 700, 96
"""A usual mean, and what the kernel puts before each frame and behind it (TPACKET_V3)."""


def needed_s(config: Config) -> float:
    """Seconds from the moment when a worker hangs until its successor reads its rings."""
    return config.daemon.hang_timeout_ns / 1e9 + _RESTART_S


def held_bps(config: Config, workers: int) -> int:
    """The traffic of an interface, shared out evenly, that the rings hold for so long; bit/s."""
    if config.capture.source == "afxdp":
        frames = entries_in(config.capture.ring_bytes)
    else:
        frames = config.capture.ring_bytes // (_FRAME_BYTES + _FRAME_OVERHEAD_BYTES)
    return int(workers * frames * _FRAME_BYTES * 8 / needed_s(config))


def needed_ring_bytes(config: Config, workers: int) -> int:
    """The RingSize that holds Capture.Rate for so long, in whole blocks."""
    assert config.capture.rate_bps is not None
    frames = math.ceil(config.capture.rate_bps / 8 * needed_s(config) / _FRAME_BYTES / workers)
    if config.capture.source == "afxdp":
        return max(SMALLEST_CHUNK_BYTES << (frames - 1).bit_length(), 2 * config.capture.block_bytes)
    return (
        -(-frames * (_FRAME_BYTES + _FRAME_OVERHEAD_BYTES) // config.capture.block_bytes) * config.capture.block_bytes
    )


def told(config: Config, workers: int) -> str:
    """What the rings hold, as a sentence."""
    how = f"HangTimeout of {format_duration(config.daemon.hang_timeout_ns)} and {_RESTART_S:.0f} s for its successor"
    return (
        f"while a worker that hangs is replaced ({how}), the rings hold what an interface receives up to "
        f"{held_bps(config, workers) / 1e6:,.0f} Mbit/s, with {workers} worker{'s' if workers > 1 else ''}"
    )


def warning(config: Config, workers: int) -> str | None:
    """Why the rings are too small for Capture.Rate, with what would do; None: they are not, or no rate is stated."""
    rate_bps = config.capture.rate_bps
    if config.capture.source == "pcap" or rate_bps is None or held_bps(config, workers) >= rate_bps:
        return None
    needed = needed_ring_bytes(config, workers)
    return (
        f"Capture.RingSize: {told(config, workers)}; Capture.Rate is {format_rate(rate_bps)}, which needs rings of "
        f"{format_size(needed)} ({needed / (1 << 20):,.0f} MiB), more Workers or a shorter Daemon.HangTimeout"
    )
