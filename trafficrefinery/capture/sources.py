"""Where a worker's frames come from, the same for rings, libpcap and recorded traces, live and in a replay."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.frames import Block
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.config import Config

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

    @property
    def traces(self) -> TraceReader | None:
        """What reads the traces; None for live capture."""

    def close(self) -> None:
        """Give back what it holds; frames that were not asked for stay where they are."""


def open_traces(config: Config, paths: Sequence[str], sizes: Sequence[int | None] = ()) -> TraceReader:
    """A reader of traces: what a configuration says of duplicates holds for all who read them.

    Args:
        sizes: see `TraceReader`.

    Raises:
        TraceError: a trace cannot be read at all.
    """
    return TraceReader(paths, sizes=sizes, duplicates=config.capture.duplicates, decapsulate=config.decapsulate)


class Pacer:
    """Says when packets are due: at `speed` times real time from the first one on; None: at once."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._start: tuple[int, float] | None = None

    def due(self, ts_ns: NDArray[np.int64]) -> int:
        """How many of the next packets are due, by their times."""
        if self._speed is None:
            return len(ts_ns)
        if self._start is None:
            self._start = int(ts_ns[0]), time.monotonic()
        first_ns, started_s = self._start
        ahead_s = (ts_ns - first_ns) / 1e9 / self._speed - (time.monotonic() - started_s)
        return len(ts_ns) if ahead_s.max() <= 0 else int(np.argmax(ahead_s > 0))


class TraceSource:
    """Recorded traces, each packet when it is due at `speed` times real time; None: as fast as possible.

    Args:
        counts_them: whether this one, of several workers that read the same traces, reports duplicates.
    """

    def __init__(self, traces: TraceReader, speed: float | None = None, counts_them: bool = True) -> None:
        self.traces = traces
        self._counts_them, self._duplicates = counts_them, 0
        self._blocks: Iterator[Block] = iter(traces)
        self._block: Block | None = None
        self._at = 0
        self._pacer = Pacer(speed)
        self.has_ended = False

    def poll(self, timeout_s: float) -> Block | None:
        """See `Source`."""
        if self._block is None:
            self._block, self._at = next(self._blocks, None), 0
            if self._block is None:
                self.has_ended = True
                return None
        buffer, frames = self._block
        due = self._pacer.due(frames["ts_ns"][self._at :])
        if due == 0:
            time.sleep(min(timeout_s, _TICK_S))
            return None
        part = Block(buffer, frames[self._at : self._at + due])
        self._at += due
        if self._at == len(frames):
            self._block = None
        return part

    def skip(self) -> None:
        """See `Source`: nothing comes before it is asked for."""

    def leave(self) -> bool:
        """See `Source`."""
        return False

    def counts(self) -> dict[str, int]:
        """See `Source`: nothing is lost."""
        found = self.traces.duplicates_total if self._counts_them else 0
        duplicates, self._duplicates = found - self._duplicates, found
        return {"duplicates": duplicates}

    def close(self) -> None:
        """See `Source`."""
        self.traces.close()


def open_recorded(config: Config, paths: Sequence[str], speed: float | None, counts_them: bool) -> TraceSource:
    """Recorded traces.

    Raises:
        TraceError: one cannot be read at all.
    """
    return TraceSource(open_traces(config, paths), speed, counts_them)
