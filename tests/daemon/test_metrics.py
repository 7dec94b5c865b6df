"""Metrics: each of the table is exposed, under its labels, with what the board says."""

from __future__ import annotations

import os
import re
import subprocess
import time

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from support import boards
from support.monitoring_tools import required
from trafficrefinery.daemon.metrics import METRICS, Running, exposed_name, metrics_page, not_ready, registry_of
from trafficrefinery.daemon.status import READY, STARTING, STOPPED
from trafficrefinery.engine.counters import COUNTED_BESIDE
from trafficrefinery.engine.partition import COUNTERS

DROPS = {"eth1": {"rx_missed_errors": 3, "rx_dropped": 4}}
ALLOWED_LABELS = {"worker", "service", "class", "reason", "sink", "process", "interface", "target", "value", "kind"}

VALUES = """
    packets_total{worker="0"} 1+packets
    packets_total{worker="1"} 2+packets
    bytes_total{worker="0"} 1+wire_bytes
    attributed_packets_total{worker="0"} 1+attributed
    unattributed_packets_total{worker="0",reason="malformed"} 1+malformed
    unattributed_packets_total{worker="1",reason="no_service"} 2+no_service
    waiting_packets{worker="0"} 1+waiting_for_service
    late_packets_total{worker="0"} 1+late_packets
    received_packets_total{worker="0"} 104
    kernel_drops_total{worker="1"} 205
    ring_freezes_total{worker="0"} 106
    oversized_frames_total{worker="0"} 107
    duplicate_frames_total{worker="0"} 108
    interface_drops_total{interface="eth1",reason="rx_missed_errors"} 3
    interface_drops_total{interface="eth1",reason="rx_dropped"} 4
    worker_cpu_seconds_total{worker="0"} 103e-9
    flows_active{worker="0"} 100
    flow_memory_bytes{worker="0"} 101
    flows_created_total{worker="0"} 1+flows_new
    flows_evicted_total{worker="0",reason="idle"} 1+flows_evicted_idle
    flows_evicted_total{worker="0",reason="capacity"} 1+flows_evicted_at_capacity
    flows_refused_total{worker="0"} 1+flow_cache_full
    fragments_forgotten_total{worker="0"} 1+fragments_forgotten
    first_packets_given_up_total{worker="0"} 1+first_packets_given_up
    rows_split_total{worker="0"} 1+rows_split
    worker_service_map_entries{worker="0"} 102
    snapshots_waiting_bytes{worker="1"} 4001
    dropped_rows_total{worker="0"} 109
    service_map_entries 70
    dns_packets_total 71
    dns_drops_total 72
    quic_attempts_total{process="worker0"} 1*quic_attempts
    names_refused_total{process="worker1"} 2*names_refused
    addresses_replaced_total{process="names"} 3*addresses_replaced
    dns_streams_evicted_total{process="names"} 3*dns_streams_evicted
    hellos_evicted_total{process="worker0"} 1*hellos_evicted
    quic_over_budget_total{worker="0"} 1+quic_over_budget
    dns_messages_total 73
    dns_malformed_total 74
    dns_unasked_answers_total 75
    dns_one_sided_answers_total 76
    dns_over_budget_total 77
    encrypted_dns_flows_total{worker="0",kind="doq"} 1+doq_flows
    service_packets_total{service="Netflix"} 11
    service_bytes_total{service="Netflix"} 10000
    service_flows_active{service="Netflix"} 40
    service_throughput_bytes_per_second{service="Netflix"} 1000000
    service_records_total{service="Netflix"} 50
    service_names{service="Netflix"} 60
    feature_class_seconds_per_packet{worker="0",class="TCPCounters"} 12.5e-9
    feature_class_state_bytes{class="PacketCounters"} 32
    intervals_total 81
    incomplete_intervals_total 82
    interval_latency_seconds_bucket{le="0.01"} 0
    interval_latency_seconds_bucket{le="0.05"} 3
    interval_latency_seconds_bucket{le="+Inf"} 55
    interval_latency_seconds_count 55
    interval_latency_seconds_sum 44.5
    records_total 83
    unpublished_intervals_total 84
    sessions_started_total 930
    sessions_ended_total 931
    sessions_refused_total 932
    sessions_open 934
    inferred_sessions{service="Netflix",target="resolution",value="480"} 1
    inferred_sessions{service="Netflix",target="resolution",value="720"} 2
    inferred_sessions_abstained{service="Netflix",target="resolution"} 3
    inferred_sessions_not_playing{service="Netflix",target="resolution"} 7
    inferred_quantity{service="Netflix",target="startup"} 1.5
    inferences_total 941
    inferences_abstained_total 942
    inference_confidence_bucket{le="0.4"} 1
    inference_confidence_bucket{le="+Inf"} 45
    inference_confidence_sum 33.5
    inference_latency_seconds_bucket{le="0.05"} 3
    inference_latency_seconds_sum 45.5
    inference_drift_score 0.125
    inference_dropped_intervals_total 933
    inference_waiting_bytes 6000
    unpublished_inferences_total 943
    sink_records_total{sink="jsonl"} 900
    sink_dropped_records_total{sink="nats"} 911
    sink_waiting_bytes{sink="nats"} 921
    sink_failing{sink="jsonl"} 0
    ready 1
    process_ready{process="worker1"} 1
    process_restarts_total{process="supervisor"} 10
    process_restarts_total{process="names"} 11
    process_restarts_total{process="aggregator"} 12
    process_restarts_total{process="worker1"} 14
    config_last_reload_successful 1
    config_last_reload_timestamp_seconds 1700000000
    config_reloads_total 32
    config_reload_failures_total 0
    clock_steps_total 31
"""
BESIDE = [counter.name for counter in COUNTED_BESIDE]


