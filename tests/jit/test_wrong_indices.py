"""Feature classes with an index outside its array, compiled as in production: they harm themselves, and are named.

All wrong classes of this file are collected by one service, between two that are right. What is written outside an
array would land in a neighbour, or in the fields around the array.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from support import replay_runs as runs
from support.feature_cases import write_case
from support.traces import seeded_trace, write_trace
from trafficrefinery.api import session_kernels, state_dtype
from trafficrefinery.cli import main as cli
from trafficrefinery.config import parse_config
from trafficrefinery.engine.feature_classes.registry import Registry
from trafficrefinery.errors import FeatureError
from trafficrefinery.jit import MODE
from trafficrefinery.replaying.single import ReplayOptions, replay_to_directory

production = pytest.mark.skipif(MODE != "on", reason="with TRAFFICREFINERY_JIT, the first wrong index is an exception")

_HEAD = """\
from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import (
    Array, FeatureClass, Packet, Struct, array, float64, isnan, nan, uint8, uint16, uint32, uint64, up_to,
)

WEIGHTS = (1, 2, 4)


class GuardedOutput(NamedTuple):
    n: int  # packets
    touched: int  # fields around the array that are no longer 0
    mean: float  # bytes
    listed: Annotated[list[int], up_to(4)]  # bytes


class Ring(Struct):
    values: Array[int] = array(uint16, 3)
    total: uint16


def put(values, index, value):
    values[index] = value

"""
_CLASS = """

class {name}(FeatureClass):
    Bins = 0

    n: uint64
    before: Array[int] = array(uint64, 8)
    values: Array[int] = array(uint32, 4)
    rings: Array[Ring] = array(Ring, 2)
    none: Array[int] = array(uint32, "Bins")
    x: float64
    after: Array[int] = array(uint64, 8)

    def add_packet(self, pkt: Packet) -> None:
        self.n += 1
        {add}

    def touched(self) -> int:
        found = 0
        for i in range(8):
            found = found + (self.before[i] != 0) + (self.after[i] != 0)
        return found + self.rings[0].total + self.rings[1].total

    def clear(self) -> None:
        self.n = 0
        {clear}

    def end_flow(self, how: int) -> None:
        {end}

    def collect_features(self, interval_s: float) -> GuardedOutput:
        at = {collect}
        return GuardedOutput(n=self.n, touched=self.touched(), mean=self.values[at] / 1, listed=self.values[:9])
