"""No counter is silent: each is a metric, stands in the summaries of intervals, and is seen in `top`."""

from __future__ import annotations

import ast
import re
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from support import boards
from support.replays import replay_frames, usual_plan
from support.sources import PACKAGE, ROOT, package_files
from support.traces import seeded_trace
from trafficrefinery.capture.frames import Losses
from trafficrefinery.capture.live import LiveSource
from trafficrefinery.cli.ui.scrape import Scrape
from trafficrefinery.cli.ui.topview import View, is_noticed
from trafficrefinery.daemon.metrics import METRICS, registry_of
from trafficrefinery.engine.counters import BESIDE, COUNTED_BESIDE, COUNTERS
from trafficrefinery.engine.partition import COUNTER_HELP
from trafficrefinery.engine.partition import COUNTERS as OF_PACKETS
from trafficrefinery.packets.parser import REASONS

PLAN = boards.plan()
SHOWN_ELSEWHERE = {
    # Attributes that count, and the metric that is read from each.
    "capture/duplicates.py: duplicates_total": "duplicate_frames_total",
    "capture/libpcap.py: oversized_total": "oversized_frames_total",
    "daemon/channels/name_log.py: forgotten_total": "dns_forgotten_addresses_total",
    "records/sinks/jetstream.py: records_total": "sink_records_total",
    "records/sinks/base.py: records_total": "sink_records_total",
    "records/sinks/standard_output.py: records_total": "sink_records_total",
}


def exposed(board):
    text = generate_latest(registry_of(lambda: boards.Running(board, PLAN))).decode()
    return {
        (sample.name.removeprefix("trafficrefinery_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def parsed(path):
    return ast.walk(ast.parse(path.read_text()))


def test_every_class_of_counters_is_known():
    found = {
        node.name
        for path in package_files()
        for node in parsed(path)
        if isinstance(node, ast.ClassDef) and re.fullmatch(r"(?!Of)\w+Counters", node.name)
    }
    assert found == {cls.__name__ for cls in BESIDE}, "add it to counting.BESIDE"


def test_every_attribute_that_counts_is_shown():
    found = {
        f"{path.relative_to(ROOT / PACKAGE)}: {node.target.attr}"
        for path in package_files()
        if "costs" not in path.parts  # whose sums are its output
        for node in parsed(path)
        if isinstance(node, ast.AugAssign)
        and isinstance(node.target, ast.Attribute)
        and node.target.attr.endswith("_total")
        and isinstance(node.target.value, ast.Name)
        and node.target.value.id == "self"  # `self.x_total`, not `self.counters.x_total`
    }
    assert found - SHOWN_ELSEWHERE.keys() == set(), "make it a field of a dataclass of counters, or say which metric"
    assert set(SHOWN_ELSEWHERE.values()) <= {metric.name for metric in METRICS}


def test_every_counter_of_the_board_is_exposed():
    """Whatever is called a total, in any process's record: a value that nothing else has is found again."""
    board = boards.filled(PLAN)
    records = (board.supervisor, board.names, board.aggregator, board.inference, *board.workers, *board.services,
               *board.aggregator["sinks"])  # fmt: skip
    expected = {}
    for number, record in enumerate(records):
        for name in record.dtype.names:
            if name.endswith("_total") and record.dtype[name].shape == ():
                record[name] = 10_000_000 + len(expected)
                expected[int(record[name])] = f"{name} of record {number}"
            elif name in ("counters", "counted_beside"):
                values = 20_000_000 + 1000 * number + 100 * (name == "counters") + np.arange(len(record[name]))
                record[name] = values
                expected |= {int(value): f"{name}[{index}] of record {number}" for index, value in enumerate(values)}
    silent = {int(board.supervisor["rotations_total"])}  # by which the supervisor asks the aggregator
    missing = expected.keys() - set(exposed(board).values()) - silent
    assert [expected[value] for value in sorted(missing)] == []


def test_every_count_of_a_source_is_in_the_board():
    reader = SimpleNamespace(losses=lambda: Losses(1, 2, 3), oversized_total=4)
    for name in LiveSource(reader, "count", ()).counts():
        assert f"{name}_total" in boards.filled(PLAN).workers.dtype.names


@pytest.mark.parametrize("name", COUNTERS)
def test_every_counter_is_seen_in_top_when_it_is_not_zero(name):
    board = boards.filled(PLAN)
    for record in (*board.workers, board.names):
        for field in ("counters", "counted_beside"):
            if field in record.dtype.names:
                record[field] = 0

    def picture(after):
        views = []
        for value in (0, after):
            if name in OF_PACKETS:
                board.workers[0]["counters"][OF_PACKETS.index(name)] = value
            else:
                board.workers[0]["counted_beside"][[one.name for one in COUNTED_BESIDE].index(name)] = value
            values = {}
            for (metric, labels), found in exposed(board).items():
                values.setdefault(metric, {})[frozenset(labels)] = found
            views.append(Scrape(values, [], [], len(views)))
        console = Console(width=200)
        with console.capture() as captured:
            console.print(View(views[1], views[0]).picture("u"))
        return captured.get()

    unchanged = {"attributed", "waiting_for_service", "flows_new", "quic_attempts", "hello_segments", "ech_offered", "dns_messages", "dns_addresses",
                 "dns_matched"}  # fmt: skip  # which are no losses and no oddities
    assert (picture(7) != picture(0)) == (name not in unchanged)


def test_what_is_new_is_seen_in_top():
    assert is_noticed("something_that_nobody_thought_of_total")
    assert not is_noticed("something_that_nobody_thought_of")


def test_the_summaries_of_intervals_have_every_counter():
    run = replay_frames(usual_plan(), seeded_trace(1), partitions=2)
    assert run.intervals
    for interval in run.intervals:
        assert set(COUNTERS) <= interval.keys()
        for worker in interval["workers"]:
            assert set(COUNTERS) <= worker.keys()


@pytest.mark.parametrize("seed", range(3))
def test_what_names_were_counted_does_not_depend_on_the_number_of_workers(seed):
    """Each worker of a replay reads all DNS packets."""
    one, several = (replay_frames(usual_plan(), seeded_trace(seed), partitions=count) for count in (1, 3))
    for counter in COUNTED_BESIDE:
        assert one.counters[counter.name] == several.counters[counter.name], counter.name
        sums = [sum(interval[counter.name] for interval in run.intervals) for run in (one, several)]
        assert sums[0] == sums[1] == one.counters[counter.name], counter.name
    assert one.counters["dns_messages"] > 0


def test_every_counter_says_what_it_counts():
    for name, help_ in [*COUNTER_HELP.items(), *((one.name, one.help) for one in COUNTED_BESIDE)]:
        assert re.fullmatch(r"[A-Z].*[^.]\.", help_), name
        assert len(help_.split()) >= 3, f"{name}: {help_}"
    assert len(set(COUNTERS)) == len(COUNTERS) == len(REASONS) + len(COUNTER_HELP) + len(COUNTED_BESIDE)


def test_the_help_of_every_metric_is_a_sentence():
    for metric in METRICS:
        assert re.fullmatch(r"[A-Z0-9/].*[^.]\.", metric.help, re.DOTALL), metric.name
        assert " reading." not in metric.help, metric.name
