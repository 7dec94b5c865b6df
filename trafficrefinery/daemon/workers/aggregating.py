"""The aggregator process: rows of all workers become records, which go to the sinks, and sessions, which models see."""

from __future__ import annotations

import functools
import socket
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trafficrefinery.capture.interfaces import interface_drops
from trafficrefinery.config import Config
from trafficrefinery.daemon import logs
from trafficrefinery.daemon.channels.channel import Channel
from trafficrefinery.daemon.channels.snapshots import Reception, held_bytes
from trafficrefinery.daemon.end_of_run import report, summary_of
from trafficrefinery.daemon.process import beat, begin, ready
from trafficrefinery.daemon.query.latest import publish
from trafficrefinery.daemon.run_totals import RunTotals, Totals
from trafficrefinery.daemon.status import LATENCY_BUCKETS_S, READY, RUN, STOP_AT, STOPPED, WAIT, Board, counted
from trafficrefinery.engine.plan import Plan
from trafficrefinery.jit.lazy import Late
from trafficrefinery.records import summary as summaries
from trafficrefinery.records.aggregate import Aggregator, Batch
from trafficrefinery.records.sinks.base import Interval, Place
from trafficrefinery.records.sinks.files import reader_of
from trafficrefinery.records.sinks.opening import close_sinks, open_sinks
from trafficrefinery.records.storage.recovery import recover

if TYPE_CHECKING:
    import polars as pl

    from trafficrefinery.capture.traces.discovery import LeftOut
    from trafficrefinery.daemon.channels.sessions import InferenceChannels, Models, SessionFeed
    from trafficrefinery.daemon.workers.costs import CostSampler
else:
    pl = Late("polars")

_IDLE_S = 0.05
_TICK_S = 0.2
_STEP_S = 2.0  # that workers have after the clock was set back
_INFERENCE_WAIT_S = 2.0  # for the next interval, when all has to end
_NEVER = 1 << 62
_MAX_NAMES = 100_000
"""Names of a service that are told apart at most, for the count of them."""


class AggregatorPost(NamedTuple):
    """What the aggregator is given.

    Args:
        latest: where the last interval goes for the query interface.
        lag_ns: how long after the end of an interval its workers close it, at most.
        models: what the inference worker runs, and the channels to and from it; None: there is no such worker.
        left_out: traces that were named and not read.
        run, generation: what is kept of the run, and the number of this configuration in it.
    """

    config: Config
    board: Board
    channels: Sequence[Channel]
    out_folder: Path
    state_folder: Path
    latest: socket.socket
    lag_ns: int
    run: RunTotals
    generation: int
    cpus: tuple[int, ...] = ()
    models: tuple[Models, InferenceChannels] | None = None
    left_out: Sequence[LeftOut] = ()


def aggregate(post: AggregatorPost) -> None:
    """Body of the process."""
    begin("aggregator", post.board.aggregator, post.cpus)
    AggregatorProcess(post).run()


