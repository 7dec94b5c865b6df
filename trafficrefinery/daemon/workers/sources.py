"""Where a capture worker's packets come from, the same for rings, libpcap and recorded traces."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from trafficrefinery.capture.duplicates import DuplicateFinder
from trafficrefinery.capture.frames import FRAME, Block, Losses
from trafficrefinery.capture.libpcap import PcapReader
from trafficrefinery.capture.rings.afpacket import RingReader
from trafficrefinery.capture.rings.block import walk_block
from trafficrefinery.capture.rings.sockets import RingSocket
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.config import Config
from trafficrefinery.config.daemon import Capture
from trafficrefinery.daemon.end_of_run import Reported
from trafficrefinery.jit import records
from trafficrefinery.replaying.job import open_traces

_TICK_S = 0.01


class Source(Protocol):
    """Hands blocks of frames to a worker."""

    def poll(self, timeout_s: float) -> Block | None:
        """The next block, valid until the next call; None when there is none for so long."""

    def counts(self) -> dict[str, int]:
        """What was received, lost and found strange since the last call, by the name of the counter."""

    @property
    def has_ended(self) -> bool:
        """No block will come any more."""

    def skip(self) -> None:
        """Leave out what came until now, and what was lost: before the first call of `poll`."""

    def leave(self) -> bool:
        """The rest of the last block is for another reader; False when nothing else is left to be read."""

    def reported(self) -> Reported | None:
        """What there is to know of the traces that were read; None for live capture."""

    def close(self) -> None:
        """Give back what it holds; frames that were not asked for stay where they are."""


class PacedTrace:
    """Recorded traces, each packet when it is due at `speed` times real time; None: as fast as possible.

    Args:
        config: says what becomes of frames that a mirror port shows twice; None: they are kept.
        counts_them: whether this one, of several workers that read the same traces, reports these.
    """

    def __init__(
        self, paths: Sequence[str], speed: float | None, config: Config | None = None, counts_them: bool = True
    ) -> None:
        self._reader = TraceReader(paths) if config is None else open_traces(config, paths)
        self._counts_them, self._duplicates = counts_them, 0
        self._blocks: Iterator[Block] = iter(self._reader)
        self._block: Block | None = None
        self._at = 0
        self._speed = speed
        self._start: tuple[int, float] | None = None
        self.has_ended = False

    def poll(self, timeout_s: float) -> Block | None:
        """See `Source`."""
        if self._block is None:
            self._block, self._at = next(self._blocks, None), 0
            if self._block is None:
                self.has_ended = True
                return None
        due = self._due(self._block)
        if due == 0:
            time.sleep(min(timeout_s, _TICK_S))
            return None
        buffer, frames = self._block
        part = Block(buffer, frames[self._at : self._at + due])
        self._at += due
        if self._at == len(frames):
            self._block = None
        return part

    def _due(self, block: Block) -> int:
        times = block.frames["ts_ns"][self._at :]
        if self._speed is None:
            return len(times)
        if self._start is None:
            self._start = int(times[0]), time.monotonic()
        first_ns, started = self._start
        ahead_s = (times - first_ns) / 1e9 / self._speed - (time.monotonic() - started)
        return len(times) if ahead_s.max() <= 0 else int(np.argmax(ahead_s > 0))

    def skip(self) -> None:
        """See `Source`: nothing comes before it is asked for."""

    def leave(self) -> bool:
        """See `Source`."""
        return False

    def counts(self) -> dict[str, int]:
        """See `Source`: nothing is lost."""
        found = self._reader.duplicates_total if self._counts_them else 0
        duplicates, self._duplicates = found - self._duplicates, found
        return {"duplicates": duplicates}

    def reported(self) -> Reported:
        """See `Source`."""
        damage = [(one.file, one.position, one.message) for one in self._reader.damage]
        return Reported(self._reader.traces, damage)

    def close(self) -> None:
        """See `Source`."""
        self._reader.close()


class Live:
    """Live capture: rings of the kernel, or libpcap.

    Args:
        duplicates: what becomes of frames that a mirror port shows twice: `keep`, `count` or `drop`.
        decapsulate: tunnels whose inner packets are compared for that, as in the configuration.
    """

    has_ended = False

    def __init__(self, reader: RingReader | Readers, duplicates: str, decapsulate: Sequence[str]) -> None:
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

    def reported(self) -> None:
        """See `Source`."""

    def close(self) -> None:
        """See `Source`."""
        self._reader.close()


class Readers:
    """libpcap on several interfaces, asked in turn."""

    def __init__(self, interfaces: Sequence[str], capture: Capture) -> None:
        self._readers = [PcapReader(name, capture) for name in interfaces]
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
        """libpcap began when it was opened."""

    def leave(self) -> bool:
        """libpcap keeps nothing for another reader."""
        return False

    def losses(self) -> Losses:
        """The sums."""
        return Losses(*(sum(counts) for counts in zip(*(reader.losses() for reader in self._readers), strict=True)))

    def close(self) -> None:
        """See `Source`."""
        for reader in self._readers:
            reader.close()


def open_rings_of(rings: Sequence[RingSocket], duplicates: str, decapsulate: Sequence[str]) -> Live:
    """AF_PACKET rings: the sockets are the supervisor's, and stay open."""
    return Live(RingReader(rings), duplicates, decapsulate)


def open_libpcap(interfaces: Sequence[str], capture: Capture, decapsulate: Sequence[str]) -> Live:
    """libpcap.

    Raises:
        UsageError: what it refuses.
    """
    return Live(Readers(interfaces, capture), capture.duplicates, decapsulate)


def warm_up() -> None:
    """Compile, or load from the cache, what the first block would wait for."""
    buffer = np.zeros(64, np.uint8)
    frames = records(np.zeros(1, FRAME))
    walk_block(buffer, buffer.view(np.uint32), 0, 0, 1, 0, frames, np.zeros(1, np.int64))
    DuplicateFinder(drop=False).filter(Block(buffer, frames[:0]))
