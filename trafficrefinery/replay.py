"""Replay: recorded traces to records, as fast as possible, with one worker or several."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from trafficrefinery.aggregate import Aggregator, Batch
from trafficrefinery.api import FeatureClass
from trafficrefinery.capture.file import TraceReader
from trafficrefinery.config import Config, load_config, parse_config
from trafficrefinery.errors import TraceError, TrafficRefineryError, UsageError
from trafficrefinery.sinks.files import JsonLines, make_directory, open_records, table_of
from trafficrefinery.worker import Plan, Settings, Worker

Progress = Callable[[int, int, "int | None"], None]
"""Called now and then with packets, bytes read, and bytes in all."""


@dataclass
class Result:
    """What a replay did.

    Args:
        counters: packets by reason and others, summed over workers.
        path_s: seconds that the packet path took (read, parse, look up, update, collect), of the slowest worker.
        total_s: seconds for everything, start-up of the compiler apart.
    """

    aggregator: Aggregator
    counters: dict[str, int] = field(default_factory=dict)
    path_s: float = 0.0
    total_s: float = 0.0
    damage: list[TraceError] = field(default_factory=list)


def replay_batches(
    plan: Plan, paths: Sequence[str | Path], settings: Settings, result: Result, progress: Progress | None = None,
    speed: float | None = None,
) -> Iterator[Batch]:
    """Records of a replay in this process, batch by batch, as their intervals end. Fills `result`."""
    aggregator = result.aggregator
    worker = Worker(plan, aggregator, settings)
    with TraceReader(paths) as reader:
        pace = _Pace(speed)
        clock = time.perf_counter
        before = clock()
        for block in reader:
            pace.wait_for(int(block.frames["ts_ns"][0]) if len(block.frames) else 0)
            worker.process(block)
            result.path_s += clock() - before
            yield from aggregator.ready()
            if progress is not None:
                progress(worker.counters["packets"], reader.position_bytes, reader.total_bytes)
            before = clock()
        worker.finish()
        result.path_s += clock() - before
        result.damage = list(reader.damage)
    result.counters = worker.counters
    yield from aggregator.ready()


class _Pace:
    """Holds a replay back to `speed` times real time; None: as fast as possible."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._first: tuple[int, float] | None = None

    def wait_for(self, ts_ns: int) -> None:
        if self._speed is None:
            return
        if self._first is None:
            self._first = ts_ns, time.monotonic()
        due = self._first[1] + (ts_ns - self._first[0]) / 1e9 / self._speed
        time.sleep(max(0.0, due - time.monotonic()))


def replay_to_directory(
    config: Config,
    paths: Sequence[str | Path],
    directory: Path,
    *,
    workers: int = 1,
    form: str = "jsonl",
    align: str = "epoch",
    speed: float | None = None,
    progress: Progress | None = None,
) -> Result:
    """Replay traces into `directory`: `records.jsonl` or `.parquet`, and `intervals.jsonl`.

    An interrupt or a damaged trace leaves complete lines; a damaged trace's records are complete up to the damage.

    Raises:
        UsageError, ConfigError, FeatureError: before anything is written.
        TraceError: a trace cannot be read at all.
        OutputError: the directory cannot be written to.
    """
    plan = Plan.of(config)
    TraceReader(paths).close()  # a wrong file name is found before the compiler starts
    make_directory(directory)
    settings = Settings(first_packet_origin=align == "first-packet")
    result = Result(Aggregator(plan, workers))
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        records = open_records(directory, form, plan)
        stack.callback(records.abandon)
        intervals = JsonLines(directory / "intervals.jsonl")
        stack.callback(intervals.abandon)
        if workers == 1:
            batches = replay_batches(plan, paths, settings, result, progress, speed)
        else:
            batches = _parallel_batches(plan, paths, settings, result, workers, progress, speed)
        for batch in batches:
            records.write(batch)
            intervals.write_objects(result.aggregator.ready_summaries())
        intervals.write_objects(result.aggregator.ready_summaries())
        stack.pop_all()
    records.close()
    intervals.close()
    result.total_s = time.perf_counter() - started
    return result


class _PipeReceiver:
    """Sends what a worker makes to the parent, in order. Waits when the parent is behind: replay drops nothing."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._names_sent = 0

    def rows(self, worker: int, profile: int, rows: Any, names: Sequence[str]) -> None:
        self._connection.send(("names", worker, list(names[self._names_sent :])))
        self._names_sent = len(names)
        self._connection.send(("rows", worker, profile, rows))

    def summary(self, worker: int, start_ns: int, summary: Any) -> None:
        self._connection.send(("summary", worker, start_ns, summary))

    def done_until(self, worker: int, until_ns: int) -> None:
        self._connection.send(("done_until", worker, until_ns))


def _work(
    connection: Any, config: Config, paths: Sequence[str], settings: Settings, speed: float | None
) -> None:
    """Body of a worker process."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        try:
            worker = Worker(Plan.of(config), _PipeReceiver(connection), settings)
            path_s, clock = 0.0, time.perf_counter
            with TraceReader(paths) as reader:
                pace = _Pace(speed)
                before = clock()
                for number, block in enumerate(reader):
                    pace.wait_for(int(block.frames["ts_ns"][0]) if len(block.frames) else 0)
                    worker.process(block)
                    if number % 256 == 0:
                        path_s += clock() - before
                        progress = (worker.counters["packets"], reader.position_bytes, reader.total_bytes)
                        connection.send(("progress", settings.partition, *progress))
                        before = clock()
                worker.finish()
                path_s += clock() - before
                connection.send(("end", settings.partition, worker.counters, path_s, list(map(_plain, reader.damage))))
        except TrafficRefineryError as error:
            connection.send(("error", settings.partition, error))
    connection.close()