class AggregatorProcess:
    """The aggregator, after its process was set up."""

    def __init__(self, post: AggregatorPost) -> None:
        self._post, self._board = post, post.board
        self._plan = Plan.of(post.config)
        self._aggregator = Aggregator(self._plan, len(post.channels), limit_bytes=held_bytes(self._plan))

        @functools.cache
        def costs() -> CostSampler:
            from .costs import CostSampler  # takes a second, which no other process has to spend

            return CostSampler(self._plan)

        self._receptions = [
            Reception(number, channel, post.board.workers[number], self._aggregator, costs)
            for number, channel in enumerate(post.channels)
        ]
        self._have_begun: set[int] = set()  # workers of which there was a summary
        # A process that was killed took with it what of earlier intervals was not yet written.
        self._known_restarts = self._restarts_total()
        if post.board.aggregator["restarts_total"]:
            post.board.aggregator["whole_from_ns"] = post.board.supervisor["wall_ns"]
        self._before, self._predecessors = post.run.load(post.generation)
        summaries.remove(post.out_folder)  # of an earlier run
        for line in recover(post.out_folder):
            logs.info(line)
        self._sinks = open_sinks(post.config, Place(self._plan, post.out_folder, post.state_folder))
        self._feed: SessionFeed | None = None
        if post.models is not None:
            from trafficrefinery.daemon.channels.sessions import SessionFeed

            models, channels = post.models
            self._feed = SessionFeed(self._plan, post.board, channels, models)
        self._names: list[set[str]] = [set() for _ in post.config.services]
        self._interface_drops = self._read_interface_drops()
        self._names_counted = counted(self._board.names)
        self._rotations = int(post.board.supervisor["rotations_total"])
        self._ticked_s = 0.0
        self._clock_steps = int(post.board.supervisor["clock_steps_total"])
        self._stepped_s: float | None = None
        self._service_bytes, self._told_s = post.board.workers["service_bytes"].sum(axis=0), time.monotonic()
        before = post.board.aggregator["sinks"]  # of a killed predecessor
        self._sink_totals = before["records_total"].copy(), before["dropped_total"].copy()

    def run(self) -> None:
        """Until all workers have stopped and all that they made is written."""
        record = self._board.aggregator
        ready(record)
        while True:
            # First the states: what a worker sent before it stopped is then taken below.
            stopped = bool((self._board.workers["state"] == STOPPED).all())
            taken = sum(reception.take() for reception in self._receptions)
            self._go_past_absent_workers()
            if stopped and not taken and self._board.supervisor["wanted"] not in (WAIT, RUN):
                break
            if not self._waits_for_clock():
                self._write()
            taken += self._write_inferences()
            if not taken:
                time.sleep(_IDLE_S)
            self._tick()
        for number in range(len(self._receptions)):
            self._aggregator.done_until(number, _NEVER)
        self._write()
        self._end_inference()
        close_sinks(self._sinks)
        self._tell_sinks()
        self._end_run()
        record["state"] = STOPPED

    def _keep_totals(self) -> Totals:
        """What was counted since the start of the daemon; the next aggregator goes on from there."""
        since = Totals.of(self._board, self._aggregator) + self._predecessors
        self._post.run.save(self._post.generation, self._before, since)
        return self._before + since

    def _end_run(self) -> None:
        post, totals = self._post, self._keep_totals()
        if self._board.supervisor["wanted"] == STOP_AT:
            return  # the run goes on, with another configuration or other sockets
        reported = [one.reported for one in self._receptions if one.reported is not None]
        made = summary_of(post.config, totals, reported, post.left_out, live=bool(post.lag_ns))
        self._board.aggregator["errors"] = report(made, post.out_folder)

    def _go_past_absent_workers(self) -> None:
        """The others' records do not wait for a worker that is being started."""
        if not self._post.lag_ns:
            return
        until_ns = int(self._board.supervisor["wall_ns"]) - self._post.config.grace_ns - self._post.lag_ns
        for number, state in enumerate(self._board.workers["state"].tolist()):
            if state != READY:
                self._aggregator.done_until(number, until_ns)

    def _waits_for_clock(self) -> bool:
        """After the clock was set back, all workers end what is open before intervals begin anew."""
        steps, now_s = int(self._board.supervisor["clock_steps_total"]), time.monotonic()
        if steps != self._clock_steps:
            self._clock_steps, self._stepped_s = steps, now_s
        if self._stepped_s is None:
            return False
        workers = range(len(self._receptions))
        if any(self._aggregator.until(number) < _NEVER for number in workers) and now_s - self._stepped_s < _STEP_S:
            return True
        for until_ns in (_NEVER, -_NEVER):
            for number in workers:
                self._aggregator.done_until(number, until_ns)
            self._write()
        self._stepped_s = None
        record, now_ns = self._board.aggregator, self._board.supervisor["wall_ns"]
        record["whole_from_ns"] = min(record["whole_from_ns"], now_ns)
        return False

    def _write(self) -> None:
        self._note_restarts()
        batches = list(self._aggregator.ready())
        summaries = [self._marked(summary) for summary in self._aggregator.ready_summaries()]
        if not batches and not summaries:
            return
        end_ns = round(
            max([*(float(batch.flow["ts_end"][0]) for batch in batches), *(s["ts_end"] for s in summaries)]) * 1e9
        )
        interval = Interval(end_ns, batches, summaries)
        for sink in self._sinks:
            sink.write(interval)
        self._tell(interval)
        self._keep_totals()
        table = reader_of(batches, self._plan) if batches else None
        if not publish(self._post.latest, table, summaries):
            self._board.aggregator["unpublished_total"] += 1
        if self._feed is not None:  # last: records do not wait for it
            self._feed.send(interval)

    def _write_inferences(self) -> int:
        """Write what came from the inference worker; the number of intervals."""
        count = 0
        for interval in self._feed.take() if self._feed is not None else ():
            count += 1
            for sink in self._sinks:
                sink.write(interval)
        return count

    def _end_inference(self) -> None:
        """Wait for the inferences of what was sent, unless the worker is gone or takes too long."""
        if self._feed is None:
            return
        self._feed.finish()
        has_end, until_s = self._feed.end(), time.monotonic() + _INFERENCE_WAIT_S
        while self._feed.waiting and time.monotonic() < until_s:
            stopped = self._board.inference["state"] == STOPPED
            if self._write_inferences():
                until_s = time.monotonic() + _INFERENCE_WAIT_S
            elif stopped:
                break
            else:
                time.sleep(_IDLE_S)
            has_end = has_end or self._feed.end()
            self._tick()
        self._feed.give_up()

    def _note_restarts(self) -> None:
        """An interval that had begun when a worker was lost is not free of losses."""
        if self._known_restarts != (restarts := self._restarts_total()):
            self._known_restarts = restarts
            self._board.aggregator["whole_from_ns"] = self._board.supervisor["wall_ns"]

    def _marked(self, summary: dict[str, Any]) -> dict[str, Any]:
        """With what only this process knows, and whether anything was lost."""
        record = self._board.aggregator
        restarts, dropped_rows = self._restarts_total(), self._dropped_rows_total()
        interfaces = self._read_interface_drops()
        missed = {
            name: {
                kind: max(count - self._interface_drops.get(name, {}).get(kind, count), 0)
                for kind, count in counts.items()
            }
            for name, counts in interfaces.items()
        }
        marked = {
            **summary,
            "worker_restarts": restarts - int(record["marked_restarts"]),
            "dropped_rows": dropped_rows - int(record["marked_dropped_rows"]),
            "interfaces": missed,
            "interface_away": self._was_away(summary),
            **self._of_names(),
        }
        lost = (
            summary.get("kernel_drops", 0) + marked["worker_restarts"] + marked["dropped_rows"]
            # Not rx_dropped: the kernel counts there what no protocol took after it was captured, such as VLANs.
            + sum(counts.get("rx_missed_errors", 0) for counts in missed.values())
        )  # fmt: skip
        missing = self._missing_workers(summary)
        marked["loss_free"] = (
            lost == 0
            and not marked["interface_away"]
            and not missing
            and summary["ts_start"] * 1e9 >= int(record["whole_from_ns"])
        )
        record["marked_restarts"], record["marked_dropped_rows"] = restarts, dropped_rows
        self._interface_drops = interfaces
        if not marked["loss_free"]:
            kinds = ("kernel_drops", "worker_restarts", "dropped_rows", "interface_away")
            told = {name: marked.get(name, 0) for name in kinds}
            told |= {"ts_start": summary["ts_start"], "missing_workers": missing}
            logs.warning("an interval is not free of losses", **told)
        return marked

    def _missing_workers(self, summary: dict[str, Any]) -> list[int]:
        """The workers that captured in an interval and have no summary of it."""
        there = {worker["worker"] for worker in summary["workers"]}
        self._have_begun |= there
        return [number for number in range(len(self._receptions)) if number not in there and self._captures(number)]

    def _captures(self, number: int) -> bool:
        """Whether a worker captures: not before it has begun, nor after it was stopped. Workers do not begin or stop at
        the same moment, and an interval may end in between."""
        worker = self._board.workers[number]
        begins = number not in self._have_begun and worker["restarts_total"] == 0
        ends = worker["state"] == STOPPED and self._board.supervisor["wanted"] not in (WAIT, RUN)
        return not (begins or ends)

    def _was_away(self, summary: dict[str, Any]) -> bool:
        """Whether an interface was away at some time of an interval, as the supervisor saw."""
        supervisor = self._board.supervisor
        from_ns, until_ns = int(supervisor["away_from_ns"]), int(supervisor["away_until_ns"]) or _NEVER
        return bool(from_ns and summary["ts_end"] * 1e9 > from_ns and summary["ts_start"] * 1e9 <= until_ns)

    def _of_names(self) -> dict[str, dict[str, int]]:
        """What the names process counted since the last summary, when there is such a process."""
        before, self._names_counted = self._names_counted, counted(self._board.names)
        if not self._board.names["pid"]:
            return {}
        return {"names": {name: count - before[name] for name, count in self._names_counted.items()}}

    def _dropped_rows_total(self) -> int:
        workers = self._board.workers
        return int(workers["dropped_rows_total"].sum() + workers["refused_rows_total"].sum())

    def _restarts_total(self) -> int:
        return int(self._board.workers["restarts_total"].sum())

    def _read_interface_drops(self) -> Mapping[str, Mapping[str, int]]:
        names = self._post.config.capture.interfaces if self._post.lag_ns else ()
        return {name: interface_drops(name) for name in names}

    def _tell(self, interval: Interval) -> None:
        record = self._board.aggregator
        latency_s = max(int(self._board.supervisor["wall_ns"]) - interval.end_ns - self._post.config.grace_ns, 0) / 1e9
        record["latency"][bisect_left(LATENCY_BUCKETS_S, latency_s)] += 1
        record["latency_sum_s"] += latency_s
        record["intervals_total"] += len(interval.summaries)
        record["incomplete_total"] += sum(not summary["loss_free"] for summary in interval.summaries)
        record["records_total"] += interval.records
        self._tell_services(interval.end_ns, interval.batches)
        self._tell_sinks()

    def _tell_services(self, end_ns: int, batches: Sequence[Batch]) -> None:
        services = self._board.services
        numbers = {service.name: number for number, service in enumerate(self._post.config.services)}
        now_s, total = time.monotonic(), self._board.workers["service_bytes"].sum(axis=0)
        services["bits_per_s"] = (total - self._service_bytes) * 8 / max(now_s - self._told_s, 1e-3)
        self._service_bytes, self._told_s = total, now_s
        for number, service in enumerate(self._post.config.services):
            if end_ns % service.interval_ns == 0:
                services["flows_active"][number] = 0
        for batch in batches:
            number = numbers[batch.service]
            services["flows_active"][number] = len(batch.flow["flow_id"])
            services["records_total"][number] += len(batch.flow["flow_id"])
            known = self._names[number]
            if len(known) < _MAX_NAMES:
                known.update(pl.Series(batch.flow["domain"]).unique().drop_nulls().to_list())
            services["names"][number] = len(known)

    def _tell_sinks(self) -> None:
        records = zip(self._board.aggregator["sinks"], *self._sink_totals, strict=True)
        for sink, (record, records_before, dropped_before) in zip(self._sinks, records, strict=True):
            record["records_total"] = records_before + sink.records_total
            record["dropped_total"] = dropped_before + sink.dropped_total
            record["waiting_bytes"], record["failing"] = sink.waiting_bytes, sink.failing

    def _tick(self) -> None:
        now_s = time.monotonic()
        if now_s - self._ticked_s < _TICK_S:
            return
        self._ticked_s = now_s
        beat(self._board.aggregator)
        self._note_restarts()
        rotations = int(self._board.supervisor["rotations_total"])
        if rotations != self._rotations:
            self._rotations = rotations
            logs.info("files are rotated")
            for sink in self._sinks:
                sink.attempt(sink.rotate)
        for sink in self._sinks:
            sink.attempt(partial(sink.tick, int(self._board.supervisor["wall_ns"])))
        self._tell_sinks()
