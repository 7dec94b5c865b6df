"""Packets of interfaces as a `Source`: rings of the kernel, AF_XDP, or libpcap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trafficrefinery.capture.duplicates import DuplicateFinder
from trafficrefinery.capture.frames import FRAME, Block, Losses
from trafficrefinery.capture.libpcap import PcapReader
from trafficrefinery.capture.rings.afpacket import RingReader
from trafficrefinery.capture.rings.afxdp import XdpReader
from trafficrefinery.capture.rings.block import walk_block
from trafficrefinery.capture.rings.descriptors import hand_back, walk_descriptors
from trafficrefinery.capture.rings.sockets import RingSocket
from trafficrefinery.capture.rings.xdp_names import XdpNames
from trafficrefinery.capture.rings.xdp_sockets import NamesRing, XdpSocket
from trafficrefinery.config.daemon import Capture
from trafficrefinery.jit import records


class LiveSource:
    """Live capture: rings of the kernel, AF_XDP, or libpcap.

    Args:
        duplicates: what becomes of frames that a mirror port shows twice: `keep`, `count` or `drop`.
        decapsulate: tunnels whose inner packets are compared for that, as in the configuration.
    """

    has_ended, traces = False, None

    def __init__(self, reader: RingReader | XdpReader | InTurn, duplicates: str, decapsulate: Sequence[str]) -> None:
        self._reader = reader
        self._finder = None if duplicates == "keep" else DuplicateFinder(duplicates == "drop", decapsulate)
        self._oversized = self._duplicates = 0

    def poll(self, timeout_s: float) -> Block | None:
        """See `Source`."""
        block = self._reader.poll(timeout_s)
        return block if block is None or self._finder is None else self._finder.filter(block)

    def skip(self) -> None:
        """See `Source`."""
        self._reader.skip()

    def leave(self) -> bool:
        """See `Source`."""
        return self._reader.leave()

    def counts(self) -> dict[str, int]:
        """See `Source`."""
        losses = self._reader.losses()
        oversized, self._oversized = self._reader.oversized_total - self._oversized, self._reader.oversized_total
        found = 0 if self._finder is None else self._finder.duplicates_total
        duplicates, self._duplicates = found - self._duplicates, found
        return {
            "received": losses.received,
            "kernel_drops": losses.drops,
            "ring_freezes": losses.freezes,
            "oversized": oversized,
            "duplicates": duplicates,
        }

    def close(self) -> None:
        """See `Source`."""
        self._reader.close()


class InTurn:
    """Readers of several interfaces that are asked in turn, and keep nothing for another one."""

    def __init__(self, readers: Sequence[PcapReader | XdpNames]) -> None:
        self._readers = readers
        self._turn = 0

    @property
    def oversized_total(self) -> int:
        """Frames larger than the link's."""
        return sum(reader.oversized_total for reader in self._readers)

    def poll(self, timeout_s: float) -> Block | None:
        """See `Source`."""
        for _ in self._readers:
            self._turn = (self._turn + 1) % len(self._readers)
            block = self._readers[self._turn].poll(timeout_s / len(self._readers))
            if block is not None:
                return block
        return None

    def skip(self) -> None:
        """libpcap began when it was opened; names last."""

    def leave(self) -> bool:
        """Nothing is kept for another reader."""
        return False

    def losses(self) -> Losses:
        """The sums."""
        return Losses(*(sum(counts) for counts in zip(*(reader.losses() for reader in self._readers), strict=True)))

    def close(self) -> None:
        """See `Source`."""
        for reader in self._readers:
            reader.close()


def open_rings_of(rings: Sequence[RingSocket], duplicates: str, decapsulate: Sequence[str]) -> LiveSource:
    """AF_PACKET rings: the sockets are the supervisor's, and stay open."""
    return LiveSource(RingReader(rings), duplicates, decapsulate)


def open_xdp(sockets: Sequence[XdpSocket], idle_ns: int, duplicates: str, decapsulate: Sequence[str]) -> LiveSource:
    """AF_XDP: the sockets are the supervisor's, and stay open.

    Args:
        idle_ns: how long a frame may wait for others, at most.
    """
    return LiveSource(XdpReader(sockets, idle_ns), duplicates, decapsulate)


def open_xdp_names(rings: Sequence[NamesRing], decapsulate: Sequence[str]) -> LiveSource:
    """The DNS that the XDP programs copied."""
    return LiveSource(InTurn([XdpNames(ring) for ring in rings]), "keep", decapsulate)


def open_libpcap(interfaces: Sequence[str], capture: Capture, decapsulate: Sequence[str]) -> LiveSource:
    """libpcap.

    Raises:
        UsageError: what it refuses.
    """
    readers = [PcapReader(name, capture) for name in interfaces]
    return LiveSource(InTurn(readers), capture.duplicates, decapsulate)


def warm_up_rings() -> None:
    """Compile, or load from the cache, what the first block would wait for."""
    buffer = np.zeros(64, np.uint8)
    frames = records(np.zeros(1, FRAME))
    walk_block(buffer, buffer.view(np.uint32), 0, 0, 1, 0, frames, np.zeros(1, np.int64))
    DuplicateFinder(drop=False).filter(Block(buffer, frames[:0]))


def warm_up_xdp() -> None:
    """The same for AF_XDP."""
    buffer, words = np.zeros(64, np.uint8), np.zeros(2, np.uint64)
    frames = records(np.zeros(1, FRAME))
    walk_descriptors(buffer, buffer.view(np.uint64), words, 0, (0, 0, 0), 0, frames[:0], np.zeros(1, np.int64))
    hand_back(words, 0, 0, words, 0, 2)
    DuplicateFinder(drop=False).filter(Block(buffer, frames[:0]))
