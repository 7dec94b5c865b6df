"""How the queues of an interface and the memory for its frames are shared out among AF_XDP sockets."""

from __future__ import annotations

from typing import NamedTuple

from trafficrefinery.capture.bpf.xdp_program import STAMP_BYTES
from trafficrefinery.capture.interfaces import Link, receive_queues
from trafficrefinery.config.daemon import Capture
from trafficrefinery.errors import UsageError
from trafficrefinery.packets.parser import TAG_BYTES

SMALLEST_CHUNK_BYTES = 2048
"""Memory that each frame has, however small it is, unless the MTU is larger."""
_CHUNKS = (SMALLEST_CHUNK_BYTES, 4096)
_HEADROOM_BYTES = 256  # of XDP, before a frame
_MOST_SPARE = 2048  # frames of a queue that a driver may hold, beside those in the rings of workers
_ETHERNET = 1
_HEADER_BYTES = 14


class XdpLayout(NamedTuple):
    """How the memory of an interface is divided."""

    queues: int
    workers: int
    owners: tuple[tuple[int, ...], ...]  # of each queue
    entries: int
    frames: int  # of each queue
    chunk_bytes: int
    frame_bytes: int  # the most that a frame has, with two tags

    @property
    def fill_entries(self) -> int:
        """Room for all of them."""
        return 1 << (self.frames - 1).bit_length()


def entries_in(ring_bytes: int, chunk_bytes: int = SMALLEST_CHUNK_BYTES) -> int:
    """How many frames a ring of this size holds: a power of two, as the kernel wants it."""
    return 1 << max(1, ring_bytes // chunk_bytes).bit_length() - 1


def layout_of(link: Link, capture: Capture, workers: int) -> XdpLayout:
    """The layout for an interface.

    Raises:
        UsageError: AF_XDP does not capture on it, or not with so many workers.
    """
    if link.hardware_type != _ETHERNET:
        raise UsageError(
            f'Capture.Source: "afxdp" captures Ethernet, which {link.name} is not; set Source to "afpacket"'
        )
    frame_bytes = link.mtu_bytes + _HEADER_BYTES + 2 * TAG_BYTES
    lead_bytes = _HEADROOM_BYTES + STAMP_BYTES
    chunk_bytes = next((chunk for chunk in _CHUNKS if chunk - lead_bytes >= frame_bytes), None)
    if chunk_bytes is None:
        most = _CHUNKS[-1] - lead_bytes - _HEADER_BYTES - 2 * TAG_BYTES
        raise UsageError(
            f'Capture.Source: "afxdp" captures frames of an MTU up to {most}, that of {link.name} is '
            f'{link.mtu_bytes}; lower it, or set Source to "afpacket"'
        )
    queues = receive_queues(link.name)
    if capture.fanout == "queue" and queues < workers:
        raise UsageError(
            f"Capture.Workers: {link.name} has {queues} receive queues for {workers} workers; lower Workers, make more "
            f'queues (ethtool -L {link.name}), or set Fanout to "addresses"'
        )
    is_shared = capture.fanout != "queue"
    owners = tuple(tuple(range(workers)) if is_shared else (queue % workers,) for queue in range(queues))
    of_worker = max(1, sum(0 in workers_of for workers_of in owners))
    entries = entries_in(capture.ring_bytes // of_worker, chunk_bytes)
    frames = entries * len(owners[0]) + min(entries, _MOST_SPARE)
    return XdpLayout(queues, workers, owners, entries, frames, chunk_bytes, frame_bytes)
