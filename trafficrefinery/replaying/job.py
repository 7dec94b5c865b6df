"""A replay's job and its result; a worker's walk through recorded traces, and how long the packet path took."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.sources import TraceSource
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.errors import TraceError, TrafficRefineryError
from trafficrefinery.jit import compiling
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.records.summary import Reading, Summary
from trafficrefinery.system.progress import Progress, silent

if TYPE_CHECKING:
    from trafficrefinery.models.sessions.timelines import Timelines

COMPILING, REPLAYING, EXTRACTING = "compiling", "replaying", "writing packets"

_TICK_S = 0.01  # between looks at which packets of a paced replay are due


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
    progress: Progress = silent


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
def compiler_reported(progress: Progress) -> Iterator[None]:
    """Reports when the compiler begins: what it makes is kept, so that is rare."""
    compiling.begins = lambda: progress(COMPILING)
    try:
        yield
    finally:
        compiling.begins = lambda: None


class CompilingNote:
    """A `Progress` that says once why it takes so long."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, doing: str, *_: object) -> None:
        if doing == COMPILING and not self._said:
            self._said = True
            sys.stderr.write("compiling feature classes (first run only)...\n")


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


def walk(worker: Worker, source: TraceSource, watch: Stopwatch) -> Iterator[None]:
    """Give a worker all blocks of a source; yields after each, and at the end."""
    while not source.has_ended:
        block = source.poll(0)
        if block is not None:
            worker.process(block)
            with watch.apart():
                yield
        elif not source.has_ended:
            with watch.apart():
                time.sleep(_TICK_S)
    worker.finish()
    with watch.apart():
        yield
