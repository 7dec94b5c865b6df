"""The block at the end of a run: each counter has its words, each finding its line, the file is whole or not there."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

import trafficrefinery
from support import replay_runs as runs
from support import traces
from support.naive.frames import Frame
from support.replays import replay_frames
from support.trace_clock_cases import START_NS, disorderly, packet, plan, sessions
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.cli import main as cli
from trafficrefinery.config import load_config, parse_config
from trafficrefinery.engine.counters import COUNTERS
from trafficrefinery.errors import OutputError
from trafficrefinery.records.aggregate import ServiceTotals
from trafficrefinery.records.summary import (
    ERROR,
    FILE,
    NOTE,
    WARNING,
    Finding,
    Reading,
    TraceFindings,
    effects,
    findings_of_all,
    make,
)
from trafficrefinery.records.summary.counters import EXPECTED, WORDS, findings_of, words_of
from trafficrefinery.replaying.single import replay_to_directory

S = 10**9
SERVICES = [{"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["PacketCounters", "TCPCounters"]}]


def in_order(seed: int = 1, size: int = 8) -> list[Frame]:
    return sorted(runs.frames(seed=seed, size=size), key=lambda frame: frame.ts_ns)


def write_config(folder: Path, **sections: Any) -> Path:
    path = folder / "some.json"
    path.write_text(json.dumps({"Sensor": "test", "Services": SERVICES, **sections}))
    return path


def summary_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / FILE).read_bytes())
    return content


def finding(summary: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in summary["findings"] if one["name"] == name]
    return found  # type: ignore[no-any-return]


# Words


def test_every_counter_has_words_or_is_expected():
    without = [name for name in COUNTERS if words_of(name) is None and name not in EXPECTED]
    assert not without, f"say in summary/counters.py what these mean to a user: {', '.join(without)}"
    assert not EXPECTED & WORDS.keys()


def test_no_words_are_left_of_a_counter_that_is_gone():
    of_sessions = {f"sessions_{name}" for name in ("open", "started", "ended", "refused")}
    assert not (EXPECTED | WORDS.keys()) - {*COUNTERS, *of_sessions}


def test_a_counter_that_nobody_described_is_shown_all_the_same():
    (found,) = findings_of({"packets": 5, "new_counter_total": 2})
    assert found.line == "new counter total: 2"


def test_a_tunnel_names_the_value_that_helps():
    (found,) = findings_of({"packets": 100, "geneve_not_decapsulated": 2})
    assert found.line == (
        '2 packets (2 %) are in tunnels (geneve) that were not looked into; add "geneve" to Decapsulate'
    )


@pytest.mark.parametrize("number", [1, 2, 1234])
@pytest.mark.parametrize("name", WORDS)
def test_the_words_of_a_counter_are_a_sentence(name, number):
    line = Finding("x", NOTE, number, 10_000, WORDS[name].template, WORDS[name].remedy).line
    assert not re.search(r"[\[\]{}|]", line)
    assert f"{number:,} " in line
    assert not re.search(rf"^{number:,} [A-Za-z0-9.]+ (is|was|has) ", line) or number == 1


def test_a_share_is_behind_the_noun():
    found = Finding("x", NOTE, 12, 4000, "{} [packet is|packets are] late", "sort them", ("a", "b", "c", "d"))
    assert found.line == "12 packets (0.3 %) are late: a, b, c and 1 more; sort them"
    one = Finding("x", NOTE, 1, 2, "{} DNS [answer was|answers were] retried, as [it was|they were] late")
    assert one.line == "1 DNS answer (50 %) was retried, as it was late"
    assert one._replace(number=2).line == "2 DNS answers (100 %) were retried, as they were late"
    assert (
        one._replace(template="{} [flow hides its name|flows hide their names]").line == "1 flow (50 %) hides its name"
    )


@pytest.mark.parametrize("name", [name for name, words in WORDS.items() if words.of])
def test_the_share_of_every_counter_is_behind_a_noun_in_one_form_or_the_other(name):
    for number, form in ((1, 0), (3, 1)):
        message = Finding("x", NOTE, number, 10, WORDS[name].template).message
        nouns = re.findall(r"(packet|flow|frame|message|answer)(s?) \((?:10|30) %\)", message)
        assert [len(plural) for _, plural in nouns] == [form]


def test_findings_of_several_traces_become_one():
    late = Finding("out_of_order", WARNING, 1, 10, "{} [packet|packets] late")
    silent = Finding("services_without_packets", NOTE, 2, 0, "{} silent", "", ("A", "B"))
    damaged = Finding("damaged", ERROR, 1, 0, "{} damaged", "", ("x",))
    other = damaged._replace(items=("y",))
    found = findings_of_all([
        TraceFindings([late, silent, damaged], {"packets": 10}), TraceFindings([late, silent._replace(items=("B",), number=1), other], {"packets": 9}),
        TraceFindings([silent], {"packets": 1000}),
    ])  # fmt: skip
    assert [one.name for one in found] == ["damaged", "out_of_order", "services_without_packets"]
    assert (found[0].number, found[0].items) == (2, ("x", "y"))
    assert (found[1].number, found[1].of) == (2, 1019)
    assert (found[2].number, found[2].items) == (1, ("B",))
    assert [one.name for one in findings_of_all([TraceFindings([silent], {}), TraceFindings([], {})])] == []


def test_whether_most_flows_are_one_sided_is_said_once_of_all_traces():
    parts = []
    for flows, one_sided in ((2, 2), (98, 1), (900, 0)):
        totals = ServiceTotals()
        totals.flows, totals.one_sided, totals.packets = flows, one_sided, flows
        parts.append(TraceFindings(make("replay", None, Reading(), services={"A": totals}).findings, {"flows": flows}))
    assert [part.findings[0].severity for part in parts[:2]] == [WARNING, NOTE]
    (found,) = findings_of_all(parts)
    assert (found.severity, found.number, found.of) == (NOTE, 3, 1000)


# Keys without effect


def test_keys_without_effect_are_those_that_were_set_and_change_nothing():
    config = parse_config({
        "Services": SERVICES, "Interval": "5s", "Grace": "2s", "OutFolder": "x", "Decapsulate": ["gre"],
        "Capture": {"Duplicates": "drop", "Interfaces": ["eth1"], "Cpus": [0]}, "Metrics": {"Listen": None},
        "Sinks": {"Parquet": {"Enabled": False, "RotateAfter": "5m"}}, "ServiceMap": {"QUIC": False},
    })  # fmt: skip
    replay = [one.key for one in effects.without_effect(config, effects.REPLAY)]
    assert replay == [
        "ServiceMap.QUIC", "OutFolder", "Capture.Interfaces", "Capture.Cpus", "Sinks.Parquet.RotateAfter", "Metrics.Listen",
    ]  # fmt: skip
    live = [one.key for one in effects.without_effect(config, effects.RUN)]
    assert live == ["ServiceMap.QUIC", "Sinks.Parquet.RotateAfter"]
    recorded = [one.key for one in effects.without_effect(config, effects.RUN_FILE)]
    assert recorded == ["ServiceMap.QUIC", "Capture.Interfaces", "Sinks.Parquet.RotateAfter"]


def test_the_configurations_of_the_project_have_no_such_key(root):
    for path in sorted((root / "configs").glob("*.json")):
        assert effects.findings_of(load_config(path), effects.REPLAY) == []


# The file


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> Path:
    return traces.write_trace(tmp_path_factory.mktemp("summary") / "t.pcap", in_order())


def test_the_file_does_not_depend_on_the_number_of_workers(capsys, tmp_path, trace):
    config = write_config(tmp_path, Capture={"Duplicates": "count"})
    for workers in (1, 2, 3):
        done = runs.replay(capsys, trace, "-c", config, "-o", tmp_path / str(workers), "--workers", workers)
        assert (done.status, done.err) == (0, "")
    files = [(tmp_path / str(workers) / FILE).read_bytes() for workers in (1, 2, 3)]
    assert files[0] == files[1] == files[2]
    content = json.loads(files[0])
    assert content["packets"]["total"] == sum(content["packets"]["by_reason"].values())
    assert content["traces"][0]["packets"] == content["packets"]["total"]


def test_every_member_of_the_file_is_documented(capsys, tmp_path, trace):
    runs.replay(capsys, trace, "-c", write_config(tmp_path), "-o", tmp_path / "out")
    content = summary_of(tmp_path / "out")
    documentation = trafficrefinery.records.summary.__doc__
    names = {
        *content,
        *content["traces"][0],
        *content["packets"],
        *content["services"]["All"],
        *content["configuration"],
    }
    assert not [name for name in names if f"`{name}`" not in documentation]


def test_records_of_a_failed_run_have_no_summary_of_an_earlier_one(tmp_path, trace, monkeypatch):
    config = load_config(write_config(tmp_path))
    replay_to_directory(config, [trace], tmp_path / "out")
    before = (tmp_path / "out" / FILE).read_bytes()

    def full(*_: object) -> None:
        raise OutputError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("trafficrefinery.replaying.single.ReplaySinks.close", full)
        with pytest.raises(OutputError):
            replay_to_directory(config, [trace], tmp_path / "out")
    assert not (tmp_path / "out" / FILE).exists()
    replay_to_directory(config, [trace], tmp_path / "out")
    assert (tmp_path / "out" / FILE).read_bytes() == before


def test_damage_is_an_error_and_the_rest_is_not(capsys, tmp_path, trace):
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(trace.read_bytes()[:-5])
    config = write_config(tmp_path)
    done = runs.replay(capsys, cut, "-c", config, "-o", tmp_path / "out")
    content = summary_of(tmp_path / "out")
    assert (done.status, content["complete"]) == (1, False)
    (damage,) = content["damage"]
    assert damage["file"] == str(cut)
    assert damage["position"] > 0
    assert finding(content, "damaged")["severity"] == ERROR
    assert done.err == f"error: {cut}: byte {damage['position']}: {damage['message']}\n"


# What is found


def shifted(frames: list[Frame], by_ns: int) -> list[Frame]:
    return [frame._replace(ts_ns=frame.ts_ns + by_ns) for frame in frames]


def replayed(capsys, tmp_path, frames: list[Frame], *options: Any, **sections: Any) -> tuple[str, dict[str, Any]]:
    """What a replay prints, and its summary."""
    trace = traces.write_trace(tmp_path / "t.pcap", frames)
    done = runs.replay(capsys, trace, "-c", write_config(tmp_path, **sections), "-o", tmp_path / "out", *options)
    assert (done.status, done.err) == (0, "")
    return " ".join(done.out.split()), summary_of(tmp_path / "out")


OF_TIMES = {"out_of_order", "clock_set_back", "late_packets", "bad_time"}


def of_times(summary: dict[str, Any]) -> dict[str, int]:
    return {one["name"]: one["count"] for one in summary["findings"] if one["name"] in OF_TIMES}


def test_packets_out_of_order_are_reported_with_share_and_remedy(capsys, tmp_path):
    """5 s behind, within the interval: they are out of order and yet in their own interval."""
    frames = [*sessions(1), *sessions(1, START_NS + 6 * S, 1), *sessions(1, START_NS + S, 2)]
    said, content = replayed(capsys, tmp_path, frames)
    assert of_times(content) == {"out_of_order": 28}
    found = finding(content, "out_of_order")
    assert (found["severity"], found["share"], found["items"]) == (WARNING, 1 / 3, [str(tmp_path / "t.pcap")])
    assert found["message"] == (
        "28 packets (33 %) are older than packets before by more than Grace (1s), by up to 5.0 s"
    )
    assert "reordercap" in found["remedy"]
    assert f"warning: {found['message']}: {found['items'][0]}; {found['remedy']}" in said
    assert content["times"]["most_behind_s"] == pytest.approx(5.027)


def test_with_a_longer_grace_there_is_nothing_out_of_order(capsys, tmp_path):
    frames = [*sessions(1), *sessions(1, START_NS + 6 * S, 1), *sessions(1, START_NS + S, 2)]
    _, content = replayed(capsys, tmp_path, frames, Grace="6s")
    assert (of_times(content), content["times"]["most_behind_s"]) == ({}, 0)


def test_packets_that_come_too_late_for_their_interval_count_as_late_and_as_out_of_order(capsys, tmp_path):
    frames = sessions(6)
    frames[140:140] = [packet(START_NS + 5 * S + number, 10 + number, number) for number in range(5)]
    said, content = replayed(capsys, tmp_path, frames)
    assert of_times(content) == {"out_of_order": 5, "late_packets": 5}
    assert "wrong interval" not in said


@pytest.mark.parametrize("back_s", [600, 3 * 86_400])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_clock_that_was_set_back_is_reported_with_its_time_and_by_how_much(capsys, tmp_path, back_s, workers):
    frames = [*sessions(6), *sessions(4, START_NS + (60 - back_s) * S, 10)]
    said, content = replayed(capsys, tmp_path, frames, "--workers", workers)
    assert of_times(content) == {"clock_set_back": 1}
    found = finding(content, "clock_set_back")
    by_s = back_s - 60 + 50.027
    assert found["severity"] == WARNING
    assert found["items"] == [f"at 2020-09-13 12:27:30 UTC by {by_s:,.1f} s"]
    assert (
        f"the clock of the packets was set back 1 time, and the intervals began again there: {found['items'][0]}"
        in said
    )
    assert "reordercap" in found["remedy"]
    (step,) = content["times"]["steps_back"]
    assert step["from"] - step["to"] == pytest.approx(by_s)
    assert content["times"]["first"] == START_NS / S
    assert content["times"]["latest"] == pytest.approx(START_NS / S + 50.027)


@pytest.mark.parametrize("stray_s", [4_000_000_000, 0])
@pytest.mark.parametrize("at", [0, 60])
def test_a_stray_time_is_no_clock_that_was_set_back(capsys, tmp_path, stray_s, at):
    frames = sessions(6)
    frames.insert(at, packet(stray_s * S, 99))
    _, content = replayed(capsys, tmp_path, frames)
    assert of_times(content) == {"bad_time": 1}
    assert content["times"] == {
        "first": START_NS / S, "latest": pytest.approx(START_NS / S + 50.027), "most_behind_s": 0, "steps_back": [],
    }  # fmt: skip


def test_the_times_in_the_summary_do_not_depend_on_workers_blocks_or_pace():
    frames = disorderly()
    expected = replay_frames(plan(), frames).workers[0].times
    assert len(expected.steps_back) == 1
    for sizes, workers in itertools.product([(1,), (7, 64, 3)], [1, 3]):
        run = replay_frames(plan(), frames, sizes=sizes, partitions=workers)
        assert {worker.times for worker in run.workers} == {expected}


def test_a_trace_in_order_has_no_word_of_it(capsys, tmp_path, trace):
    runs.replay(capsys, trace, "-c", write_config(tmp_path), "-o", tmp_path / "out")
    content = summary_of(tmp_path / "out")
    assert of_times(content) == {}
    assert not {one["name"] for one in content["findings"]} & {"duplicates", "left_out", "damaged"}
    assert content["traces"][0]["backward"] == 0


def test_of_a_trace_without_packets_there_are_no_times(capsys, tmp_path):
    _, content = replayed(capsys, tmp_path, [])
    assert content["times"] == {"first": None, "latest": None, "most_behind_s": 0, "steps_back": []}
    assert (content["traces"][0]["packets"], content["traces"][0]["first"]) == (0, None)


# Duplicates


def spanned(frames: list[Frame]) -> list[Frame]:
    """Each frame twice, as a mirror port shows it."""
    both = [one for frame in frames for one in (frame, frame._replace(ts_ns=frame.ts_ns + 8_000))]
    return sorted(both, key=lambda frame: frame.ts_ns)


@pytest.fixture
def span(tmp_path) -> Path:
    """What a mirror port shows, and `tmp_path/once.pcap`: the same without its duplicates."""
    made = traces.write_trace(tmp_path / "span.pcap", spanned(in_order(3, 12)))
    with TraceReader([made], duplicates="drop") as reader:
        once = [
            Frame(int(f["ts_ns"]), buffer[f["offset"] : f["offset"] + f["captured_bytes"]].tobytes(), int(f["wire_bytes"]), 1)
            for buffer, frames in reader
            for f in frames
        ]  # fmt: skip
    traces.write_trace(tmp_path / "once.pcap", once)
    return made


def test_dropped_duplicates_leave_the_records_of_the_trace_without_them(capsys, tmp_path, span):
    once = tmp_path / "once.pcap"
    runs.replay(capsys, once, "-c", write_config(tmp_path), "-o", tmp_path / "once")
    config = write_config(tmp_path, Capture={"Duplicates": "drop"})
    for workers, speed in itertools.product((1, 2), ((), ("--speed", "100000"))):
        out = tmp_path / f"{workers}{len(speed)}"
        done = runs.replay(capsys, span, "-c", config, "-o", out, "--workers", workers, *speed)
        assert (done.status, done.err) == (0, "")
        for name in ("records.jsonl", "intervals.jsonl"):
            lines = sorted((out / name).read_text().splitlines())
            if workers == 1 or name == "records.jsonl":
                assert lines == sorted((tmp_path / "once" / name).read_text().splitlines())
        content = summary_of(out)
        kept = len(once.read_bytes()) and content["packets"]["total"]
        assert content["packets"]["duplicates"] == content["traces"][0]["packets"] - kept > 0
        assert finding(content, "duplicates")["severity"] == NOTE


def test_counted_duplicates_stay_and_are_reported(capsys, tmp_path, span):
    runs.replay(capsys, span, "-c", write_config(tmp_path), "-o", tmp_path / "keep")
    config = write_config(tmp_path, Capture={"Duplicates": "count"})
    runs.replay(capsys, span, "-c", config, "-o", tmp_path / "count")
    for name in ("records.jsonl", "intervals.jsonl"):
        assert (tmp_path / "keep" / name).read_bytes() == (tmp_path / "count" / name).read_bytes()
    found = finding(summary_of(tmp_path / "count"), "duplicates")
    assert found["severity"] == WARNING
    assert '"Duplicates": "drop"' in found["remedy"]


@pytest.mark.parametrize("frames_per_block", [1, 3, 8192])
def test_the_same_duplicates_are_found_wherever_blocks_end(span, frames_per_block):
    def times_of(**options: int) -> list[int]:
        with TraceReader([span], duplicates="drop", **options) as reader:
            return [int(ts) for block in reader for ts in block.frames["ts_ns"]]

    assert times_of(frames_per_block=frames_per_block) == times_of()


def test_the_same_duplicates_are_found_in_merged_files(tmp_path, span):
    frames = spanned(in_order(3, 12))
    first = traces.write_trace(tmp_path / "in.pcap", frames[::2])
    second = traces.write_trace(tmp_path / "out.pcap", frames[1::2])

    def kept(*paths: Path) -> list[int]:
        with TraceReader(list(paths), duplicates="drop") as reader:
            return [int(ts) for block in reader for ts in block.frames["ts_ns"]]

    assert sorted(kept(first, second)) == sorted(kept(span))


def test_the_packets_of_services_are_written_without_duplicates(capsys, tmp_path, span):
    config = write_config(tmp_path, Capture={"Duplicates": "drop"})
    done = runs.replay(capsys, span, "-c", config, "-o", tmp_path / "out", "--write-pcap", tmp_path / "packets")
    assert (done.status, done.err) == (0, "")
    content = summary_of(tmp_path / "out")
    assert sum(content["extracted"].values()) == content["packets"]["by_reason"]["attributed"]


def test_the_shared_case_of_a_mirror_port(capsys, tmp_path, shared_cases):
    done = runs.replay(
        capsys, shared_cases / "dup_span.pcap", "-c", shared_cases / "dupdrop.json", "-o", tmp_path, "--workers", 2
    )
    (record,) = runs.lines(tmp_path / "records.jsonl")
    assert done.status == 0
    assert (
        record["features"]["PacketCounters"]["packets_up"] + record["features"]["PacketCounters"]["packets_down"] == 28
    )
    assert record["features"]["TCPCounters"]["retransmissions_up"] == 0
    assert record["features"]["TCPCounters"]["retransmissions_down"] == 0


# Elsewhere


def test_a_notebook_has_the_same(tmp_path, capsys, span):
    config = write_config(tmp_path, Capture={"Duplicates": "drop"})
    runs.replay(capsys, span, "-c", config, "-o", tmp_path / "out")
    table = trafficrefinery.replay([span, span], config=config)
    mine, file = table.summary, summary_of(tmp_path / "out")
    for name in ("traces", "packets", "counters", "services", "records", "configuration", "versions"):
        assert mine[name] == file[name]
    assert finding(mine, "named_twice")["count"] == 1


def test_names_reports_what_its_reader_saw(tmp_path, capsys, span):
    config = write_config(tmp_path, Capture={"Duplicates": "drop"})
    capsys.readouterr()
    assert cli._run(["names", str(span), str(span), "-c", str(config), "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "were left out as duplicates" in " ".join(out.split())
    assert "1 file was named again" in " ".join(out.split())
    assert cli._run(["names", str(span), str(span), "-c", str(config), "--quiet", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()]
    assert "warning: 1 file was named again" in err
