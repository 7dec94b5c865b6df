"""All processes of one configuration, from their start to their end; a reload makes another generation beside it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trafficrefinery.config import Config
from trafficrefinery.engine.worker import Settings
from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.system import processes

from . import logs
from .channels.channel import Channel
from .channels.name_log import NameLog
from .channels.snapshots import channel_bytes
from .inputs import Inputs
from .process import run as run_process
from .run_totals import RunTotals
from .startup import Prepared
from .status import READY, RUN, STARTING, STOP, STOP_AT, STOPPED, Answers, Board
from .workers.aggregating import AggregatorPost, aggregate
from .workers.capturing import Post, capture
from .workers.naming import NamesPost, learn_names

if TYPE_CHECKING:
    from .channels.sessions import InferenceChannels, Models

_BACK_OFF_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_JOIN_S = 1.0
_STEADY_S = 60.0
"""A process that lived so long starts anew at once."""
_PATIENCE = 10
"""The aggregator gives no sign of life while it writes an interval: with a million flows that takes half a minute."""
_START_TIMEOUT_S = 600.0
"""Of a process that compiles."""


@dataclass
class Child:
    """One process, and what becomes of it when it dies.

    Args:
        patience: times `Daemon.HangTimeout` without a sign of life.
        may_restart: also while a recorded trace is read.
    """

    name: str
    body: Callable[..., None]
    post: Any
    record: Any
    process: processes.Process | None = None
    failures: int = 0
    started_s: float = 0.0
    start_at_s: float = 0.0
    patience: int = 1
    may_restart: bool = False

    def start(self) -> None:
        """Start it."""
        self.record["state"] = STARTING
        self.record["beat_ns"] = time.monotonic_ns()
        self.started_s = time.monotonic()
        try:
            self.process = processes.start(run_process, self.body, self.post, name=f"trafficrefinery {self.name}")
        except OSError as error:  # no memory, no descriptors: it is tried again
            logs.error(f"a process cannot be started: {error}", name=self.name)
            self.process, self.start_at_s = None, self.started_s + _BACK_OFF_S[-1]

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.is_alive()

    @property
    def has_stopped(self) -> bool:
        """Whether it ended as it should."""
        return self.process is not None and self.process.exitcode == 0

    def kill(self) -> None:
        """End it at once, also when it is stopped."""
        if self.process is not None and self.process.is_alive():
            self.process.kill()  # without waiting: a process that waits for a dead disk ends later

    def close(self) -> None:
        """It has ended: give back what the operating system keeps of it."""
        if self.process is not None:
            self.process.join(_JOIN_S)
            if not self.process.is_alive():
                self.process.close()
            self.process = None


class Generation:
    """The processes of one configuration.

    Args:
        inputs: the sockets, which are the supervisor's.
        latest: where the last interval goes for the query interface; and its inferences.
        run, number: what is kept of the run of the daemon, and the number of this generation in it.
    """

    def __init__(
        self, prepared: Prepared, inputs: Inputs, latest: tuple[socket.socket, socket.socket], run: RunTotals,
        number: int,
    ) -> None:  # fmt: skip
        self.plan, self.config, self.inputs = prepared.plan, prepared.plan.config, inputs
        plan, config, workers, models = self.plan, self.config, inputs.workers, prepared.models
        settings = Settings(partitions=inputs.partitions, reads_dns=not inputs.has_names)
        self.board = Board(plan, workers, models.answers if models else Answers())
        self.channels = [Channel(channel_bytes(plan, workers)) for _ in range(workers)]
        self.board.supervisor["pid"], self.board.supervisor["state"] = os.getpid(), READY
        by_name = any(service.filter.has_names for service in config.services)
        self.names = NameLog(config.service_map.max_addresses) if inputs.has_names and by_name else None
        self._others = tuple(sorted(os.sched_getaffinity(0) - set(inputs.cpus))) if inputs.cpus else ()
        self.workers = [
            Child(
                f"worker{number}", capture,
                Post(number, config, self.board, self.channels[number], inputs.opener(number), inputs.warm_up,
                     self.names, settings, inputs.cpus_of(number), self._others, config.capture.realtime_priority,
                     inputs.lag_ns, ends_compiled=number == 0),
                self.board.workers[number],
            )
            for number in range(workers)
        ]  # fmt: skip
        self._readers = list(self.workers)  # of packets: what holds the sockets
        if self.names is not None:
            post = NamesPost(
                config, self.board, self.names, inputs.names_opener(), prepared.state_folder / "names", self._others
            )
            self._readers.append(Child("names", learn_names, post, self.board.names))
        self.aggregator = Child(
            "aggregator", aggregate,
            AggregatorPost(config, self.board, self.channels, prepared.out_folder, prepared.state_folder, latest[0],
                           inputs.lag_ns, run, number, self._others, self._to_models(models), inputs.left_out),
            self.board.aggregator, patience=_PATIENCE,
        )  # fmt: skip
        self.inference: Child | None = None
        if self._inference_channels is not None:
            from .workers.inference import InferencePost, infer_sessions

            inference = InferencePost(config, self.board, self._inference_channels, latest[1], self._others)
            self.inference = Child(
                "inference", infer_sessions, inference, self.board.inference, patience=_PATIENCE, may_restart=True
            )

    def _to_models(self, models: Models | None) -> tuple[Models, InferenceChannels] | None:
        self._inference_channels: InferenceChannels | None = None
        if models is None:
            return None
        from .channels.sessions import InferenceChannels

        self._inference_channels = InferenceChannels.of(self.plan)
        return models, self._inference_channels

    @property
    def children(self) -> list[Child]:
        """All processes."""
        return [*self._readers, self.aggregator, *self._inferring]

    @property
    def _inferring(self) -> list[Child]:
        return [] if self.inference is None else [self.inference]

    def starting(self) -> bool:
        """Start what can be started: the first worker compiles, the others then load. False when all are ready."""
        first, *rest = self._readers
        for child in self._inferring:
            if child.process is None:
                child.start()
        if first.has_stopped and first.record["state"] == STARTING:  # it has compiled
            first.close()
        if first.process is None:
            first.start()
            first.post = first.post._replace(ends_compiled=False)  # once, also where nothing can be kept
        elif first.record["state"] == READY:
            for child in rest:
                if child.process is None:
                    child.start()
        return any(child.record["state"] == STARTING for child in [*self._readers, *self._inferring])

    def failed_start(self) -> int | None:
        """The exit status of a process that could not start: its error is in the log."""
        for child in self.children:
            code = None if child.process is None else child.process.exitcode
            if code:
                return code if code > 0 else 1
        return None

    def capture(self) -> None:
        """The first packet may come."""
        self.board.supervisor["wanted"] = RUN

    def write(self) -> None:
        """Records may be written: no other aggregator does."""
        self.aggregator.start()

    def restart_writers(self) -> None:
        """Start at once what was to be restarted later, so that nothing is left."""
        for child in [self.aggregator, *self._inferring]:
            if child.process is None:
                child.start()

    @property
    def counts(self) -> bool:
        """Whether all workers have begun to count."""
        return bool((self.board.workers["counts"] == 1).all())

    @property
    def writes(self) -> bool:
        """Whether the aggregator is at work, or was."""
        return bool(self.aggregator.record["state"] != STARTING)

    def look_after(self, now_s: float, was_away: bool) -> None:
        """Restart what died or hangs; after the supervisor itself `was_away`, nobody's silence counts."""
        hang_s = self.config.daemon.hang_timeout_ns / 1e9
        for child in self.children:
            if child.process is None:
                if now_s >= child.start_at_s:
                    child.start()
            elif not child.process.is_alive():
                self._died(child, now_s)
            else:
                silent_s = now_s - int(child.record["beat_ns"]) / 1e9
                limit_s = _START_TIMEOUT_S if child.record["state"] == STARTING else hang_s * child.patience
                if silent_s > limit_s and not was_away:
                    logs.error("a process does not respond and is killed", name=child.name, silent_s=round(silent_s, 1))
                    child.kill()

    def _died(self, child: Child, now_s: float) -> None:
        assert child.process is not None
        code = child.process.exitcode or 0
        if code == 0 and child.record["state"] == STOPPED and child is not self.aggregator:
            return  # its trace has ended
        if not (self.inputs.is_live or child.may_restart):
            raise TrafficRefineryError(f"{child.name} ended ({code}); what was written so far is in the output folder")
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        child.failures = 0 if now_s - child.started_s > _STEADY_S else child.failures
        wait_s = _BACK_OFF_S[min(child.failures, len(_BACK_OFF_S) - 1)]
        logs.error("a process ended and is started again", name=child.name, how=how, wait_s=wait_s)
        child.failures += 1
        child.record["state"] = STARTING
        child.record["restarts_total"] += 1
        child.close()
        child.start_at_s = now_s + wait_s

    @property
    def has_ended(self) -> bool:
        """Whether all workers came to the end of their trace."""
        return all(child.has_stopped and child.record["state"] == STOPPED for child in self.workers)

    def stop(self, at_ns: int | None = None) -> None:
        """Want all processes to end: now, or when the time of day is `at_ns`."""
        if at_ns is not None:
            self.board.supervisor["stop_at_ns"] = at_ns
        self.board.supervisor["wanted"] = STOP if at_ns is None else STOP_AT

    def sockets_are_free(self) -> bool:
        """Whether no process reads packets any more."""
        return not any(child.is_alive for child in self._readers)

    def kill_readers(self) -> None:
        """End those that read packets and did not stop when they should."""
        for child in self._readers:
            if child.is_alive:
                logs.error("a process did not stop and is ended", name=child.name)
                child.kill()

    def is_stopped(self) -> bool:
        """Whether all have ended; a worker that died meanwhile counts as stopped for the aggregator."""
        for child in [*self.workers, *self._inferring]:
            if not child.is_alive:
                child.record["state"] = STOPPED
        return not any(child.is_alive for child in self.children)

    def close(self) -> None:
        """End what is left and give everything back but the sockets."""
        for child in self.children:
            child.kill()
            child.close()
        for channel in self.channels:
            channel.close()
        if self.names is not None:
            self.names.close()
        if self._inference_channels is not None:
            self._inference_channels.close()
        with contextlib.suppress(OSError):
            self.board.close()


def next_boundary(config: Config, now_ns: int) -> int:
    """The next end of an interval, of the services' with the longest one."""
    length = max([config.interval_ns, *(service.interval_ns for service in config.services)])
    return now_ns // length * length + length
