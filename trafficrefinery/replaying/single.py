"""Replay: recorded traces to records, as fast as possible, with one worker or several."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trafficrefinery.capture.sources import TraceSource, open_traces
from trafficrefinery.capture.traces.discovery import each_once
from trafficrefinery.capture.traces.reader import STANDARD_INPUT, TraceReader
from trafficrefinery.config import Config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.errors import UsageError
from trafficrefinery.jit import compiling
from trafficrefinery.records import summary
from trafficrefinery.records.aggregate import Aggregator, Batch
from trafficrefinery.records.sinks.base import File, Interval, Place
from trafficrefinery.records.sinks.files import parquet_schema
from trafficrefinery.records.sinks.opening import ReplaySinks
from trafficrefinery.records.summary import Finding, Reading, Summary
from trafficrefinery.system.progress import Progress, silent
from trafficrefinery.system.writing import make_directory

from .job import REPLAYING, Job, Result, Stopwatch, compiler_reported, walk
from .workers import replay_in_processes
from .write_pcap import write_traces

if TYPE_CHECKING:
    from trafficrefinery.models.sessions.session_files import Follower


class ReplayOptions(NamedTuple):
    """How to replay to a directory, see `trafficrefinery replay --help`."""

    workers: int = 1
    form: str = "jsonl"
    align: str = "epoch"
    speed: float | None = None
    write_pcap: Path | None = None
    models: tuple[Path, ...] = ()
    sessions: bool = False
    sinks: tuple[str, ...] = ()


FORMS = {"jsonl": "JSONLines", "parquet": "Parquet"}
"""Form of a replay's files: the sink that writes them."""


def replay_to_directory(
    config: Config, paths: Sequence[str | Path], directory: Path, options: ReplayOptions = ReplayOptions(),  # noqa: B008 (immutable)
    progress: Progress = silent,
) -> Result:  # fmt: skip
    """Replay traces into `directory`: `records.jsonl` or `.parquet`, `intervals.jsonl` and `summary.json`.

    With models, of the options or else of the configuration, `inferences` beside them; where wanted, `sessions`.

    A damaged trace's records are complete up to the damage, which is in the result. After any exception the records so
    far stay under a partial name, which a note of the exception tells.

    Raises:
        UsageError, ConfigError, FeatureError, BundleError: before anything is written.
        TraceError: a trace cannot be read at all.
        OutputError: the directory cannot be written to.
        TrafficRefineryError: a worker failed or was killed.
    """
    before_s, started = compiling.seconds, time.perf_counter()
    plan = Plan.of(config)
    names, left_out = each_once([*map(str, paths)])
    job = Job(
        plan, tuple(names),
        Settings(first_packet_origin=options.align == "first-packet", keeps_trail=options.write_pcap is not None),
        options.speed, progress,
    )  # fmt: skip
    _refuse_pipes(job.paths, options)
    follower = check(plan, options)
    result = Result(Aggregator(plan, options.workers))
    with (
        compiler_reported(progress),
        open_traces(config, job.paths) as reader,
    ):  # what is no trace is found before the compiler starts
        make_directory(directory)
        if options.write_pcap is not None:
            make_directory(options.write_pcap)
        if options.workers == 1:
            batches = replay_here(job, reader, result)
        else:
            batches = replay_in_processes(job, options.workers, reader, result)
        _write(batches, directory, options, result, follower)
        if options.write_pcap is not None:
            try:
                result.extracted = write_traces(config, result.trail, reader, options.write_pcap, progress)
            except BaseException as error:
                error.add_note(f"the records are complete, in {directory}")
                raise
        result.reading = result.reading._replace(left_out=left_out)
        result.summary = summary_of(config, result, options)
        summary.write(result.summary.content, directory)
    result.compile_s = compiling.seconds - before_s
    result.total_s = time.perf_counter() - started - result.compile_s
    return result


def summary_of(config: Config, result: Result, options: ReplayOptions = ReplayOptions()) -> Summary:  # noqa: B008 (immutable)
    """What there is to know at the end of a replay."""
    infinite = result.aggregator.infinite_values
    config = config.model_copy(update={"sinks": config.sinks.without(options.sinks)})  # of which each key has an effect
    more = [
        Finding("infinite_values", summary.NOTE, infinite, 0, "{} infinite [value|values] of features became null")
    ] if infinite else []  # fmt: skip
    return summary.make(
        "replay", config, result.reading, damage=result.damage, counted=result.counters,
        services=result.aggregator.totals, models=options.models or config.inference.models, more=more,
        extra={"records": result.aggregator.records, "sessions": result.sessions, "extracted": result.extracted},
    )  # fmt: skip


