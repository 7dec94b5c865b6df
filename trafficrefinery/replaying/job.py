"""A worker's walk through recorded traces: at which pace, and how long the packet path took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.frames import Block
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.config import Config
from trafficrefinery.engine.worker import Plan, Settings, Worker
from trafficrefinery.errors import TraceError, TrafficRefineryError
from trafficrefinery.jit import compiling
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.records.summary import Reading, Summary

if TYPE_CHECKING:
    from trafficrefinery.models.sessions.timelines import Timelines

Progress = Callable[[str, int, int, "int | None"], None]
"""Called now and then with what is being done, packets, bytes read, and bytes in all (None: not known)."""
COMPILING, REPLAYING, EXTRACTING = "compiling", "replaying", "writing packets"
COMPILING_NOTE = "compiling feature classes (first run only)..."

_TICK_S = 0.01  # a paced replay sleeps for so long at least


class Job(NamedTuple):
    """What is to be replayed, and how.

    Args:
        paths: as they were given; a file that is named twice is read once.
        speed: times real time; None: as fast as possible.
    """

    plan: Plan
    paths: tuple[str, ...]
    settings: Settings
    speed: float | None = None
    progress: Progress = lambda *_: None

    def open(self) -> TraceReader:
        """A reader of the traces, as the configuration says.

        Raises:
            TraceError: a trace cannot be read at all.
        """
        return open_traces(self.plan.config, self.paths)


def open_traces(config: Config, paths: Sequence[str], sizes: Sequence[int | None] = ()) -> TraceReader:
    """A reader of traces: what a configuration says of duplicates holds for all who read them.

    Args:
        sizes: see `TraceReader`.

    Raises:
        TraceError: a trace cannot be read at all.
    """
    return TraceReader(paths, sizes=sizes, duplicates=config.capture.duplicates, decapsulate=config.decapsulate)


@dataclass
class Result:
    """What a replay did.

    Args:
        counters: packets by reason and others, summed over workers.
        compile_s: seconds that the compiler took; 0 when all came from the cache.
        path_s: seconds that the packet path took (read, parse, look up, update, collect), of the slowest worker.
        total_s: seconds for everything but the compiler.
        damage: of each trace that could not be read to its end.
        trail: of each frame, see `Worker.trail`; empty unless it was asked for.
        class_errors: of each feature class, how many of its calls raised, see `Worker.class_errors`.
        reading: what else there is to know of the traces.
        summary: what there is to know at the end.
        extracted: service → its packets in traces of their own.
        sessions: service → sessions that started; empty unless they were asked for.
        timelines: what was inferred of the first sessions, with models.
        more_files: what was written beside records and intervals.
    """

    aggregator: Aggregator
    counters: dict[str, int] = field(default_factory=dict)
    compile_s: float = 0.0
    path_s: float = 0.0
    total_s: float = 0.0
    damage: list[TraceError] = field(default_factory=list)
    trail: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    class_errors: dict[str, int] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    summary: Summary = field(default_factory=Summary)
    extracted: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)
    timelines: Timelines | None = None
    more_files: list[Path] = field(default_factory=list)

    @property
    def failures(self) -> list[TrafficRefineryError]:
        """Why records are wrong or missing."""
        return [*self.damage, *self.aggregator.plan.raised(self.class_errors)]


@contextlib.contextmanager
def compiler_told(progress: Progress) -> Iterator[None]:
    """Progress is told when the compiler begins: what it makes is kept, so that is rare."""
    compiling.begins = lambda: progress(COMPILING, 0, 0, None)
    try:
        yield
    finally:
        compiling.begins = lambda: None


class Stopwatch:
    """Measures the packet path: what the compiler took and what was apart does not count."""

    def __init__(self) -> None:
        self._started = time.perf_counter() - compiling.seconds
        self._apart_s = 0.0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - compiling.seconds - self._started - self._apart_s

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """What is done meanwhile is not the packet path's: sinks, and waiting."""
        before = self.seconds
        try:
            yield
        finally:
            self._apart_s += self.seconds - before


def walk(worker: Worker, reader: TraceReader, speed: float | None, watch: Stopwatch) -> Iterator[None]:
    """Give a worker all blocks of a reader; yields after each, and at the end."""
    for block in reader if speed is None else _paced(reader, speed, watch):
        worker.process(block)
        with watch.apart():
            yield
    worker.finish()
    with watch.apart():
        yield


def _paced(reader: TraceReader, speed: float, watch: Stopwatch) -> Iterator[Block]:
    """Blocks, or parts of them, when their packets are due at `speed` times real time."""
    first_ns: int | None = None
    started = time.monotonic()
    for buffer, frames in reader:
        at = 0
        while at < len(frames):
            if first_ns is None:
                first_ns, started = int(frames["ts_ns"][0]), time.monotonic()
            ahead_s = (frames["ts_ns"][at:] - first_ns) / 1e9 / speed - (time.monotonic() - started)
            due = len(ahead_s) if ahead_s.max() <= 0 else int(np.argmax(ahead_s > 0))
            if due:
                yield Block(buffer, frames[at : at + due])
                at += due
            else:
                with watch.apart():
                    time.sleep(max(float(ahead_s[0]), _TICK_S))