def expected() -> str:
    """VALUES, where `2+name` is what `boards.filled` has for a counter of the second worker, `3*name` for one beside."""
    text = re.sub(r"(\d)\+(\w+)", lambda m: str(1000 * int(m[1]) + COUNTERS.index(m[2])), VALUES)
    text = re.sub(r"(\d)\*(\w+)", lambda m: str(2000 * int(m[1]) + BESIDE.index(m[2])), text)
    return re.sub(r"(?m)^ +(?=.)", "trafficrefinery_", text)


def exposed(running, drops=DROPS) -> str:
    return generate_latest(registry_of(lambda: running, lambda: drops)).decode()


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    return boards.running(boards.plan(OutFolder=str(tmp_path_factory.mktemp("out"))))


@pytest.fixture(scope="module")
def found(running):
    return samples(exposed(running))


def test_values_of_the_board_stand_under_the_right_labels(found):
    for (name, labels), value in samples(expected()).items():
        assert found[name, labels] == pytest.approx(value), (name, labels)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_of_the_table_is_exposed_with_its_labels(found, metric):
    name = exposed_name(metric)
    own = [labels for sample, labels in found if sample in (name, f"{name}_count")]
    assert own
    assert all(tuple(sorted(metric.labels)) == tuple(label for label, _ in labels) for labels in own)


def test_nothing_is_exposed_that_is_not_in_the_table(running):
    names = set(re.findall(r"(?m)^# TYPE (\S+)", exposed(running)))
    assert names == {exposed_name(metric) for metric in METRICS}


def test_labels_take_values_from_lists_that_are_bounded():
    for metric in METRICS:
        assert metric.kind == "info" or set(metric.labels) <= ALLOWED_LABELS, metric.name


