"""`trafficrefinery profile` as a user runs it: its files, its report in a browser, and bad input."""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading

import pyarrow.parquet as pq
import pytest

from support import browsers, model_bundles, pages, traces
from support.networks import each_padded, needs_command, needs_root, wire
from support.replay_runs import frames
from trafficrefinery.cli import main as cli
from trafficrefinery.config import load_config
from trafficrefinery.costs.profiling import netflow
from trafficrefinery.costs.profiling.models import ModelRuns
from trafficrefinery.costs.profiling.trace_totals import TraceWalk
from trafficrefinery.engine.plan import Plan

__all__ = ["wire"]

REPETITIONS = 3
COLLECT = ["PacketCounters", "VideoSegments"]


def run(*arguments):
    """The exit status of the command, in this process."""
    return cli._run(["profile", *map(str, arguments)])


def configuration(folder, **changes):
    path = folder / "config.json"
    service = {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": COLLECT}
    path.write_text(json.dumps({"Services": [service], **changes}))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return traces.write_trace(tmp_path_factory.mktemp("trace") / "made.pcap", frames(4))


@pytest.fixture(scope="module")
def profiled(tmp_path_factory, made):
    """A folder with a profile, of two services of which one has no packets, and with a model."""
    folder = tmp_path_factory.mktemp("profiled")
    rest = {"Name": "None", "Filter": {"DomainsString": ["none.invalid"]}, "Collect": ["PacketCounters", "PacketSizes"]}
    every = {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": COLLECT}
    config = configuration(folder, Services=[every, rest])
    model = model_bundles.write_bundle(folder)
    out = folder / "out"
    assert run(made, "-c", config, "-o", out, "--model", model, "--repetitions", REPETITIONS, "--quiet") == 0
    return out


@pytest.fixture(scope="module")
def costs(profiled):
    return json.loads((profiled / "costs.json").read_text())


def test_nothing_but_the_report_and_its_figures_is_left(profiled):
    assert sorted(path.name for path in profiled.iterdir()) == ["costs.json", "costs.parquet", "plots", "report.html"]
    plots = sorted(path.name for path in (profiled / "plots").iterdir())
    assert plots == [f"{name}.png" for name in ("memory", "processing", "state", "storage", "time")]


def test_costs_say_what_was_measured_and_where(costs, made):
    assert costs["schema"] == 1
    assert costs["trace"]["names"] == [made.name]
    assert costs["trace"]["sha256"] == [hashlib.sha256(made.read_bytes()).hexdigest()]
    assert costs["trace"]["packets"] == costs["trace"]["measured_packets"] > 0
    assert costs["trace"]["lost_packets"] is None
    assert {"cpu", "cores", "kernel", "python", "numba", "trafficrefinery"} <= costs["machine"].keys()
    assert costs["repetitions"] == REPETITIONS


def test_each_class_has_state_processing_and_storage(costs):
    assert list(costs["classes"]) == COLLECT
    assert costs["configuration"]["not_measured"] == ["PacketSizes"]
    for one in costs["classes"].values():
        assert one["state_bytes"] > 0
        assert len(one["ns_per_packet"]["repetitions"]) == REPETITIONS
        batch = one["ns_per_packet_by_batch"]
        assert batch["min"] <= batch["p5"] <= batch["median"] <= batch["p95"] <= batch["p99"] <= batch["max"]
        assert batch["min"] <= batch["mean"] <= batch["max"]
        assert batch["mean"] == pytest.approx(one["ns_per_packet"]["value"])
        stored = one["storage"]
        assert stored["records"] == costs["trace"]["records"] == one["rows"]
        for form, size in stored["bytes"].items():
            assert stored["bytes_per_record"][form] == pytest.approx(size / stored["records"])
            assert stored["bytes_per_hour"][form] == pytest.approx(size * 3600 / costs["trace"]["seconds"])


def test_the_prediction_is_the_sum_of_its_parts(costs):
    end, shared = costs["end_to_end"], costs["shared"]
    of_packets = sum(one["ns_per_packet"]["value"] * one["packets"] for one in costs["classes"].values())
    of_rows = sum(one["collect_ns_per_flow"]["value"] * one["rows"] for one in costs["classes"].values())
    assert end["classes_ns"] == pytest.approx(of_packets / end["packets"])
    assert end["collect_ns"] == pytest.approx(of_rows / end["packets"])
    assert end["predicted_ns"] == pytest.approx(shared["total_ns"]["value"] + end["classes_ns"] + end["collect_ns"])
    assert end["predicted_to_measured"] == pytest.approx(end["predicted_ns"] / end["measured_ns"])
    assert end["within_margin"] == (abs(end["predicted_to_measured"] - 1) <= end["margin"] == 0.15)
    parts = sum(shared[name]["value"] for name in ("parse_ns", "names_ns", "call_ns")) + shared["lookup_ns"]
    assert parts == pytest.approx(shared["total_ns"]["value"]) or shared["lookup_ns"] == 0


def test_the_state_of_a_service_is_its_flows_times_the_state_of_one(costs):
    (service,) = costs["services"].values()
    flows, size = service["flows_at_interval_ends"], service["state_bytes_per_flow"]
    assert service["state_bytes_at_interval_ends"] == [count * size for count in flows]
    assert service["peak_state_bytes"] == max(flows) * size == costs["flow_cache"]["peak_state_bytes"]
    assert len(flows) == len(costs["flow_cache"]["interval_starts_s"])
    assert sum(count * times for count, times in service["sessions_by_flows"]) == sum(flows)
    assert size >= sum(costs["classes"][name]["state_bytes"] for name in service["classes"])


def test_a_model_has_its_time_size_and_latency(costs, profiled):
    (model,) = costs["models"]
    files = [path.stat().st_size for path in (profiled.parent / "by-size-resolution").iterdir()]
    assert model["bundle_bytes"] == sum(files) > model["model_bytes"] > 0
    assert model["waiting_s"] == 1.0
    assert model["training_s"] is None
    assert model["session_intervals"] == 0


def test_a_model_is_run_on_the_sessions_of_the_trace(sample_trace, tmp_path):
    if not sample_trace.exists():
        pytest.skip("there is no samples/video.pcap.zst")
    plan = Plan.of(load_config(configuration(tmp_path)))
    models = ModelRuns([model_bundles.write_bundle(tmp_path)], plan)
    for batch in TraceWalk(plan, [sample_trace], lambda *_: None).batches():
        models.take(batch)
    (costs,) = models.costs()
    assert costs.session_intervals > 20
    assert costs.one_us.value > 0
    assert costs.many_us.value > 0
    assert costs.latency_ms.max >= costs.latency_ms.median > 0


def test_the_table_has_every_single_figure(costs, profiled):
    rows = pq.read_table(profiled / "costs.parquet").to_pylist()
    of = {(row["part"], row["name"], row["figure"]): row for row in rows}
    found = of["classes", "VideoSegments", "ns_per_packet.value"]
    assert found["value"] == costs["classes"]["VideoSegments"]["ns_per_packet"]["value"]
    assert found["unit"] == "ns"
    assert (
        of["storage", "", "all_classes.bytes.parquet"]["value"] == costs["storage"]["all_classes"]["bytes"]["parquet"]
    )
    assert of["end_to_end", "", "measured_ns"]["unit"] == "ns"
    assert of["projection", "", "cores"]["value"] == costs["projection"]["cores"]
    assert not any(math.isnan(row["value"]) for row in rows if row["part"] != "models")


def test_netflow_is_what_a_real_exporter_and_collector_make(costs, made):
    for command, package in (("softflowd", None), ("nfcapd", "nfdump")):
        needs_command(command, package)
    found = costs["storage"]["netflow"]
    assert found["absent"] == ""
    assert found["records"] > 0
    assert found["bytes"] > 0
    assert found["lost"] == 0


def test_without_an_exporter_netflow_is_said_to_be_absent(made, tmp_path, monkeypatch):
    monkeypatch.setattr(netflow.shutil, "which", lambda *_, **__: None)
    found = netflow.netflow([str(made)], tmp_path)
    assert found.absent == "softflowd and nfcapd not installed (Debian: apt-get install softflowd nfdump)"


# The report.


def test_the_report_is_a_page(browser, profiled, tmp_path):
    text = pages.check(profiled / "report.html", "What these features cost")
    assert text.count("<svg") == 5
    pages.check_in_browser(browser, profiled / "report.html", tmp_path)


def test_a_browser_shows_all_figures_of_the_classes(browser, profiled, tmp_path, costs):
    text = browsers.opened(browser, profiled / "report.html", tmp_path, "--dump-dom").stdout
    for name, one in costs["classes"].items():
        assert f"<td>{name}</td><td>{one['state_bytes']}</td>" in text
    assert costs["trace"]["sha256"][0] in text
    assert costs["machine"]["kernel"] in text
    assert "Not measured" in text
    assert costs["projection"]["assumptions"][0] in text


# Output on the terminal, and bad input.


def test_tables_tell_what_was_measured(made, tmp_path, capsys):
    status = run(made, "-c", configuration(tmp_path), "-o", tmp_path / "out", "--repetitions", 3, "--link", "1Gbit/s")
    out = capsys.readouterr().out
    assert status == 0
    for words in (*COLLECT, "all together", "all that is shared", "Measured together: ", "to be expected", "pcap, headers only",
                  "At 1 Gbit/s of this traffic mix", f"report: {tmp_path / 'out' / 'report.html'}"):  # fmt: skip
        assert words in out


def refused(capsys, status, message, *arguments):
    assert run(*arguments) == status
    err = capsys.readouterr().err.removeprefix("compiling feature classes (first run only)...\n")
    assert re.fullmatch(f"error: {message}\n", err), err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "name traces, or an interface with --interface; not both"),
        (["a.pcap", "--interface", "lo"], "name traces, or an interface with --interface; not both"),
        (["a.pcap", "--duration", "5s"], "--duration: needs --interface"),
        (["--interface", "lo", "--duration", "5"], '--duration: "5" has no unit; .*'),
        (["a.pcap", "--link", "10"], '--link: "10" is not a rate; .*'),
        (["-"], "-: a trace is read several times, and a pipe can be read only once; give a file"),
        (["a.pcap", "--model", "none"], "--model: .*none.*"),
    ],
)
def test_wrong_options_are_refused_in_one_line(given, message, tmp_path, capsys):
    refused(capsys, 2, message, *given, "-c", configuration(tmp_path), "-o", tmp_path / "out")


