"""A replay by several processes, each with its partition of the flows."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import signal
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.capture.sources import TraceSource, open_traces
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.config import Config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.errors import ElsewhereError, TraceError, TrafficRefineryError
from trafficrefinery.records.aggregate import Aggregator, Batch
from trafficrefinery.records.summary import Reading
from trafficrefinery.system.processes import CONTEXT, Process, end, start

from .job import REPLAYING, Job, Result, Stopwatch, walk

_PROGRESS_S = 0.1
_ROWS_WAITING = 1 << 19
"""Rows of fast workers that may wait for the slow ones before the fast ones have to wait themselves."""


def replay_in_processes(job: Job, workers: int, reader: TraceReader, result: Result) -> Generator[Batch, None, None]:
    """Records of a replay by several processes, as their intervals end. Fills `result`.

    Each reads the whole trace, as long as `reader` found it.

    Raises:
        TrafficRefineryError: a worker failed or was killed.
    """
    with _processes(job, workers, reader.sizes) as (pipes, processes):
        # Meanwhile they start. They wait, so that only one process compiles what the others then load.
        warm = Worker(job.plan, Aggregator(job.plan, 1), job.settings)
        warm.warm_up()
        warm.finish()
        for pipe in pipes:
            with contextlib.suppress(BrokenPipeError):  # it is found dead below
                pipe.send("go")
        yield from _Reception(job, reader.total_bytes, result, pipes, processes).batches()


@contextlib.contextmanager
def _processes(job: Job, workers: int, sizes: Sequence[int | None]) -> Iterator[tuple[list[Connection], list[Process]]]:
    pipes: list[Connection] = []
    processes: list[Process] = []
    try:
        for number in range(workers):
            ours, theirs = CONTEXT.Pipe()
            mine = job.settings._replace(number=number, partitions=workers)
            processes.append(start(_work, theirs, job.plan.config, (job.paths, sizes), mine, job.speed))
            theirs.close()
            pipes.append(ours)
        yield pipes, processes
    finally:
        for process in processes:
            end(process)


class _PipeReceiver:
    """Sends what a worker makes to the parent, in order. Waits when the parent is behind: replay drops nothing."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._names_sent = 0
        self.watch = Stopwatch()

    def _send(self, *message: Any) -> None:  # rows, names, counts
        with self.watch.apart():
            self._pipe.send(message)

    def rows(self, worker: int, profile: int, rows: Any, names: Sequence[str]) -> None:
        self._send("rows", worker, profile, rows, list(names[self._names_sent :]))
        self._names_sent = len(names)

    def summary(self, worker: int, start_ns: int, summary: Any) -> None:
        self._send("summary", worker, start_ns, summary)

    def done_until(self, worker: int, until_ns: int) -> None:
        self._send("done_until", worker, until_ns)

    def restart(self, worker: int) -> None:
        self._send("restart", worker)


def _work(
    pipe: Connection, config: Config, traces: tuple[Sequence[str], Sequence[int | None]], settings: Settings,
    speed: float | None,
) -> None:  # fmt: skip
    """Body of a worker process; of the traces, their paths and sizes."""
    paths, sizes = traces
    try:
        with open_traces(config, paths, sizes) as reader:
            _walk(pipe, config, reader, settings, speed)
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # the parent is gone
    except Exception as error:  # noqa: BLE001 (the parent has to hear of any)
        trace = traceback.format_exc()
        if isinstance(error, TrafficRefineryError):
            pipe.send(("error", settings.number, str(error), error.exit_code, trace))
        else:
            pipe.send(("bug", settings.number, f"{type(error).__name__}: {error} (worker {settings.number})", trace))
    pipe.close()


def _walk(pipe: Connection, config: Config, reader: TraceReader, settings: Settings, speed: float | None) -> None:
    plan, number = Plan.of(config), settings.number
    pipe.recv()
    receiver = _PipeReceiver(pipe)
    worker = Worker(plan, receiver, settings)
    worker.warm_up()
    receiver.watch = watch = Stopwatch()
    told = 0.0
    for _ in walk(worker, TraceSource(reader, speed), watch):
        if time.monotonic() - told > _PROGRESS_S:
            told = time.monotonic()
            pipe.send(("progress", number, worker.counters["packets"], reader.position_bytes))
    damage = [(error.file, error.position, error.message) for error in reader.damage]
    seen = Reading.of(reader, worker.times)
    pipe.send(("end", number, worker.counters, watch.seconds, damage, worker.trail, worker.class_errors, seen))