"""
WRONG = {
    "Behind": "self.values[self.n + 3] = 7",
    "FarBehind": "self.values[(1 << 62) + self.n] = 7",
    "Before": "self.values[-4 - self.n] = 7",
    "FarBefore": "self.values[-(1 << 62) - self.n] = 7",
    "Read": "self.x = self.values[pkt.ip_bytes + 4]",
    "InNested": "self.rings[0].values[self.n + 2] = 7",
    "InNestedBefore": "self.rings[1].values[-3 - self.n] = 7",
    "Nested": "self.rings[self.n + 1].values[0] = 7",
    "NestedRead": "self.x = self.rings[-2 - self.n].total",
    "InHelper": "put(self.values, self.n + 3, 7)",
    "InSlice": "self.values[1:][self.n + 2] = 7",
    "SliceOfSlice": "self.values[0:3] = self.values[0:2]",
    "InTuple": "self.x = WEIGHTS[self.n + 2]",
    "InNothing": "self.none[0] = 7",
    "NotANumber": "self.values[int(self.x * nan)] = 7",
}
RIGHT = {
    "Last": "self.values[-1] = 0",
    "Slices": "self.values[2:900] = 0",
    "EmptySlice": "self.values[900:] = 9",
    "Raw": "self.x = pkt.raw(-1) + pkt.raw(1 << 40)",
}


def class_text(name, add="pass", clear="self.x = 0.0", collect="0", end="self.x = how"):
    return _CLASS.format(name=name, add=add, clear=clear, collect=collect, end=end)


@pytest.fixture(scope="module")
def feature_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("wrong") / "wrong.py"
    classes = [class_text(name, add) for name, add in {**WRONG, **RIGHT}.items()]
    classes += [class_text("Collecting", collect="self.n + 4"), class_text("Clearing", clear="self.values[-5] = 1")]
    classes += [class_text("Ending", end="self.values[4 + how] = 7")]
    path.write_text(_HEAD + "".join(classes))
    return path


NAMES = [*WRONG, *RIGHT, "Collecting", "Clearing", "Ending"]
COLLECT = ["PacketCounters", *NAMES, "TCPCounters"]


def config_of(collect, *paths):
    service = {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": collect}
    return parse_config({"Sensor": "test", "FeaturePaths": [str(path) for path in paths], "Services": [service]})


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    frames = seeded_trace(3, 40, runs.ETHERNET)
    return write_trace(tmp_path_factory.mktemp("trace") / "a.pcap", frames)


@pytest.fixture(scope="module")
def replayed(feature_file, trace, tmp_path_factory):
    def run(collect, workers, *paths):
        out = tmp_path_factory.mktemp("out")
        result = replay_to_directory(config_of(collect, *paths), [trace], out, ReplayOptions(workers=workers))
        return result, runs.lines(out / "records.jsonl"), runs.lines(out / "intervals.jsonl")

    return {
        "alone": run(["PacketCounters", "TCPCounters"], 1),
        1: run(COLLECT, 1, feature_file),
        2: run(COLLECT, 2, feature_file),
    }


def without(records, names):
    return [
        {**record, "features": {name: value for name, value in record["features"].items() if name not in names}}
        for record in records
    ]


@production
@pytest.mark.parametrize("workers", [1, 2])
def test_neighbours_are_as_without_the_wrong_classes(replayed, workers):
    result, records, _ = replayed[workers]
    assert without(records, NAMES) == replayed["alone"][1]
    assert result.counters | {"feature_class_errors": 0} == replayed["alone"][0].counters


@production
@pytest.mark.parametrize("name", NAMES)
def test_a_class_is_not_touched_around_its_array(replayed, name):
    records = replayed[1][1]
    neighbours = [record["features"]["PacketCounters"] for record in records]
    for own, neighbour in zip((record["features"][name] for record in records), neighbours, strict=True):
        if name == "Collecting":  # nothing of what it would have said
            assert own == {"n": 0, "touched": 0, "mean": None, "listed": []}
        else:
            assert own == {
                "n": neighbour["packets_up"] + neighbour["packets_down"], "touched": 0, "mean": 0.0, "listed": [0] * 4,
            }  # fmt: skip


@production
@pytest.mark.parametrize("workers", [1, 2])
def test_every_call_that_raised_is_counted_for_its_class(replayed, workers):
    result, records, intervals = replayed[workers]
    packets, rows = result.counters["attributed"], len(records)
    expected = {**dict.fromkeys(WRONG, packets), **dict.fromkeys(RIGHT, 0), "Collecting": rows}
    counted = {name: count for name, count in result.class_errors.items() if name in expected}
    assert counted == expected
    assert result.class_errors["Clearing"] >= rows  # when a flow begins too
    assert rows >= result.class_errors["Ending"] > 1  # once a flow
    assert result.class_errors["PacketCounters"] == result.class_errors["TCPCounters"] == 0
    assert result.counters["feature_class_errors"] == sum(result.class_errors.values())
    assert sum(interval["feature_class_errors"] for interval in intervals) == result.counters["feature_class_errors"]


@production
def test_records_do_not_depend_on_the_number_of_workers(replayed):
    assert replayed[1][1] == replayed[2][1]


@production
def test_the_command_names_the_class_and_ends_with_1(feature_file, trace, tmp_path, capsys):
    config = tmp_path / "c.json"
    config.write_text(json.dumps(config_of(COLLECT, feature_file).to_dict()))
    done = runs.replay(capsys, trace, "-c", config, "-o", tmp_path / "out", "--quiet")
    assert done.status == 1
    said = [line for line in done.err.splitlines() if f"{feature_file}: Behind: " in line]
    assert len(said) == 1
    assert said[0].startswith(f"error: {feature_file}: Behind: ")
    assert "calls of its methods ended with an error, most likely an index outside its array" in said[0]
    assert f"`trafficrefinery features check {feature_file}`, finds the line" in said[0]
    assert all("Last" not in line and "PacketCounters" not in line for line in done.err.splitlines())


@pytest.mark.skipif(MODE == "on", reason="with TRAFFICREFINERY_JIT=off or boundscheck")
def test_other_modes_end_at_the_first_wrong_index(feature_file, trace, tmp_path):
    with pytest.raises(FeatureError if MODE == "off" else IndexError) as caught:
        replay_to_directory(config_of(["Behind"], feature_file), [trace], tmp_path, ReplayOptions())
    if MODE == "off":
        line = feature_file.read_text().partition("self.values[self.n + 3]")[0].count("\n") + 1
        assert caught.value.where == f"{feature_file}:{line}"


def test_features_check_finds_the_line(tmp_path, capsys):
    path = write_case(
        tmp_path,
        "    sizes: Array[int] = array(uint32, 4)\n\n    def add_packet(self, pkt: Packet) -> None:\n"
        "        self.n += 1\n        self.sizes[self.n + 3] = 1\n",
    )
    assert state_dtype(Registry([path]).get("Case")).itemsize == 24
    with pytest.raises(SystemExit) as caught:
        cli.main(["features", "check", str(path)])
    assert caught.value.code == 1
    line = path.read_text().splitlines().index("        self.sizes[self.n + 3] = 1") + 1
    assert f"{path}:{line}: Case.add_packet: self.sizes[self.n + 3]: IndexError" in capsys.readouterr().err


# Session features are plain Python, but hand arrays to compiled loops.


def test_the_loops_over_sessions_look_at_indices():
    values, out = np.ones(4), np.zeros(2)
    with pytest.raises(IndexError):
        session_kernels.sums(values, np.array([0, 9]), np.zeros(1))
    bins, n = np.zeros((2, 128), np.uint16), np.zeros(2, np.uint64)
    for wrong in (2, 1 << 40, -3):
        with pytest.raises(IndexError):
            session_kernels.add_to_bins(bins, n, np.array([wrong]), values, 10)
    with pytest.raises(IndexError):
        session_kernels.extremes(values[:2], 1.0, np.array([0, 3]), out[:1])
    assert not bins.any()


def test_a_bin_is_found_for_every_float():
    bins, n = np.zeros((1, 128), np.uint16), np.zeros(1, np.uint64)
    session_kernels.add_to_bins(bins, n, np.zeros(5, np.int64), np.array([np.nan, np.inf, -np.inf, 1e300, 7.0]), 10)
    assert (n[0], bins[0, 0], bins[0, 7], bins[0, 127]) == (4, 1, 1, 2)
