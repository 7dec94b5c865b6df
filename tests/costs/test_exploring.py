"""Exploration: fronts, hypervolumes, searches, limits, and what is deployed."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import datasets, pages
from support.traces import thinned
from trafficrefinery.cli.main import _run
from trafficrefinery.cli.reports.exploration import page_of
from trafficrefinery.cli.reports.page import write_report
from trafficrefinery.config import load_config
from trafficrefinery.costs.exploring import ExploreOptions, costing, evaluating, explore, searching
from trafficrefinery.costs.exploring.fronts import front, hypervolume
from trafficrefinery.costs.exploring.memo import Memo
from trafficrefinery.costs.exploring.points import FRONT_COLUMNS, recommended
from trafficrefinery.costs.exploring.space import Sampling, Space
from trafficrefinery.costs.profiling import Costs
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.models.dataset.tables import write_table
from trafficrefinery.models.inference import check, load_bundle
from trafficrefinery.models.sessions import SessionRegistry
from trafficrefinery.system.tasks import tasks

BASE = ("VideoSegments", "PacketCounters")
SOURCES = (Sampling(10.0), Sampling(4.0, 50))
COLUMNS = (
    "application.segments", "application.requests", "network.kbps_down", "transport.ack_up", "network.iat_s_mean_up",
)  # fmt: skip
CLASSES = ("PacketCounters", "PacketTimes", "TCPCounters", "LatencyCounters", "VideoSegments")


# Fronts

points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30)


@given(points)
def test_no_point_is_better_than_one_of_the_front_and_every_other_one_has_its_better(given):
    costs = np.array(given, float).reshape(-1, 2)
    on = set(front(costs).tolist())
    for number, one in enumerate(costs):
        better = [other for other in costs if (other <= one).all() and (other < one).any()]
        same_before = any((costs[other] == one).all() for other in range(number))
        assert (number in on) == (not better and not same_before)


@given(points)
def test_a_front_is_its_own_front(given):
    costs = np.array(given, float).reshape(-1, 2)
    chosen = costs[front(costs)]
    assert front(chosen).tolist() == list(range(len(chosen)))


def test_a_point_without_a_figure_is_on_no_front():
    assert front(np.array([[1.0, np.nan], [2.0, 2.0], [np.nan, 0.0]])).tolist() == [1]


def naive_hypervolume(gains):
    """The share of cells of a grid of tenths that some point dominates."""
    cells = [(x, y) for x in range(10) for y in range(10)]
    return sum(any(a > x and b > y for a, b in gains) for x, y in cells) / 100


@given(st.lists(st.tuples(st.integers(-2, 12), st.integers(-2, 12)), max_size=12))
def test_a_hypervolume_is_the_area_that_points_dominate(given):
    assert hypervolume(np.array(given, float).reshape(-1, 2) / 10) == pytest.approx(naive_hypervolume(given))


@given(points.filter(len), st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_another_point_never_makes_a_hypervolume_less_and_a_dominated_one_changes_nothing(given, more):
    gains = np.array(given, float) / 10
    before, after = hypervolume(gains), hypervolume(np.vstack([gains, np.array(more) / 10]))
    assert after >= before
    if any(a >= more[0] and b >= more[1] for a, b in given):
        assert after == before


# Memory of what was found


def test_what_was_found_is_there_after_a_kill_in_the_middle_of_a_line(tmp_path):
    memo = Memo(tmp_path / "memo")
    memo.add("a", {"accuracy": 0.5})
    memo.add("b", {"accuracy": None})
    memo.close()
    whole = (tmp_path / "memo").read_bytes()
    (tmp_path / "memo").write_bytes(whole + b'["c",{"accu')
    again = Memo(tmp_path / "memo")
    assert ("a" in again, "b" in again, "c" in again) == (True, True, False)
    assert again["a"] == {"accuracy": 0.5}
    again.add("c", 1)
    again.close()
    assert (tmp_path / "memo").read_bytes() == whole + b'["c",1]\n'


def test_a_damaged_memory_is_told(tmp_path):
    (tmp_path / "memo").write_text("not JSON\n")
    with pytest.raises(UsageError, match="is damaged: .*; delete it"):
        Memo(tmp_path / "memo")


# The space


def space(single_columns=True, sources=SOURCES):
    rankings = dict.fromkeys(sources, COLUMNS[::-1])
    return Space(COLUMNS, CLASSES, rankings, SessionRegistry().made_by, BASE, single_columns)


def test_columns_of_the_start_are_for_startup_delays_alone():
    start = "application.start_bytes_1s"
    known = Space((*COLUMNS, start), CLASSES, dict.fromkeys(SOURCES, COLUMNS), SessionRegistry().made_by, BASE)
    for one in known:
        assert one.told_all_along
        assert set(one.columns) - set(one.told_all_along) <= {start}


@pytest.mark.parametrize("single_columns", [True, False])
def test_a_small_space_is_walked_whole_and_each_representation_comes_once(single_columns):
    walked = list(space(single_columns))
    assert len(walked) == len(set(walked)) == len({one.key for one in walked}) == space(single_columns).size


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_parameters_mean_the_representation_that_they_were_made_from(seed, single_columns):
    known = space(single_columns)
    one = known.drawn(np.random.default_rng(seed))
    assert one.columns
    assert known.decode(known.encode(one)) == one


@pytest.mark.parametrize("one", list(space()), ids=lambda one: "-".join(map(str, one[1:])))
def test_classes_are_those_that_columns_and_sessions_are_made_from(one):
    classes = space().classes(one.columns)
    assert set(BASE) <= set(classes)
    assert ("TCPCounters" in classes) == ("transport.ack_up" in one.columns)
    assert ("PacketTimes" in classes) == ("network.iat_s_mean_up" in one.columns)
    assert "LatencyCounters" not in classes


def test_a_search_begins_with_all_columns_and_names_none_twice():
    seeds = space().seeds(20)
    assert seeds[0].columns == COLUMNS
    assert len(seeds) == len(set(seeds))


def values_of(known):
    """An accuracy that more columns raise, and a state that they cost."""
    return lambda wanted: [(len(one.columns) / 9, float(len(known.classes(one.columns)))) for one in wanted]


def test_a_space_may_be_larger_than_numbers_of_the_machine():
    names = tuple(field.name for field in SessionRegistry().fields())
    known = Space(names, (*CLASSES, "FirstSeconds"), dict.fromkeys(SOURCES, names), SessionRegistry().made_by, BASE)
    assert known.size > 2**100
    assert known.drawn(np.random.default_rng(1)).columns


def test_a_small_space_is_searched_whole(tmp_path):
    known = space(single_columns=False)
    assert set(searching.searched(known, known.size, values_of(known), tmp_path / "journal", 1)) == set(known)


def test_a_search_does_not_depend_on_where_it_was_stopped(tmp_path):
    known = space()
    whole = searching.searched(known, 70, values_of(known), tmp_path / "whole", 1)
    assert len(whole) == 70
    left = [45]

    def stops(wanted):
        left[0] -= len(wanted)
        if left[0] < 0:
            raise KeyboardInterrupt
        return values_of(known)(wanted)

    with pytest.raises(KeyboardInterrupt):
        searching.searched(known, 70, stops, tmp_path / "journal", 1)
    assert searching.searched(known, 70, values_of(known), tmp_path / "journal", 1) == whole
    assert searching.searched(known, 70, values_of(known), tmp_path / "other", 2) != whole


def test_random_search_and_ranking_keep_to_their_budget():
    known = space()
    assert len(searching.at_random(known, 30, 1)) == 30
    ranked = searching.by_ranking(known, 8)
    assert 0 < len(ranked) <= 8
    assert all(set(one.columns) == set(COLUMNS[::-1][: len(one.columns)]) for one in ranked)


# The recommended point


def frame(*rows):
    made = [dict(zip(("state_bytes", "accuracy", "accuracy_se"), row, strict=True)) for row in rows]
    return pl.DataFrame(made).sort("state_bytes", "accuracy", descending=[False, True])


POINTS = frame((384, 0.70, 0.02), (640, 0.86, 0.03), (832, 0.87, 0.02), (1500, 0.80, 0.02))


@pytest.mark.parametrize(("limits", "state_bytes"), [
    ({}, 640),  # within one standard error of the best
    ({"max_state_bytes": 2_000}, 832),
    ({"max_state_bytes": 700}, 640),
    ({"min_accuracy": 0.7}, 384),
    ({"min_accuracy": 0.865}, 832),
    ({"min_accuracy": 0.8, "max_state_bytes": 700}, 640),
])  # fmt: skip
def test_the_recommended_point_is_within_the_limits_and_the_best_of_these(limits, state_bytes):
    assert recommended(POINTS, ExploreOptions(**limits))["state_bytes"] == state_bytes


@pytest.mark.parametrize(("limits", "message"), [
    ({"max_state_bytes": 256}, r"no point has 256 B of state or less .*; the best is 384 B with an accuracy of 0\.700"),
    ({"min_accuracy": 0.9}, r"no point has an accuracy of 0\.9 .*; the best is 832 B with an accuracy of 0\.870"),
    ({"min_accuracy": 0.87, "max_state_bytes": 700}, r"0\.87 .* and 700 B of state .*; the best is 640 B"),
])  # fmt: skip
def test_limits_that_no_point_keeps_are_told_with_the_best_there_is(limits, message):
    with pytest.raises(TrafficRefineryError, match=message):
        recommended(POINTS, ExploreOptions(**limits))


@pytest.mark.parametrize(("far", "state_bytes"), [
    ((0.9, 0.5, 0.95, 0.9), 832),  # the cheapest that is enough for both
    ((0.95, 0.5, 0.7, 0.5), 832),  # none is: of those that are enough for the first, the best for the second
])  # fmt: skip
def test_the_cheapest_point_that_serves_two_targets_is_recommended(far, state_bytes):
    both = POINTS.with_columns(pl.Series("accuracy.far", far), pl.lit(0.02).alias("accuracy_se.far"))
    assert recommended(both, ExploreOptions(also=("far",)))["state_bytes"] == state_bytes
    with pytest.raises(TrafficRefineryError, match=r"no point has an accuracy of 0\.99"):
        recommended(both, ExploreOptions(also=("far",), min_accuracy=0.99))


# The whole of it, on a made-up dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return datasets.write(tmp_path_factory.mktemp("data") / "data.parquet", sessions=16, intervals=5)


def make_small(patch):
    """Small models, and costs that need no compiler."""
    patch.setattr(searching, "SIZES", ((2, 2), (5, 4)))
    patch.setattr("trafficrefinery.costs.exploring.space.SIZES", ((2, 2), (5, 4)))
    patch.setattr(costing.CostMeter, "_recorded", lambda self, plan: None)
    patch.setattr(costing, "measure", declared)


@pytest.fixture
def small(monkeypatch):
    make_small(monkeypatch)


def declared(plan, packets):
    state_bytes = plan.profiles[0].state_dtype().itemsize
    return Costs(float(state_bytes), state_bytes / 40, 50.0, 100.0 * len(plan.profiles[0].classes), 0.01)


TRIALS = ExploreOptions(trials=12)


@pytest.fixture(scope="module")
def explored(data, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        out = tmp_path_factory.mktemp("explored") / "out"
        found = explore(data, out, options=TRIALS)
        write_report(page_of(out), out)
        return out, found


def test_the_front_has_what_no_point_of_the_table_is_better_than(explored):
    out, _ = explored
    table, told = pl.read_parquet(out / "table.parquet"), json.loads((out / "front.json").read_text())
    assert told
    assert all(list(point) == list(FRONT_COLUMNS) for point in told)
    for point in told:
        better = (pl.col("accuracy") >= point["accuracy"]) & (pl.col("state_bytes") <= point["state_bytes"]) & (
            (pl.col("accuracy") > point["accuracy"]) | (pl.col("state_bytes") < point["state_bytes"])
        )  # fmt: skip
        assert not len(table.filter(better))
    assert table["on_front"].sum() == len(told)
    assert {"search", "random", "mutual information"} == set(table["found_by"].explode())


def test_state_is_that_of_the_compiled_classes_together(explored):
    out, _ = explored
    for point in json.loads((out / "front.json").read_text()):
        plan = datasets.plan(collect=point["classes"])
        assert point["state_bytes"] == plan.profiles[0].state_dtype().itemsize


@pytest.mark.usefixtures("small")
def test_two_runs_with_a_seed_give_the_same_points_and_order_of_costs(explored, data, tmp_path):
    out, _ = explored
    explore(data, tmp_path / "again", options=TRIALS)
    assert (tmp_path / "again" / "front.json").read_text() == (out / "front.json").read_text()
    first, again = (pl.read_parquet(folder / "table.parquet") for folder in (out, tmp_path / "again"))
    assert first.equals(again)


@pytest.mark.usefixtures("small")
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same(explored, data, tmp_path, monkeypatch):
    real, left = evaluating._scores, [7]

    def stops(task):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(evaluating, "_scores", stops)
    with pytest.raises(KeyboardInterrupt):
        explore(data, tmp_path, options=TRIALS)
    monkeypatch.setattr(evaluating, "_scores", real)
    found = explore(data, tmp_path, options=TRIALS)
    assert found.reused == 7
    assert (tmp_path / "front.json").read_text() == (explored[0] / "front.json").read_text()
    more = explore(data, tmp_path, options=TRIALS._replace(trials=16))
    assert more.reused > 7
    assert len(more.frame) > len(found.frame)


def test_what_is_deployed_is_the_recommended_point_and_fits_together(explored):
    out, found = explored
    plan, bundle = Plan.of(load_config(out / "deploy" / "config.json")), load_bundle(out / "deploy" / "model")
    check(bundle, plan)
    point = found.summary["recommended"]
    assert list(bundle.columns) == point["columns"]
    assert bundle.interval_s == point["interval_s"]
    assert len(bundle.forest.roots) == point["trees"]
    for profile in plan.profiles:
        assert [cls.__name__ for cls in profile.classes] == point["classes"]
        assert profile.state_dtype().itemsize == point["state_bytes"]
    assert [path.name for path in plan.config.inference.models] == ["model", "startup"]
    check(load_bundle(out / "deploy" / "startup"), plan)
    assert found.summary["deployed"]["accuracy"] == point["accuracy"]


def test_the_report_recommends_the_point_that_is_deployed(browser, explored, tmp_path):
    page = pages.check(explored[0] / "report.html", "What a representation costs")
    pages.check_in_browser(browser, explored[0] / "report.html", tmp_path)
    assert page.count("<svg") == 4  # one interval only
    assert "Recommended" in page
    point = explored[1].summary["recommended"]
    assert all(name in page for name in point["columns"])
    assert f"{point['state_bytes']:,} B" in page


def test_the_searches_are_compared_with_the_same_budget(explored):
    searches = explored[1].summary["searches"]
    assert list(searches) == ["search", "random", "mutual information"]
    assert searches["search"]["trials"] == searches["random"]["trials"] == TRIALS.trials
    assert all(0 < one["hypervolume"] <= 1 for one in searches.values())


@pytest.mark.usefixtures("small")
def test_a_limit_that_no_point_keeps_leaves_the_report_and_nothing_to_deploy(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert _run(["explore", str(data), "-o", str(out), "--trials", "4", "--no-compare", "--max-state", "256B"]) == 1
    error = capsys.readouterr().err
    assert "error: no point has 256 B of state or less (--max-state); the best is 384 B" in error
    assert error.count("\n") == 1
    assert "the best is 384 B" in (out / "report.html").read_text()
    assert not (out / "deploy").exists()


@pytest.mark.usefixtures("small")
def test_the_command_tells_the_front_and_where_to_look(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert _run(["explore", str(data), "-o", str(out), "--trials", "4", "--no-compare", "--whole-classes"]) == 0
    told = capsys.readouterr().out
    assert told.index("Recommended") < told.index("Pareto front")
    assert f"report: {out / 'report.html'}" in told
    assert f"deploy: {out / 'deploy' / 'config.json'}" in told


@pytest.mark.usefixtures("small")
def test_columns_of_classes_that_are_not_collected_are_neither_used_nor_deployed(data, tmp_path, capsys):
    config = tmp_path / "config.json"
    service = {"Name": "Film", "Filter": {"Prefixes": ["10.0.0.0/8"]}, "Collect": ["PacketCounters", "VideoSegments"]}
    config.write_text(json.dumps({"Interval": "10s", "Services": [service]}))
    out = tmp_path / "out"
    assert _run(["explore", str(data), "-c", str(config), "-o", str(out), "--trials", "6", "--no-compare"]) == 0
    left_out = json.loads((out / "explore.json").read_text())["data"]["left_out"]
    assert "transport.payload_bytes_mean_down" in left_out
    assert f"note: {len(left_out)} columns are left out" in capsys.readouterr().err
    table = pl.read_parquet(out / "table.parquet")
    assert not set(table["columns"].explode()) & set(left_out)
    made_by = SessionRegistry().made_by
    for columns, classes in table.select("columns", "classes").iter_rows():
        assert {need for one in columns for need in made_by[one].needs} <= set(classes)
    check(load_bundle(out / "deploy" / "model"), Plan.of(load_config(out / "deploy" / "config.json")))


@pytest.mark.usefixtures("small")
def test_one_representation_serves_the_models_of_two_targets(tmp_path):
    table = datasets.table(sessions=16, intervals=5)
    rounds = table["application.ttfb_s_mean"].to_numpy() > 0.5
    table = table.append_column("label.far", pa.array(np.where(rounds, "far", "near")))
    write_table(table, tmp_path / "data.parquet")
    arguments = ["--target", "resolution,far", "--trials", "8", "--no-compare", "--quiet"]
    out = tmp_path / "out"
    assert _run(["explore", str(tmp_path / "data.parquet"), "-o", str(out), *arguments]) == 0
    summary = json.loads((out / "explore.json").read_text())
    point, (accuracy, error) = summary["recommended"], summary["also"]["far"]
    assert accuracy > 0.8
    assert 0 <= error < 0.2
    plan = Plan.of(load_config(out / "deploy" / "config.json"))
    assert [path.name for path in plan.config.inference.models] == ["model", "far", "startup"]
    for name in ("model", "far"):
        bundle = load_bundle(out / "deploy" / name)
        check(bundle, plan)
        assert list(bundle.columns) == point["columns"]
    assert "The model of far has" in (out / "report.html").read_text()


WRONG = {
    "no data": (["gone.parquet"], "gone.parquet: no such file or directory; give a dataset"),
    "no table": (["{text}"], "is no Parquet file"),
    "intervals of a table": (["{data}", "--intervals", "2s"], "--intervals: .* is a table, .*; give a directory"),
    "interval": (["{data}", "--intervals", "2"], '--intervals: "2" has no unit'),
    "packets": (["{data}", "--first-packets", "few"], '--first-packets: "few" is not a number of packets'),
    "state": (["{data}", "--max-state", "256"], '--max-state: "256" has no unit'),
    "accuracy": (["{data}", "--min-accuracy", "90"], "min-accuracy"),
    "group": (["{data}", "--group", "videos"], "--group: .* has no column videos"),
    "empty directory": (["{folder}"], "labels.csv: cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case, data, tmp_path, capsys):
    arguments, message = WRONG[case]
    (tmp_path / "text").write_text("text")
    (tmp_path / "folder").mkdir()
    places = {"data": data, "text": tmp_path / "text", "folder": tmp_path / "folder"}
    given_ = [one.format(**places) for one in arguments]
    assert _run(["explore", *given_, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


@pytest.mark.usefixtures("small")
def test_the_directory_of_another_exploration_is_refused(explored, data):
    with pytest.raises(UsageError, match="holds an exploration with another seed; name another directory"):
        explore(data, explored[0], options=TRIALS._replace(seed=2))


# Traces


@pytest.fixture(scope="module")
def of_traces(tmp_path_factory, sample_trace):
    """The sample, four times and never the same, as if it had been played at two resolutions."""
    folder = tmp_path_factory.mktemp("traces")
    lines = ["file,session,video_id,resolution"]
    for number in range(4):
        thinned(sample_trace, folder / f"{number}.pcap", 20 + number)
        lines.append(f"{number}.pcap,s{number},v{number},{(480, 1080)[number % 2]}")
    (folder / "bad.pcap").write_text("this is no trace at all")
    lines.append("bad.pcap,s4,v4,480")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path_factory.mktemp("explored") / "out"
    options = ExploreOptions(trials=6, intervals_s=(5.0, 10.0), first_packets=(200, None), compare=False)
    with tasks(2) as side_by_side:
        return out, explore(folder, out, options=options._replace(tasks=side_by_side))


def test_a_trace_that_cannot_be_read_is_left_out_and_told(of_traces):
    _, found = of_traces
    assert list(found.summary["data"]["failed"]) == ["bad.pcap"]
    assert "bad.pcap: " in found.summary["data"]["failed"]["bad.pcap"]
    assert found.summary["data"]["sessions"] == 4


def test_traces_are_explored_by_interval_and_by_packets(of_traces):
    out, found = of_traces
    assert sorted(path.name for path in (out / "tables").glob("*.parquet")) == [
        "10s-first200packets.parquet", "10s.parquet", "5s-first200packets.parquet", "5s.parquet",
    ]  # fmt: skip
    assert found.frame["ns_per_packet"].min() > 0
    assert found.frame["record_bytes"].min() > 100


def test_what_was_deployed_runs_on_a_trace(of_traces, sample_trace, tmp_path):
    out, found = of_traces
    config = out / "deploy" / "config.json"
    assert _run(["replay", str(sample_trace), "-c", str(config), "-o", str(tmp_path), "--quiet"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "inferences.jsonl").read_text().splitlines()]
    assert lines
    assert {line["ts_end"] - line["ts_start"] for line in lines} == {found.recommended["interval_s"]}
    assert {line["value"] for line in lines} <= {"480", "1080", None}
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert {tuple(record["features"]) for record in records} == {tuple(found.recommended["classes"])}
