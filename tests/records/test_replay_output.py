"""What a replay writes: order, schema, sums, and that it is the same each time."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support import replay_runs as runs
from support import replays, traces
from trafficrefinery.config import load_config
from trafficrefinery.config.sinks import Sinks, sink_class
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import OutputError
from trafficrefinery.records.sinks.base import File, Interval, Place
from trafficrefinery.records.sinks.files import encode_json_lines, parquet_schema
from trafficrefinery.records.sinks.json_lines import JsonLinesSink
from trafficrefinery.records.sinks.opening import close_sinks, open_sinks
from trafficrefinery.replaying.job import Result
from trafficrefinery.replaying.single import ReplayOptions, replay_to_directory

LENGTH_S = 10  # of the intervals of the whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def config(folder):
    return load_config(runs.configuration(folder, rest=replays.ALL_TRAFFIC))


@pytest.fixture(scope="module")
def trace(folder) -> Path:
    return traces.write_trace(folder / "trace.pcap", runs.frames(2, 120))


@pytest.fixture(scope="module")
def results(folder, config, trace) -> dict[tuple[str, int], tuple[Path, Result]]:
    """Format and workers → what was written, and the result."""
    made = {}
    for form in ("jsonl", "parquet"):
        for workers in (1, 2, 3):
            out = folder / f"{form}{workers}"
            made[form, workers] = (
                out,
                replay_to_directory(config, [trace], out, ReplayOptions(workers=workers, form=form)),
            )
    return made


@pytest.fixture(scope="module")
def records(results):
    return runs.lines(results["jsonl", 1][0] / "records.jsonl")


# Records


def test_records_are_in_the_order_of_end_service_and_flow(records):
    keys = [(record["ts_end"], record["service"], record["flow_id"]) for record in records]
    assert keys == sorted(set(keys))
    assert len({key[1] for key in keys}) == 4
    assert {record["ts_end"] - record["ts_start"] for record in records} == {5.0, 10.0}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_file_does_not_depend_on_the_number_of_workers(results, form):
    files = {(results[form, workers][0] / f"records.{form}").read_bytes() for workers in (1, 2, 3)}
    assert len(files) == 1


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_second_run_gives_the_same_file(results, config, trace, tmp_path, form):
    replay_to_directory(config, [trace], tmp_path, ReplayOptions(form=form))
    assert (tmp_path / f"records.{form}").read_bytes() == (results[form, 1][0] / f"records.{form}").read_bytes()


def test_the_counts_of_a_result_do_not_depend_on_the_number_of_workers(results):
    (_, one), (_, two), (_, three) = (results["jsonl", workers] for workers in (1, 2, 3))
    assert one.counters == two.counters == three.counters
    totals = [{name: vars(total) for name, total in result.aggregator.totals.items()} for result in (one, two, three)]
    assert totals[0] == totals[1] == totals[2]


def test_packets_of_services_add_up_to_the_attributed_ones(results):
    for _, result in results.values():
        assert sum(total.packets for total in result.aggregator.totals.values()) == result.counters["attributed"] > 0


def test_a_run_replaces_the_file_of_the_one_before_when_it_is_complete(config, trace, tmp_path, results, monkeypatch):
    file = tmp_path / "records.jsonl"
    file.write_text("old\n")
    seen = set()

    def look(doing: str, *_: object) -> None:
        seen.add((doing, file.read_text()))

    replay_to_directory(config, [trace], tmp_path, progress=look)
    assert seen == {("replaying", "old\n")}
    assert file.read_bytes() == (results["jsonl", 1][0] / "records.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["intervals.jsonl", "records.jsonl", "summary.json"]


def test_a_run_that_fails_leaves_the_file_of_the_one_before(config, trace, tmp_path, monkeypatch):
    file = tmp_path / "records.jsonl"
    file.write_text("old\n")
    monkeypatch.setattr("trafficrefinery.records.sinks.base.orjson.dumps", _no_room)
    with pytest.raises(OutputError):
        replay_to_directory(config, [trace], tmp_path)
    assert file.read_text() == "old\n"


def _no_room(*_: object, **__: object) -> bytes:
    raise OutputError("no room")


# Parquet


def test_parquet_has_the_declared_columns_for_all_services_together(results, config):
    schema = pq.read_schema(results["parquet", 1][0] / "records.parquet")
    assert schema.equals(parquet_schema(Plan.of(config)))
    types = dict(zip(schema.names, schema.types, strict=True))
    assert types["ts_start"] == pa.float64()
    assert types["server_port"] == types["PacketCounters.packets_up"] == pa.int64()
    assert types["domain"] == pa.string()
    assert types["PacketLog.first"] == pa.list_(pa.int64())


def test_parquet_and_json_lines_say_the_same(results, records):
    rows = pq.read_table(results["parquet", 1][0] / "records.parquet").to_pylist()
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        features = record.pop("features")
        flat = {f"{name}.{key}": value for name, fields in features.items() for key, value in fields.items()}
        left_out = dict.fromkeys(row.keys() - record.keys() - flat.keys())  # null: the service does not collect them
        assert row == {**record, **flat, **left_out}
        record["features"] = features
    assert {len(record["features"]) for record in records} == {1, 2}


def test_parquet_is_read_by_polars_with_its_lists(results, records):
    frame = pl.read_parquet(results["parquet", 1][0] / "records.parquet")
    assert frame["PacketLog.first"].dtype == pl.List(pl.Int64)
    with_lists = frame.filter(pl.col("PacketLog.first").is_not_null())
    assert len(with_lists) == sum("PacketLog" in record["features"] for record in records)


def batches_of(config, trace):
    """All batches of a replay, and its plan."""
    from trafficrefinery.capture.traces.reader import TraceReader
    from trafficrefinery.engine.worker import Settings
    from trafficrefinery.records.aggregate import Aggregator
    from trafficrefinery.replaying.job import Job
    from trafficrefinery.replaying.single import replay_here

    plan = Plan.of(config)
    with TraceReader([trace]) as reader:
        return list(replay_here(Job(plan, (), Settings()), reader, Result(Aggregator(plan, 1)))), plan


def test_the_daemon_writes_the_records_of_the_replay(config, trace, results, tmp_path):
    batches, plan = batches_of(config, trace)
    files = Sinks.model_validate({"Parquet": {"Enabled": True}})
    sinks = open_sinks(config.model_copy(update={"sinks": files}), Place(plan, tmp_path, tmp_path))
    for batch in batches:
        for sink in sinks:
            sink.write(Interval(0, [batch], []))
    close_sinks(sinks)
    (lines,), (table,) = tmp_path.glob("records-*.jsonl"), tmp_path.glob("records-*.parquet")
    assert lines.read_bytes() == (results["jsonl", 1][0] / "records.jsonl").read_bytes()
    assert pq.read_table(table).equals(pq.read_table(results["parquet", 1][0] / "records.parquet"))


def sink_of(key, plan, folder):
    """The sink of a replay into files."""
    return sink_class(key)(
        sink_class(key).Settings(),
        Place(plan, folder, folder, {"records": File("records", partial(parquet_schema, plan))}),
    )


def test_an_abandoned_parquet_file_can_be_read(config, trace, tmp_path):
    batches, plan = batches_of(config, trace)
    sink = sink_of("Parquet", plan, tmp_path)
    sink.write(Interval(0, [batches[0]], []))
    left = sink.abandon()
    assert left == tmp_path / "records.parquet.partial"
    assert pq.read_table(left).num_rows == len(batches[0].flow["flow_id"])
    assert list(tmp_path.iterdir()) == [left]


@pytest.mark.parametrize("key", ["JSONLines", "Parquet"])
def test_an_abandoned_file_without_a_record_is_removed(config, trace, tmp_path, key):
    assert sink_of(key, Plan.of(config), tmp_path).abandon() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["JSONLines", "Parquet"])
def test_a_replay_without_records_has_files_all_the_same(config, tmp_path, key):
    plan = Plan.of(config)
    sink_of(key, plan, tmp_path).close()
    (made,) = tmp_path.iterdir()
    assert made.stat().st_size == 0 if key == "JSONLines" else pq.read_table(made).schema.equals(parquet_schema(plan))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_an_interrupt_of_a_write_leaves_the_intervals_before(config, trace, tmp_path, monkeypatch, share):
    batches, plan = batches_of(config, trace)
    sink = sink_of("JSONLines", plan, tmp_path)
    sink.write(Interval(0, [batches[0]], []))
    write = os.pwrite

    def torn(descriptor: int, data: memoryview, at: int) -> int:
        write(descriptor, data[: int(share * len(data))], at)
        raise KeyboardInterrupt

    monkeypatch.setattr("trafficrefinery.records.storage.appending.os.pwrite", torn)
    with pytest.raises(KeyboardInterrupt):
        sink.write(Interval(0, [batches[1]], []))
    monkeypatch.undo()
    left = sink.abandon()
    assert left is not None
    assert left.read_bytes() == encode_json_lines(batches[0])


# Intervals


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_counts_of_all_intervals_add_up_to_the_totals(results, workers):
    out, result = results["jsonl", workers]
    intervals = runs.lines(out / "intervals.jsonl")
    sums = Counter()
    for interval in intervals:
        assert [part["worker"] for part in interval["workers"]] == list(range(workers))
        for name, count in interval.items():
            if name in result.counters:
                assert count == sum(part[name] for part in interval["workers"])
                sums[name] += count
    assert {name: sums[name] for name in result.counters} == result.counters


def test_an_interval_counts_the_packets_that_came_before_the_first_of_the_next(results):
    expected: dict[int, int] = {}
    start = -1
    for frame in runs.frames(2, 120):
        start = max(start, frame.ts_ns // (LENGTH_S * traces.SECOND) * LENGTH_S)
        expected[start] = expected.get(start, 0) + 1
    for workers in (1, 2, 3):
        intervals = runs.lines(results["jsonl", workers][0] / "intervals.jsonl")
        assert [(i["ts_start"], i["packets"]) for i in intervals] == [(float(s), n) for s, n in expected.items()]
        assert all(i["ts_end"] - i["ts_start"] == LENGTH_S for i in intervals)
        assert {(i["schema"], i["kind"], i["sensor"]) for i in intervals} == {(2, "interval", "test")}


def test_an_interval_without_packets_has_no_summary(config, tmp_path):
    frames = runs.frames(3, 10)
    later = [frame._replace(ts_ns=frame.ts_ns + 3600 * traces.SECOND) for frame in frames]
    path = traces.write_trace(tmp_path / "gap.pcap", [*frames, *later])
    replay_to_directory(config, [path], tmp_path / "out")
    starts = [interval["ts_start"] for interval in runs.lines(tmp_path / "out" / "intervals.jsonl")]
    assert starts == sorted(set(starts))
    assert len(starts) <= 2 * runs.SPAN_S / LENGTH_S + 2
    assert max(starts) - min(starts) >= 3600


def test_records_are_numbers_strings_and_null_only(results, records):
    kinds = Counter(type(value) for record in records for value in json.loads(json.dumps(record)).values())
    assert set(kinds) <= {int, float, str, dict, type(None)}


def test_a_second_interrupt_does_not_undo_what_the_first_one_leaves(config, trace, tmp_path, monkeypatch):
    abandon, write = JsonLinesSink.abandon, JsonLinesSink.write

    def interrupted(sink: JsonLinesSink) -> Path | None:
        signal.raise_signal(signal.SIGINT)
        return abandon(sink)

    def torn(sink: JsonLinesSink, interval: Interval) -> None:
        if sink.records_total:
            raise KeyboardInterrupt
        write(sink, interval)

    monkeypatch.setattr(JsonLinesSink, "abandon", interrupted)
    monkeypatch.setattr(JsonLinesSink, "write", torn)
    with pytest.raises(KeyboardInterrupt) as ended:
        replay_to_directory(config, [trace], tmp_path / "out")
    assert ended.value.__notes__ == [f"the records so far are in {tmp_path / 'out' / 'records.jsonl.partial'}"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
