"""A capture worker: walks its source, and closes intervals by the supervisor's clock when no packet does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from trafficrefinery.capture.frames import Block
from trafficrefinery.capture.live import open_libpcap
from trafficrefinery.capture.sources import Source
from trafficrefinery.config import Config
from trafficrefinery.daemon import logs, privileges
from trafficrefinery.daemon.channels.channel import Channel
from trafficrefinery.daemon.channels.name_log import LogReader, NameLog
from trafficrefinery.daemon.channels.snapshots import Sender
from trafficrefinery.daemon.end_of_run import Reported
from trafficrefinery.daemon.process import beat, begin, ready, run_on, used_cpu_ns
from trafficrefinery.daemon.status import RUN, STOP, STOP_AT, STOPPED, WAIT, Board
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.jit import compiling

QUIC_ATTEMPTS_PER_SECOND, NAMES_PER_SECOND = 900, 1500
"""Together 150 ms of a CPU in each second, and a quarter of that at once, see `handshakes.DATAGRAM_UNITS`, NAME_UNITS.

With what all packets take (1 µs) that is less than 5 µs a packet at 50,000 packets a second, in any interval of a
second or more.
"""
_POLL_S = 0.05
_TELL_S = 0.2
_SAMPLE_S = 10.0
_STEP_WAIT_S = 0.25
_LEARN_AT_ONCE = 500
_SKIPPING_NS = 60_000_000_000  # so long after its start, a worker may find packets of the last configuration's time


class Post(NamedTuple):
    """What a capture worker is given.

    Args:
        open_source: called in the worker; its sockets are the supervisor's.
        warm_up: compiles, or loads, what the source needs.
        names: where another process tells what DNS answers taught, if there is one.
        cpus: to capture on; what is compiled before is on `other_cpus`.
        lag_ns: a packet may be handed over so long after its time.
        ends_compiled: where something had to be compiled, the process ends before it captures: without the compiler,
            the next one takes 270 MiB less.
    """

    number: int
    config: Config
    board: Board
    channel: Channel
    open_source: Callable[[], Source]
    warm_up: Callable[[], None]
    names: NameLog | None
    settings: Settings
    cpus: tuple[int, ...] = ()
    other_cpus: tuple[int, ...] = ()
    realtime_priority: int = 0
    lag_ns: int = 0
    ends_compiled: bool = False


def capture(post: Post) -> None:
    """Body of the process."""
    record = post.board.workers[post.number]
    begin(f"worker{post.number}", record, post.other_cpus, _needed(post))
    worker = CaptureWorker(post, record)
    if post.ends_compiled and compiling.seconds:
        logs.info("compiled; the worker starts anew, without the compiler", seconds=round(compiling.seconds, 1))
    else:
        worker.run()


def _needed(post: Post) -> tuple[privileges.Capability, ...]:
    """Until the source is open: to read classes and traces, to run at a priority; libpcap opens its own sockets."""
    own = privileges.CAPTURE if getattr(post.open_source, "func", None) is open_libpcap else ()
    return (*privileges.FILES, privileges.Capability.SYS_NICE, *own)


class CaptureWorker:
    """One capture worker, after its process was set up."""

    def __init__(self, post: Post, record: Any) -> None:
        self._post, self._record, self._supervisor = post, record, post.board.supervisor
        compiling.begins = self._tell_of_compiling
        self._plan = plan = Plan.of(post.config)
        self._lost: dict[str, int] = {}
        most = post.config.daemon.max_short_flows
        settings = post.settings._replace(
            number=post.number,
            names_per_second=NAMES_PER_SECOND,
            quic_attempts_per_second=QUIC_ATTEMPTS_PER_SECOND,
            judges_time=not post.lag_ns,  # else of a trace
            max_short_flows=None if most is None else -(-most // len(post.board.workers)),
        )
        self._sender = Sender(post.channel, record)
        self._worker = Worker(plan, self._sender, settings, self._counts_of_interval)
        if post.lag_ns:
            self._worker.wall_ns, self._worker.is_set_back = time.time_ns, self._waits_for_step
        self._worker.warm_up()
        post.warm_up()
        self._counters_before = record["counters"].copy(), record["counted_beside"].copy()
        self._services_before = record["service_packets"].copy(), record["service_bytes"].copy()
        self._names = None if post.names is None else LogReader(post.names)
        self._class_errors_before = record["class_errors"].copy()
        self._class_errors_told = 0
        self._steps_back_told = 0
        self._clock_steps = int(self._supervisor["clock_steps_total"])
        self._told_s = self._sampled_s = 0.0
        self._skip_before_ns = 0
        self._has_left = False
        self._source: Source

    def _tell_of_compiling(self) -> None:
        """For the supervisor, and once in the log: the start takes its time."""
        self._record["compiled"] += 1
        if self._record["compiled"] == 1:
            logs.info("compiling the feature classes, which takes up to a minute the first time")

    def run(self) -> None:
        """Until the supervisor wants it to stop, or the source has ended."""
        self._learn()
        ready(self._record)
        while self._supervisor["wanted"] == WAIT:
            beat(self._record)
            time.sleep(_TELL_S / 10)
        run_on(self._post.cpus, self._post.realtime_priority)  # not before: another worker may capture there
        self._skip_before_ns = int(self._supervisor["from_ns"])
        self._source = self._post.open_source()
        privileges.keep_only(() if self._post.lag_ns else privileges.FILES)  # traces are opened one after the other
        if not self._record["counts"]:  # else a worker before this one captured: what it left and lost counts
            self._begin_counting()
        try:
            while not self._has_to_stop():
                self._turn()
        finally:
            self._worker.finish()
            self._tell()
            if self._source.traces is not None:
                self._sender.report(Reported.of(self._source.traces, self._worker.times))
            self._source.close()
            self._record["state"] = STOPPED

    def _begin_counting(self) -> None:
        """Nothing counts that came, or was lost, while this worker compiled or another configuration captured."""
        if self._skip_before_ns:
            self._source.counts()  # its packets are told by their time
        else:
            self._source.skip()
        self._record["counts"] = 1

    def _turn(self) -> None:
        worker = self._worker
        block = self._source.poll(0 if worker.is_closing else _POLL_S)
        if block is not None:
            worker.process(self._part(block))
        elif not self._source.has_ended and self._post.lag_ns:
            worker.advance(int(self._supervisor["wall_ns"]) - self._post.lag_ns)
        else:
            worker.close_a_slice()
        now_s = time.monotonic()
        if now_s - self._told_s > _TELL_S:
            self._told_s = now_s
            self._learn()
            self._tell()
        if now_s - self._sampled_s > _SAMPLE_S:
            self._sampled_s = now_s
            packets = worker.last_packets
            if len(packets):
                self._sender.sample(packets)
        if self._post.lag_ns and self._is_stepped():
            worker.set_back(int(self._supervisor["wall_ns"]))

    def _is_stepped(self) -> bool:
        """Whether the clock of this machine was set back since this was asked."""
        before, self._clock_steps = self._clock_steps, int(self._supervisor["clock_steps_total"])
        return self._clock_steps != before

    def _waits_for_step(self) -> bool:
        """As `_is_stepped`, when the time of day says so: the supervisor will notice soon."""
        until_s = time.monotonic() + _STEP_WAIT_S
        while not (is_stepped := self._is_stepped()) and time.monotonic() < until_s:
            time.sleep(_STEP_WAIT_S / 50)
        return is_stepped

    def _part(self, block: Block) -> Block:
        """Without what the last configuration's worker had, or the next one's will have."""
        if self._skip_before_ns:
            block = block._replace(frames=block.frames[block.frames["ts_ns"] >= self._skip_before_ns])
            if self._supervisor["wall_ns"] > self._skip_before_ns + _SKIPPING_NS:
                self._skip_before_ns = 0
        if self._supervisor["wanted"] == STOP_AT:
            is_later = block.frames["ts_ns"] >= self._supervisor["stop_at_ns"]
            if is_later.any():
                self._has_left |= not self._source.leave()
                block = block._replace(frames=block.frames[~is_later])
        return block

    def _has_to_stop(self) -> bool:
        wanted = self._supervisor["wanted"]
        if wanted == RUN:
            return self._source.has_ended
        late_ns = int(self._supervisor["wall_ns"]) - int(self._supervisor["stop_at_ns"])
        return bool(wanted == STOP or self._has_left or late_ns > self._post.lag_ns or self._source.has_ended)

    def _learn(self) -> None:
        if self._names is not None:
            self._worker.learn(self._names.new(_LEARN_AT_ONCE))

    def _count(self) -> None:
        """Ask the source what was lost: into the totals, and into the interval's summary."""
        for name, count in self._source.counts().items():
            self._record[f"{name}_total"] += count
            self._lost[name] = self._lost.get(name, 0) + count

    def _counts_of_interval(self) -> dict[str, int]:
        self._count()
        lost, self._lost = self._lost, {}
        return lost

    def _tell(self) -> None:
        self._count()
        record, worker = self._record, self._worker
        record["counters"] = self._counters_before[0] + worker.packet_counters
        record["counted_beside"] = self._counters_before[1] + worker.counted_beside
        self._tell_class_errors()
        self._tell_steps_back()
        record["flows_active"] = worker.flows_active
        record["flow_bytes"] = worker.flow_bytes
        record["names"] = len(worker.services.addresses)
        record["service_packets"] = self._services_before[0] + worker.service_packets
        record["service_bytes"] = self._services_before[1] + worker.service_bytes
        record["cpu_ns"] = used_cpu_ns()
        beat(record)

    def _tell_class_errors(self) -> None:
        """In the log, when they are ten times what it said last."""
        errors = self._worker.class_errors
        self._record["class_errors"] = self._class_errors_before + np.fromiter(errors.values(), np.int64)
        total = sum(errors.values())
        if total > 10 * self._class_errors_told:
            self._class_errors_told = total
            for error in self._plan.raised(errors):
                logs.error(str(error), worker=self._post.number)

    def _tell_steps_back(self) -> None:
        """In the log, once for all workers."""
        steps = self._worker.times.steps_back
        for step in steps[self._steps_back_told :] if self._post.number == 0 else ():
            logs.warning(
                "packet timestamps jumped back; intervals are restarted", at_s=step.from_ns / 1e9,
                by_s=(step.from_ns - step.to_ns) / 1e9,
            )  # fmt: skip
        self._steps_back_told = len(steps)
