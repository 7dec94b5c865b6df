"""The DNS process: learns names from a filtered socket of its own, for all workers, and keeps them over restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from trafficrefinery.capture.sources import Source
from trafficrefinery.config import Config
from trafficrefinery.daemon import logs
from trafficrefinery.daemon.channels.name_log import Learned, LogReader, LogWriter, NameLog, load
from trafficrefinery.daemon.process import beat, begin, ready
from trafficrefinery.daemon.status import DNS_COUNTED, RUN, STOP_AT, STOPPED, WAIT, Board
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.system.resident import give_back

DNS_UNITS_PER_SECOND = 10_000
"""Of 10 µs: what compiled code does not do takes a tenth of a CPU at most."""
_MAX_FLOWS = 1 << 16
_POLL_S = 0.05
_TELL_S = 0.2
_SAVE_S = 60.0


class NamesPost(NamedTuple):
    """What the DNS process is given; `file` is where names are kept."""

    config: Config
    board: Board
    log: NameLog
    open_source: Callable[[], Source]
    file: Path
    cpus: tuple[int, ...] = ()


class _Nobody:
    """A `Receiver`: this worker's flows are those to DNS servers, which no record is made of here."""

    def rows(self, *_: Any) -> None:
        """Receiver."""

    def summary(self, *_: Any) -> None:
        """Receiver."""

    def done_until(self, *_: Any) -> None:
        """Receiver."""

    def restart(self, *_: Any) -> None:
        """Receiver."""


def learn_names(post: NamesPost) -> None:
    """Body of the process."""
    record, supervisor = post.board.names, post.board.supervisor
    begin("names", record, post.cpus)
    small = post.config.flow_cache.model_copy(update={"max_flows": min(_MAX_FLOWS, post.config.flow_cache.max_flows)})
    settings = Settings(
        dns_units_per_second=DNS_UNITS_PER_SECOND,
        names_per_second=1,  # of hellos from or to port 53, which name nothing here
        quic_attempts_per_second=1,
        judges_time=False,
    )
    worker = Worker(Plan.of(post.config.model_copy(update={"flow_cache": small})), _Nobody(), settings)
    worker.wall_ns = time.time_ns
    worker.warm_up()
    ready(record)
    while supervisor["wanted"] == WAIT:  # the last configuration's process still reads, and then saves
        beat(record)
        time.sleep(_POLL_S)
    writer = LogWriter(post.log)
    _go_on(worker, writer, post, int(supervisor["wall_ns"]))
    worker.services.tell(lambda answer: writer.append(Learned(*answer)))
    source = post.open_source()
    if not record["counts"]:
        source.counts()  # what was lost before it was ready; what came is read, as names last
        record["counts"] = 1
    give_back()  # what learning them has loaded
    before = {name: int(record[f"{name}_total"]) for name in DNS_COUNTED}  # of a killed predecessor
    beside = record["counted_beside"].copy()
    told_s, saved_s = 0.0, time.monotonic()
    while supervisor["wanted"] == RUN or (
        supervisor["wanted"] == STOP_AT and supervisor["wall_ns"] < supervisor["stop_at_ns"]
    ):
        block = source.poll(_POLL_S)
        if block is not None:
            worker.process(block)
        else:
            worker.close_a_slice()
        now_s = time.monotonic()
        if now_s - told_s > _TELL_S:
            told_s = now_s
            _tell(record, worker, source, before, beside)
            record["forgotten_total"] = writer.forgotten_total
        if now_s - saved_s > _SAVE_S:
            saved_s = now_s
            _save(writer, post.file)
    _tell(record, worker, source, before, beside)
    _save(writer, post.file)
    source.close()
    record["state"] = STOPPED


def _go_on(worker: Worker, writer: LogWriter, post: NamesPost, now_ns: int) -> None:
    """Know what a killed predecessor had told, or else what was kept over the restart of the daemon."""
    known = LogReader(post.log).new()
    worker.learn(known)
    if not known:
        try:
            kept = load(post.file, now_ns)
        except OSError as error:
            logs.warning(f"cannot read the saved names: {error}")
            return
        for entry in kept:
            writer.append(entry)
        worker.learn(kept)
        if kept:
            logs.info("restored the saved names", addresses=len(kept), file=post.file)


def _tell(record: Any, worker: Worker, source: Source, before: dict[str, int], beside: Any) -> None:
    counts = source.counts()
    counters = worker.counters
    record["packets_total"] += counts.get("received", 0)
    record["drops_total"] += counts.get("kernel_drops", 0)
    for name in DNS_COUNTED:
        record[f"{name}_total"] = before[name] + counters[f"dns_{name}"]
    record["counted_beside"] = beside + worker.counted_beside
    record["entries"] = len(worker.services.addresses)
    beat(record)


def _save(writer: LogWriter, file: Path) -> None:
    try:
        writer.save(file)
    except OSError as error:
        logs.warning(f"the names cannot be kept: {error}")