def test_promtool_finds_nothing_wrong_with_the_metrics(running):
    checked = subprocess.run(
        [required("promtool"), "check", "metrics"], input=exposed(running), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_service_names_are_escaped(running):
    assert r'service_names{service="a \"quoted\" \\ one"} 61.0' in exposed(running)


def test_the_page_of_metrics_is_current(root):
    page = (root / "systemd" / "monitoring" / "README.md").read_text()
    update = "put the output of `python -c 'from trafficrefinery.daemon.metrics import *; print(metrics_page())'` there"
    assert page.endswith(metrics_page()), update


def test_what_runs_in_a_process_is_read_from_proc(found):
    cpu_s = sum(os.times()[:2])
    labels = (("process", "worker0"),)
    assert 0 < found["trafficrefinery_process_cpu_seconds_total", labels] <= cpu_s + 0.1
    assert found["trafficrefinery_process_resident_memory_bytes", labels] > 10_000_000


def test_a_process_that_is_gone_has_no_cpu_time_and_the_others_are_still_told():
    running = boards.running()
    running.board.workers[0]["pid"] = 2**22 + 1  # above the highest that Linux gives
    found = samples(exposed(running))
    assert ("trafficrefinery_process_cpu_seconds_total", (("process", "worker0"),)) not in found
    assert ("trafficrefinery_process_cpu_seconds_total", (("process", "worker1"),)) in found


def test_sinks_that_are_off_are_left_out(found):
    assert {labels for name, labels in found if name == "trafficrefinery_sink_failing"} == {
        (("sink", "jsonl"),),
        (("sink", "nats"),),
    }


def test_a_cost_that_was_not_sampled_is_left_out():
    running = boards.running()
    running.board.workers["class_ns"] = np.nan
    assert "seconds_per_packet{" not in exposed(running)


def test_free_space_is_left_out_while_the_folder_is_missing(tmp_path, running, found):
    assert found["trafficrefinery_output_free_bytes", ()] <= found["trafficrefinery_output_size_bytes", ()]
    missing = boards.running(boards.plan(OutFolder=str(tmp_path / "none")))
    assert ("trafficrefinery_output_free_bytes", ()) not in samples(exposed(missing))


def test_a_new_board_is_read_from_the_next_scrape_on():
    first, second = boards.running(), boards.running()
    second.board.aggregator["records_total"] = 7
    current = [first]
    registry = registry_of(lambda: current[0])
    before = samples(generate_latest(registry).decode())
    current[0] = second
    after = samples(generate_latest(registry).decode())
    assert (before["trafficrefinery_records_total", ()], after["trafficrefinery_records_total", ()]) == (83, 7)


def test_the_last_reload_is_successful_until_one_was_refused():
    running = boards.running()
    supervisor = running.board.supervisor
    for ok, failures, told in ((0, 0, 1), (0, 1, 0), (1, 1, 1)):
        supervisor["last_reload_ok"], supervisor["reload_failures_total"] = ok, failures
        assert samples(exposed(running))["trafficrefinery_config_last_reload_successful", ()] == told


HANG_NS = 10_000_000_000


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("state", STARTING, "worker1: starting"),
        ("state", STOPPED, "worker1: stopped"),
        ("beat_ns", -HANG_NS // 2 * 5, "worker1: no sign of life for 25.0 s"),
    ],
)
def test_one_process_that_is_not_at_work_makes_the_daemon_not_ready(field, value, reason):
    now_ns = time.monotonic_ns()
    board = boards.filled(boards.plan())
    for record in (board.names, board.aggregator, board.inference, *board.workers):
        record["beat_ns"] = now_ns
    assert not_ready(board, HANG_NS, now_ns) == []
    board.workers[1][field] = value if field == "state" else now_ns + value
    assert not_ready(board, HANG_NS, now_ns) == [reason]


def test_without_models_nothing_is_told_of_inference():
    running = boards.running()
    running.board.inference["pid"] = 0
    text = exposed(running)
    assert 'process="inference"' not in text
    assert not [name for name, _ in samples(text) if "inference" in name or "session" in name]


def test_a_drift_that_is_not_known_yet_is_left_out():
    running = boards.running()
    running.board.inference["drift"] = np.nan
    assert "trafficrefinery_inference_drift_score" not in {name for name, _ in samples(exposed(running))}


def test_a_daemon_that_needs_no_names_is_ready_without_that_process():
    board = boards.filled(boards.plan())
    board.names["pid"], board.names["state"] = 0, STARTING
    assert not_ready(board, HANG_NS, time.monotonic_ns()) == []
    assert 'process="names"' not in exposed(Running(board, boards.plan()))
    assert board.workers[0]["state"] == READY


FRAGMENTS = re.compile(r"(Of|From|Since|With|And|Which|These|Them)\b")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_help_of_a_metric_stands_on_its_own(metric):
    """It has a subject, refers to no other metric, and ends as a sentence does."""
    assert re.match(r"[A-Z1]", metric.help)
    assert not FRAGMENTS.match(metric.help)
    assert not re.search(r"\b(these|told)\b|  |_|\.\.|[ ,:;]\.$", metric.help)
    assert metric.help.endswith(".")
    assert metric.help.count("(") == metric.help.count(")")