def test_a_trace_without_packets_is_told(tmp_path, capsys):
    empty = traces.write_trace(tmp_path / "empty.pcap", [])
    message = f"{empty}: no packets"
    refused(capsys, 1, message, empty, "-c", configuration(tmp_path), "-o", tmp_path / "out")


def test_a_trace_without_a_packet_of_a_service_is_told(made, tmp_path, capsys):
    service = {"Name": "None", "Filter": {"DomainsString": ["none.invalid"]}, "Collect": COLLECT}
    config = configuration(tmp_path, Services=[service])
    message = f"{made}: no packet belongs to a service in {config}; `trafficrefinery names` lists .*"
    refused(capsys, 1, message, made, "-c", config, "-o", tmp_path / "out")


def test_a_file_that_is_no_trace_is_told(tmp_path, capsys):
    config = configuration(tmp_path)
    refused(capsys, 1, f"{config}: .*", config, "-c", config, "-o", tmp_path / "out")


def test_an_interface_that_does_not_exist_is_told(tmp_path, capsys):
    needs_root()
    arguments = ("--interface", "none0", "--duration", "1s", "-c", configuration(tmp_path), "-o", tmp_path / "out")
    refused(capsys, 2, '.*there is no interface "none0".*', *arguments)


def test_an_interface_without_traffic_is_told_and_leaves_nothing(wire, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("--interface", wire.far_name, "--duration", "300ms", "-c", configuration(tmp_path), "-o", out)
    with wire.far.inside():
        refused(capsys, 1, f"--interface: {wire.far_name}: no packet arrived in 0.3 s; .*", *arguments)
    assert list(out.iterdir()) == []


def test_live_packets_are_recorded_first_and_losses_told(wire, tmp_path, capsys):
    sent = each_padded([frame.data for frame in frames(5, 20) if len(frame.data) <= 1514])
    sender = threading.Timer(1.0, wire.send, [sent])
    sender.start()
    config = configuration(tmp_path, Capture={"RingSize": "4MiB", "BlockSize": "64KiB"})
    out = tmp_path / "out"
    with wire.far.inside():
        status = run("--interface", wire.far_name, "--duration", "3s", "-c", config, "-o", out, "--repetitions", 3)
    sender.join()
    assert status == 0, capsys.readouterr().err
    costs = json.loads((out / "costs.json").read_text())
    assert costs["trace"]["names"] == [f"live: {wire.far_name}"]
    assert costs["trace"]["packets"] == len(sent)
    assert costs["trace"]["lost_packets"] == 0
    assert sorted(path.name for path in out.iterdir()) == ["costs.json", "costs.parquet", "plots", "report.html"]
