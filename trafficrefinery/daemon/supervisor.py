"""The supervisor: opens what the others need, starts, watches and restarts them, and acts on signals.

Signal handlers only note what came; the loop acts, and never waits for long.
"""

from __future__ import annotations

import gc
import multiprocessing.connection
import signal
import time
from collections.abc import Mapping

from trafficrefinery import __version__
from trafficrefinery.capture.interfaces import interface_drops
from trafficrefinery.config.units import NS_PER_UNIT
from trafficrefinery.engine.partition import PACKETS
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.jit import cache_dir
from trafficrefinery.records.storage.folder import FolderLock
from trafficrefinery.system.resident import give_back

from . import logs, privileges
from .inputs import Inputs, Interfaces, open_inputs
from .metrics import Running
from .notify import Notifier
from .process_group import Generation, next_boundary
from .query.app import query_app
from .query.latest import Latest, interval_channel
from .query.listener import bind, serve
from .run_totals import RunTotals
from .startup import (
    Prepared,
    RunOptions,
    prepare,
    refuse_unloadable,
    warn_of_keys,
    warn_of_offloads,
    warn_of_small_rings,
)

_TURN_S = 0.05
_STOP_WITHIN_S = 12.0
"""It takes a second; with a million flows to write, longer. The systemd unit waits for 15 s."""
_STOP_READING_S = 2.0
_LOOK_S = 1.0
_NOTE_S = 0.1
"""Less than Grace: that an interface is away is known before the interval is written."""
_AWAY_S = 1.0
"""After a longer turn this process itself was stopped, or the machine was."""
_STEP_NS = 500_000_000
"""A clock that is set back by less is adjusted slowly."""
_HANDOVER_NS = 200_000_000
_REOPEN_S = 10.0
_AWAY = ("away_from_ns", "away_until_ns")
_HANDED_ON = ("reloads_total", "reload_failures_total", "clock_steps_total", "rotations_total", *_AWAY)
"""Fields of the supervisor's record that the board of the next generation takes over."""
_FORGOTTEN_NS = NS_PER_UNIT["h"]
"""An interval is closed long before: what hinders it to be free of losses may be forgotten then."""