def check(plan: Plan, options: ReplayOptions) -> Follower | None:
    """See that options fit a configuration; what follows the records, if anything does.

    Raises:
        UsageError, BundleError: they do not.
    """
    config = plan.config
    if options.write_pcap is not None and config.privacy.key_file is not None:
        raise UsageError(
            f"--write-pcap: packets hold addresses as they are, and Privacy.KeyFile in {config.file} is to hide them; "
            "leave out one of the two"
        )
    for key in options.sinks:
        try:
            config.sinks.section(key)
        except ValueError as error:
            raise UsageError(f"--sink {key}: {error}") from error
    models = options.models or config.inference.models
    if not models and not options.sessions:
        return None
    from trafficrefinery.models.sessions.session_files import Follower  # which takes long to import

    return Follower(plan, models, options.sessions)


def _refuse_pipes(paths: Sequence[str], options: ReplayOptions) -> None:
    for path in paths:
        if path == STANDARD_INPUT or Path(path).is_fifo():
            advice = f"a pipe can be read only once; give a file in place of {path}"
            if options.workers > 1:
                raise UsageError(f"--workers: each worker reads the whole trace, and {advice}")
            if options.write_pcap is not None:
                raise UsageError(f"--write-pcap: the trace is read twice, and {advice}")


def _write(
    batches: Generator[Batch, None, None],
    directory: Path,
    options: ReplayOptions,
    result: Result,
    follower: Follower | None,
) -> None:
    plan = result.aggregator.plan
    files = {"records": File("records", partial(parquet_schema, plan)), "intervals": File("intervals", None)}
    if follower is not None:
        files |= follower.files
    place = Place(plan, directory, directory / "waiting", files)
    try:
        sinks = ReplaySinks(plan.config, place, FORMS[options.form], options.sinks)
    except BaseException:
        batches.close()
        raise
    try:
        for interval in _intervals(batches, result.aggregator, follower):
            sinks.write(interval)
        summary.remove(directory)  # from here on, the records are not those that it is of
        sinks.close()
        if follower is not None:
            result.sessions, result.timelines = follower.started, follower.timelines
            result.counters |= follower.counters
            result.more_files = [directory / f"{kind}.{options.form}" for kind in follower.files]
    except BaseException as error:
        with _no_more_interrupts():
            with contextlib.suppress(Exception):  # the first one counts
                batches.close()
            left = sinks.abandon()
            if left is not None:
                error.add_note(f"the records so far are in {left}")
        raise


def _intervals(batches: Iterable[Batch], aggregator: Aggregator, follower: Follower | None) -> Iterator[Interval]:
    """What is complete, some at a time: the records of an interval may take more memory than there is."""
    for batch in batches:
        yield Interval(round(float(batch.flow["ts_end"][0]) * 1e9), [batch], list(aggregator.ready_summaries()))
        if follower is not None:
            yield from follower.add(batch)
    yield Interval(0, [], list(aggregator.ready_summaries()))
    if follower is not None:
        yield from follower.finish()


@contextlib.contextmanager
def _no_more_interrupts() -> Iterator[None]:
    """While something is given up in order: Ctrl-C may come twice, as polars tells of one beside Python."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: signal.signal(sign, lambda *_: None) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def replay_here(job: Job, reader: TraceReader, result: Result) -> Generator[Batch, None, None]:
    """Records of a replay in this process, as their intervals end. Fills `result`."""
    aggregator = result.aggregator
    worker = Worker(job.plan, aggregator, job.settings)
    worker.warm_up()
    watch = Stopwatch()
    for _ in walk(worker, TraceSource(reader, job.speed), watch):
        job.progress(REPLAYING, reader.position_bytes, reader.total_bytes, worker.counters["packets"])
        yield from aggregator.ready()
    result.counters, result.path_s, result.trail = worker.counters, watch.seconds, worker.trail
    result.damage, result.class_errors = list(reader.damage), worker.class_errors
    result.reading = Reading.of(reader, worker.times)