def _earliest(damage: Sequence[tuple[str, int | None, str]]) -> list[TraceError]:
    """Each worker reads every trace; one that is cut or changed meanwhile is shorter for some than for others."""
    found: dict[str, tuple[str, int | None, str]] = {}
    for item in sorted(damage, key=lambda item: item[1] or 0):
        found.setdefault(item[0], item)
    return [TraceError(*item) for item in found.values()]


def _together(trail: NDArray[np.int16], other: NDArray[np.int16]) -> NDArray[np.int16]:
    """The services of all frames, of which each worker knows its own; -1: none."""
    longer, shorter = sorted((trail, other), key=len, reverse=True)
    made = longer.copy()
    made[: len(shorter)] = np.maximum(made[: len(shorter)], shorter)
    return made


class _WorkerTracebackError(Exception):
    """The traceback of an error in a worker, as text: cause of the error that is raised for it here."""


class _Reception:
    """The parent's side."""

    def __init__(
        self, job: Job, total_bytes: int | None, result: Result, pipes: list[Connection],
        processes: list[Process],
    ) -> None:  # fmt: skip
        self._job, self._total_bytes, self._result = job, total_bytes, result
        self._aggregator = result.aggregator
        self._processes = processes
        self._pipes = dict(enumerate(pipes))
        self._names: list[list[str]] = [[] for _ in pipes]
        self._packets, self._positions = [0] * len(pipes), [0] * len(pipes)
        self._damage: list[tuple[str, int | None, str]] = []

    def batches(self) -> Iterator[Batch]:
        """Receive until all workers have ended."""
        while self._pipes:
            for worker in self._readable():
                self._take(worker)
            yield from self._aggregator.ready()

    def _readable(self) -> list[int]:
        wanted = self._pipes
        if self._aggregator.waiting > _ROWS_WAITING:
            wanted = {worker: self._pipes[worker] for worker in self._aggregator.last_workers()}
        ready = multiprocessing.connection.wait(wanted.values())
        return [worker for worker, pipe in wanted.items() if pipe in ready]

    def _take(self, worker: int) -> None:
        """Receive one message of a worker."""
        result = self._result
        try:
            kind, _, *rest = self._pipes[worker].recv()
        except (EOFError, OSError):
            raise TrafficRefineryError(self._death(worker)) from None
        if kind == "rows":
            profile, rows, names = rest
            self._names[worker] += names
            self._aggregator.rows(worker, profile, rows, self._names[worker])
        elif kind == "summary":
            self._aggregator.summary(worker, *rest)
        elif kind == "done_until":
            self._aggregator.done_until(worker, *rest)
        elif kind == "restart":
            self._aggregator.restart(worker)
        elif kind == "progress":
            self._packets[worker], self._positions[worker] = rest
            self._job.progress(REPLAYING, min(self._positions), self._total_bytes, sum(self._packets))
        elif kind == "end":
            counters, path_s, damage, trail, errors, result.reading = rest  # each worker reads the whole trace
            result.counters = {name: result.counters.get(name, 0) + count for name, count in counters.items()}
            result.class_errors = {name: result.class_errors.get(name, 0) + count for name, count in errors.items()}
            result.path_s = max(result.path_s, path_s)
            result.trail = _together(result.trail, trail)
            self._damage += damage
            result.damage = _earliest(self._damage)
            del self._pipes[worker]
        elif kind == "bug":
            raise ElsewhereError(*rest)
        else:
            text, exit_code, trace = rest
            error = TrafficRefineryError(text)
            error.exit_code = exit_code
            raise error from _WorkerTracebackError(f"\n{trace}")

    def _death(self, worker: int) -> str:
        self._processes[worker].join(5)
        code = self._processes[worker].exitcode
        if code is None or code >= 0:
            return f"worker {worker} exited unexpectedly (status {code})"
        name = signal.Signals(-code).name
        hint = "; was there memory enough?" if code == -signal.SIGKILL else ""
        return f"worker {worker} was killed by {name}{hint}"