class Supervisor:
    """One daemon.

    Raises:
        UsageError and its kinds: what hinders the start, before any process is started.
    """

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._prepared = prepare(options)
        config = self._prepared.plan.config
        FolderLock(self._prepared.out_folder, "OutFolder").release()  # that another daemon writes there is told at once
        listening = None if config.metrics.listen is None else bind(config.metrics.listen, config.file)
        self._inputs = open_inputs(config, options.traces, options.speed)
        is_xdp = config.capture.source == "afxdp"
        privileges.keep_only(privileges.XDP_SUPERVISOR if is_xdp else privileges.SUPERVISOR)
        cache_dir()  # that somebody else can write there is told now, and the processes have the same one
        if self._inputs.is_live:
            warn_of_offloads(config)
            warn_of_small_rings(config, self._inputs.workers)
        warn_of_keys(config, live=self._inputs.is_live)
        self._latest, (self._latest_theirs, self._latest_ours) = Latest(), interval_channel()
        self._inferred, (self._inferred_theirs, self._inferred_ours) = Latest(), interval_channel()
        self._run_totals, self._generations = RunTotals(), 0
        self._generation = self._new_generation(self._prepared, self._inputs)
        self._next: Generation | None = None
        self._next_is_reload = False
        self._handover_s: float | None = None  # when the running generation has to end
        self._listener = None
        if listening is not None:
            self._listener = serve(listening, query_app(
                self._running, self._latest, self._interface_drops, self._inferred
            ))  # fmt: skip
        self._notifier = Notifier()
        self._wanted: set[signal.Signals] = set()
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._turned_s = time.monotonic()
        self._looked_s = self._noted_s = self._reopen_s = 0.0
        self._is_capturing = self._is_ready = False
        self._missing: set[str] = set()
        self._away: set[str] = set()
        self._noted_ns = 0  # time of day of the look before

    def _running(self) -> Running:
        generation = self._generation
        return Running(generation.board, generation.plan)

    def _new_generation(self, prepared: Prepared, inputs: Inputs) -> Generation:
        self._generations += 1
        latest = self._latest_theirs, self._inferred_theirs
        return Generation(prepared, inputs, latest, self._run_totals, self._generations)

    def run(self) -> int:
        """Until a signal ends it or its traces have ended; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda signum, _: self._wanted.add(signal.Signals(signum)))
        logs.info("starting", version=__version__, config=self._options.config, workers=self._inputs.workers)
        try:
            return self._loop()
        finally:
            self._close()

    def _loop(self) -> int:
        while True:
            self._publish_time()
            was_away = self._turn()
            if self._wanted & {signal.SIGTERM, signal.SIGINT}:
                return self._stop()
            if signal.SIGUSR1 in self._wanted:
                self._wanted.discard(signal.SIGUSR1)
                self._generation.board.supervisor["rotations_total"] += 1
            if not self._is_ready:
                status = self._generation.failed_start()
                if status is not None:
                    return status
                self._go_when_started()
            else:
                if signal.SIGHUP in self._wanted and self._next is None:
                    self._wanted.discard(signal.SIGHUP)
                    self._begin_reload()
                self._hand_over(was_away)
                if not self._inputs.is_live and self._generation.has_ended:
                    return self._stop()
            self._look()

    def _turn(self) -> bool:
        """Wait for a process to end, or a little while; whether this process was away for long meanwhile."""
        children = [*self._generation.children, *(self._next.children if self._next else ())]
        sentinels = [child.process.sentinel for child in children if child.process is not None and child.is_alive]
        multiprocessing.connection.wait([*sentinels, self._latest_ours, self._inferred_ours], _TURN_S)
        self._latest.receive(self._latest_ours)
        self._inferred.receive(self._inferred_ours)
        before_s, self._turned_s = self._turned_s, time.monotonic()
        return self._turned_s - before_s > _AWAY_S

    def _publish_time(self) -> None:
        now_ns = time.time_ns()
        offset_ns = now_ns - time.monotonic_ns()
        stepped = offset_ns < self._offset_ns - _STEP_NS
        self._offset_ns = offset_ns
        for generation in filter(None, (self._generation, self._next)):
            supervisor = generation.board.supervisor
            supervisor["wall_ns"], supervisor["beat_ns"] = now_ns, time.monotonic_ns()
            supervisor["clock_steps_total"] += stepped
        if stepped:
            logs.warning("the clock of this machine was set back")

    def _go_when_started(self) -> None:
        if self._generation.starting():
            return
        if not self._is_capturing:
            self._is_capturing = True
            self._generation.capture()
            self._generation.write()
        if not (self._generation.writes and self._generation.counts):  # what hinders it is told as an error
            return
        self._is_ready = True
        give_back()
        self._notifier.ready(self._status())
        logs.info("capturing", workers=self._inputs.workers)

    # The next generation starts beside this one, and takes over at the end of an interval.

    def _begin_reload(self) -> None:
        self._notifier.reloading()
        try:
            if not self._inputs.is_live:
                raise UsageError("a recorded trace has one configuration")
            prepared = prepare(self._options)
            refuse_unloadable(prepared, self._prepared)
            old, new = self._generation.config, prepared.plan.config
            same = (new.capture, new.decapsulate) == (old.capture, old.decapsulate)
            inputs = self._inputs if same else open_inputs(new, before=self._inputs)
        except (TrafficRefineryError, OSError) as error:
            self._refuse_reload(str(error))
            return
        logs.info("reloading: the new configuration is compiled")
        self._begin(prepared, inputs, is_reload=True)

    def _begin(self, prepared: Prepared, inputs: Inputs, *, is_reload: bool) -> None:
        successor = self._new_generation(prepared, inputs)
        for name in _HANDED_ON:
            successor.board.supervisor[name] = self._generation.board.supervisor[name]
        self._next, self._next_is_reload, self._prepared = successor, is_reload, prepared

    def _refuse_reload(self, why: str) -> None:
        logs.error(f"rejected the new configuration; still running the old one: {why}")
        supervisor = self._generation.board.supervisor
        supervisor["reload_failures_total"] += 1
        supervisor["last_reload_ok"], supervisor["last_reload_ns"] = 0, time.time_ns()
        self._notifier.ready(self._status())

    def _drop_next(self) -> None:
        if self._next is not None:
            self._next.close()
            if self._next.inputs is not self._inputs:
                self._next.inputs.close()
            self._next = None

    def _hand_over(self, was_away: bool) -> None:
        """The next step of a handover, if there is one, and care for what runs."""
        old, successor, now_s = self._generation, self._next, time.monotonic()
        if self._handover_s is None or now_s < self._handover_s:
            old.look_after(now_s, was_away)
        if successor is None:
            return
        if self._handover_s is None:
            if successor.failed_start() is not None:
                self._drop_next()
                if self._next_is_reload:
                    self._refuse_reload("see above")
            elif not successor.starting():
                now_ns = time.time_ns()
                at_ns = next_boundary(old.config, now_ns + _HANDOVER_NS)
                self._handover_s = now_s + (at_ns - now_ns) / 1e9
                successor.board.supervisor["from_ns"] = at_ns
                old.stop(at_ns)
        elif old.sockets_are_free():
            successor.capture()
            if old.is_stopped() or now_s > self._handover_s + _STOP_WITHIN_S:
                self._replace(old, successor)
        elif now_s > self._handover_s + self._inputs.lag_ns / 1e9 + _STOP_READING_S:
            old.kill_readers()

    def _replace(self, old: Generation, successor: Generation) -> None:
        if not old.aggregator.has_stopped:
            logs.error("the last interval of the previous configuration was not written; recovering what remains")
            old.board.aggregator["whole_from_ns"] = time.time_ns()
        successor.board.aggregator["whole_from_ns"] = old.board.aggregator["whole_from_ns"]
        old.close()
        successor.write()
        if old.inputs is not successor.inputs:
            old.inputs.close()
        self._inputs, self._generation, self._next, self._handover_s = successor.inputs, successor, None, None
        if successor.inference is None:
            self._inferred.clear()
        give_back()
        if self._next_is_reload:
            supervisor = successor.board.supervisor
            supervisor["reloads_total"] += 1
            supervisor["last_reload_ok"], supervisor["last_reload_ns"] = 1, time.time_ns()
            logs.info("reloaded")
            self._notifier.ready(self._status())
        else:
            logs.info("capturing again")

    # Housekeeping.

    def _look(self) -> None:
        """About once a second."""
        now_s = time.monotonic()
        if now_s - self._noted_s > _NOTE_S and self._is_capturing and isinstance(self._inputs, Interfaces):
            self._noted_s = now_s
            self._note_interfaces(self._inputs)
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        self._notifier.watchdog()
        self._notifier.status(self._status())
        if self._is_ready and self._next is None and isinstance(self._inputs, Interfaces):
            self._look_at_interfaces(self._inputs, now_s)

    def _note_interfaces(self, inputs: Interfaces) -> None:
        """For the aggregator: from when to when an interface was away, so that intervals are not free of losses.

        Of two such times, one soon after the other, intervals between may be taken for incomplete too.
        """
        supervisor, away = self._generation.board.supervisor, inputs.away()
        now_ns = int(supervisor["wall_ns"])
        is_over = bool(supervisor["away_from_ns"]) and bool(supervisor["away_until_ns"])
        if away:
            if is_over and now_ns - int(supervisor["away_until_ns"]) > _FORGOTTEN_NS:
                supervisor["away_from_ns"] = 0
            supervisor["away_from_ns"] = int(supervisor["away_from_ns"]) or self._noted_ns or now_ns
            supervisor["away_until_ns"] = 0
        elif supervisor["away_from_ns"] and not is_over:
            supervisor["away_until_ns"] = now_ns
        if self._next is not None:  # what it captures begins in an interval that this one ends
            for name in _AWAY:
                self._next.board.supervisor[name] = supervisor[name]
        for name in away - self._away:
            logs.warning("capture failed on an interface", interface=name)
        for name in self._away - away:
            logs.info("an interface can be captured on again", interface=name)
        self._away, self._noted_ns = away, now_ns

    def _look_at_interfaces(self, rings: Interfaces, now_s: float) -> None:
        """An interface that was removed and came back needs new sockets."""
        missing = rings.missing()
        for name in missing - self._missing:
            logs.warning("an interface is gone; capture goes on when it is there again", interface=name)
        self._missing = missing
        if not rings.are_stale() or now_s < self._reopen_s:
            return
        logs.info("an interface came back: its sockets are opened anew")
        try:
            self._begin(self._prepared, open_inputs(self._generation.config, before=self._inputs), is_reload=False)
        except (TrafficRefineryError, OSError) as error:
            logs.error(f"the interface cannot be opened: {error}")
        self._reopen_s = now_s + _REOPEN_S

    def _status(self) -> str:
        workers = self._generation.board.workers
        if not self._is_ready:
            compiled = int(workers["compiled"].max())
            return f"starting: compiling feature classes, {compiled} functions so far" if compiled else "starting"
        packets, drops = int(workers["counters"][:, PACKETS].sum()), int(workers["kernel_drops_total"].sum())
        return f"{packets:,} packets, {drops:,} dropped, {int(workers['flows_active'].sum()):,} flows active"

    def _interface_drops(self) -> Mapping[str, Mapping[str, int]]:
        names = self._generation.config.capture.interfaces if self._inputs.is_live else ()
        return {name: interface_drops(name) for name in names}

    def _stop(self) -> int:
        """The last interval is written; status 0, or 1 when that failed or records are wrong or missing."""
        self._notifier.stopping()
        logs.info("stopping")
        if self._handover_s is not None and self._next is not None and self._generation.sockets_are_free():
            while not self._generation.is_stopped() and self._turned_s < self._handover_s + _STOP_WITHIN_S:
                self._publish_time()
                self._turn()
            self._replace(self._generation, self._next)  # it has captured already
        self._drop_next()
        generation = self._generation
        generation.stop()
        if not self._is_capturing:
            return 0
        generation.restart_writers()
        started_s = time.monotonic()
        while not generation.is_stopped():
            self._publish_time()
            self._turn()
            if self._turned_s > started_s + _STOP_READING_S and self._inputs.is_live:
                generation.kill_readers()
            if self._turned_s > started_s + _STOP_WITHIN_S and self._inputs.is_live:
                logs.error("stopping took too long: what is not written yet is recovered at the next start")
                return 1
        if not generation.aggregator.has_stopped:
            logs.error("the last interval was not written")
            return 1
        logs.info("stopped")
        return 1 if generation.board.aggregator["errors"] else 0

    def _close(self) -> None:
        self._drop_next()
        self._generation.close()
        self._inputs.close()
        if self._listener is not None:
            self._listener.close()


def supervise(options: RunOptions) -> int:
    """`trafficrefinery run`: the exit status."""
    logs.set_up("supervisor")
    gc.freeze()  # what was imported stays: no collection goes through it, least of all that at the end
    return Supervisor(options).run()