def _plain(error: TraceError) -> tuple[str, int | None, str]:
    return error.file, error.position, error.message


def _parallel_batches(
    plan: Plan, paths: Sequence[str | Path], settings: Settings, result: Result, workers: int,
    progress: Progress | None, speed: float | None,
) -> Iterator[Batch]:
    """Records of a replay by several processes, each with its partition of the flows."""
    if "-" in map(str, paths):
        raise UsageError("--workers: standard input can be read by one worker only; give a file")
    context = multiprocessing.get_context("spawn")  # no threads or locks are inherited
    pipes, processes = [], []
    for number in range(workers):
        ours, theirs = context.Pipe(duplex=False)
        mine = settings._replace(partition=number, partitions=workers)
        process = context.Process(
            target=_work, args=(theirs, plan.config, [str(path) for path in paths], mine, speed), daemon=True
        )
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        yield from _receive(pipes, result, progress)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _receive(pipes: list[Any], result: Result, progress: Progress | None) -> Iterator[Batch]:
    aggregator = result.aggregator
    names: dict[int, list[str]] = {worker: [] for worker in range(len(pipes))}
    packets = [0] * len(pipes)
    open_pipes = dict(zip(pipes, range(len(pipes)), strict=True))
    ended: set[int] = set()
    while open_pipes:
        for pipe in multiprocessing.connection.wait(list(open_pipes)):
            try:
                kind, worker, *rest = pipe.recv()  # type: ignore[union-attr]  # all are Connections
            except EOFError:
                if open_pipes[pipe] not in ended:  # type: ignore[index]
                    raise TrafficRefineryError(f"worker {open_pipes[pipe]} ended unexpectedly") from None  # type: ignore[index]
                del open_pipes[pipe]  # type: ignore[arg-type]
                continue
            if kind == "names":
                names[worker] += rest[0]
            elif kind == "rows":
                aggregator.rows(worker, rest[0], rest[1], names[worker])
            elif kind == "summary":
                aggregator.summary(worker, *rest)
            elif kind == "done_until":
                aggregator.done_until(worker, rest[0])
                yield from aggregator.ready()
            elif kind == "progress":
                packets[worker] = rest[0]
                if progress is not None:
                    progress(sum(packets), rest[1], rest[2])
            elif kind == "end":
                ended.add(worker)
                counters, path_s, damage = rest
                result.counters = {key: result.counters.get(key, 0) + value for key, value in counters.items()}
                result.path_s = max(result.path_s, path_s)
                result.damage = [TraceError(*item) for item in damage]
            else:
                raise rest[0]


def replay(
    traces: str | Path | Sequence[str | Path],
    features: Sequence[str | type[FeatureClass] | Mapping[str, Any]] | None = None,
    *,
    interval: str = "10s",
    services: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    align: str = "epoch",
) -> Table:
    """Replay traces in a notebook.

    Args:
        traces: one or several trace files.
        features: names of feature classes, classes (also ones defined in the notebook), or `{name: parameters}`;
            replaces what the services collect.
        interval: length of an interval.
        services: service blocks as in a configuration, without `Collect`; or `{name: filter}`. Default: all traffic.
        config: a configuration file or mapping, in place of `services`.
        align: "epoch" or "first-packet", see `trafficrefinery replay --align`.

    Returns:
        A `Table` with one row per flow of a service and interval.

    Raises:
        ConfigError, FeatureError, TraceError: as the command line reports them.
    """
    paths = [traces] if isinstance(traces, str | Path) else list(traces)
    classes = [item for item in features or () if isinstance(item, type)]
    collect = [item.__name__ if isinstance(item, type) else item for item in features or ()]
    plan = Plan.of(_config_of(collect, interval, services, config), classes)
    result = Result(Aggregator(plan, 1))
    settings = Settings(first_packet_origin=align == "first-packet")
    batches = list(replay_batches(plan, paths, settings, result))
    for damage in result.damage:
        raise damage
    return Table(table_of(batches, plan), result.counters)


def _config_of(
    collect: list[Any], interval: str, services: Any, config: str | Path | Mapping[str, Any] | None
) -> Config:
    if config is not None and services is not None:
        raise UsageError("replay: give services or config, not both")
    if isinstance(config, str | Path):
        base = load_config(config).to_dict()
    elif config is not None:
        base = dict(config)
    else:
        if services is None:
            services = {"All": {"Prefixes": ["0.0.0.0/0", "::/0"]}}
        if isinstance(services, Mapping):
            services = [{"Name": name, "Filter": dict(rule)} for name, rule in services.items()]
        base = {"Interval": interval, "Services": [{"Collect": ["PacketCounters"], **block} for block in services]}
    if collect:
        base["Services"] = [{**block, "Collect": collect} for block in base["Services"]]
    return parse_config(base)


class Table:
    """Records as an Arrow table: features are columns named `Class.field`."""

    def __init__(self, arrow: pa.Table, counters: Mapping[str, int]) -> None:
        self.arrow = arrow
        self.counters = dict(counters)

    def __len__(self) -> int:
        return len(self.arrow)

    def __repr__(self) -> str:
        return f"{self.to_polars()!r}"

    def _repr_html_(self) -> str:
        return str(self.to_polars()._repr_html_())

    def to_arrow(self) -> pa.Table:
        return self.arrow

    def to_polars(self) -> Any:
        """As a polars DataFrame, without a copy."""
        import polars as pl

        return pl.from_arrow(self.arrow)

    def to_pandas(self) -> Any:
        """As a pandas DataFrame; pandas must be installed."""
        return self.arrow.to_pandas()
