"""Every metric: name, kind, help, labels, and where its values are read.

Names follow the conventions of Prometheus: base units, `_total` for what only grows. Labels take values from the
configuration and from lists in the code only, never from traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from trafficrefinery.daemon.status import CONFIDENCE_BUCKETS, LATENCY_BUCKETS_S, READY
from trafficrefinery.engine.counters import COUNTED_BESIDE
from trafficrefinery.engine.partition import COUNTER_HELP
from trafficrefinery.packets.parser import REASONS

from . import reading
from .health import heartbeat_age_s
from .reading import OfCounters, Read

PREFIX = "trafficrefinery_"


class Metric(NamedTuple):
    """One metric; its full name is PREFIX + name."""

    name: str
    kind: Literal["counter", "gauge", "histogram", "info"]
    help: str
    labels: tuple[str, ...]
    read: Read


_WORKER, _SERVICE, _SINK, _PROCESS = ("worker",), ("service",), ("sink",), ("process",)
_UNATTRIBUTED = {reason: reason for reason in REASONS if reason != "attributed"}

_CHOSEN: tuple[Metric, ...] = (
    Metric("packets_total", "counter", COUNTER_HELP["packets"], _WORKER, reading.of_counter("packets")),
    Metric("bytes_total", "counter", COUNTER_HELP["wire_bytes"], _WORKER, reading.of_counter("wire_bytes")),
    Metric("attributed_packets_total", "counter", "Packets counted for a service.", _WORKER,
           reading.of_counter("attributed")),
    Metric("unattributed_packets_total", "counter", "Packets that belong to no flow of a service, by reason.",
           ("worker", "reason"), reading.by_reason(_UNATTRIBUTED)),
    Metric("waiting_packets", "gauge", COUNTER_HELP["waiting_for_service"], _WORKER,
           reading.of_counter("waiting_for_service")),
    Metric("late_packets_total", "counter", COUNTER_HELP["late_packets"],
           _WORKER, reading.of_counter("late_packets")),
    Metric("received_packets_total", "counter", "Packets that the kernel wrote to the ring.", _WORKER,
           reading.of_workers("received_total")),
    Metric("kernel_drops_total", "counter", "Packets that the kernel dropped because the ring was full.", _WORKER,
           reading.of_workers("kernel_drops_total")),
    Metric("ring_freezes_total", "counter", "Times that the ring was full.", _WORKER,
           reading.of_workers("ring_freezes_total")),
    Metric("oversized_frames_total", "counter", "Frames larger than the link allows: merged by a receive offload.",
           _WORKER, reading.of_workers("oversized_total")),
    Metric("duplicate_frames_total", "counter", "Frames that a mirror port delivered twice.", _WORKER,
           reading.of_workers("duplicates_total")),
    Metric("interface_drops_total", "counter", "Packets that the interface dropped, as its driver counts them.",
           ("interface", "reason"), reading.interface_drops),
    Metric("worker_cpu_seconds_total", "counter", "User and system time of the packet loop's process.", _WORKER,
           reading.worker_cpu_s),
    Metric("flows_active", "gauge", "Flows in the cache.", _WORKER, reading.of_workers("flows_active")),
    Metric("flow_memory_bytes", "gauge", "Headers and feature states of the active flows.", _WORKER,
           reading.of_workers("flow_bytes")),
    Metric("flows_created_total", "counter", COUNTER_HELP["flows_new"], _WORKER, reading.of_counter("flows_new")),
    Metric("flows_evicted_total", "counter", "Flows that ended, by reason: idle, or capacity (the cache was full).",
           ("worker", "reason"),
           reading.by_reason({"idle": "flows_evicted_idle", "capacity": "flows_evicted_at_capacity"})),
    Metric("flows_refused_total", "counter", "Packets whose new flow found the cache full and was refused.", _WORKER,
           reading.of_counter("flow_cache_full")),
    Metric("fragments_forgotten_total", "counter", COUNTER_HELP["fragments_forgotten"], _WORKER,
           reading.of_counter("fragments_forgotten")),
    Metric("first_packets_given_up_total", "counter", COUNTER_HELP["first_packets_given_up"],
           _WORKER, reading.of_counter("first_packets_given_up")),
    Metric("rows_split_total", "counter", COUNTER_HELP["rows_split"], _WORKER, reading.of_counter("rows_split")),
    Metric("worker_service_map_entries", "gauge", "Server addresses that the worker knows.", _WORKER,
           reading.of_workers("names")),
    Metric("snapshots_waiting_bytes", "gauge", "Size of rows that wait for the aggregator.", _WORKER,
           reading.waiting_snapshots),
    Metric("dropped_rows_total", "counter", "Rows dropped because too much waited for the aggregator.", _WORKER,
           reading.of_workers("dropped_rows_total")),
    Metric("refused_rows_total", "counter", "Rows dropped because too many waited in the aggregator.", _WORKER,
           reading.of_workers("refused_rows_total")),
    Metric("service_map_entries", "gauge", "Server addresses known from DNS.", (), reading.of_names("entries")),
    Metric("dns_packets_total", "counter", "DNS packets captured.", (), reading.of_names("packets_total")),
    Metric("dns_drops_total", "counter", "DNS packets that the kernel dropped.", (), reading.of_names("drops_total")),
    Metric("dns_messages_total", "counter", "DNS messages read.", (), reading.of_names("messages_total")),
    Metric("dns_malformed_total", "counter", "DNS messages that could not be read.", (),
           reading.of_names("malformed_total")),
    Metric("dns_unasked_answers_total", "counter",
           "DNS answers without a matching query; they are not used for names.", (),
           reading.of_names("unasked_total")),
    Metric("dns_one_sided_answers_total", "counter",
           "DNS answers used without a query because no queries are seen.", (),
           reading.of_names("one_sided_total")),
    Metric("dns_over_budget_total", "counter", "DNS packets not read in full because too many were unusual.", (),
           reading.of_names("over_budget_total")),
    Metric("encrypted_dns_flows_total", "counter", "Flows of DNS over TLS, QUIC or HTTPS, whose names are not seen.",
           ("worker", "kind"), reading.by_reason({"dot": "dot_flows", "doq": "doq_flows", "doh": "doh_flows"})),
    Metric("dns_forgotten_addresses_total", "counter",
           "Addresses dropped from the log that restarted workers read.", (),
           reading.of_names("forgotten_total")),
    Metric("service_packets_total", "counter", "Packets of the service.", _SERVICE,
           reading.of_services(lambda board: board.workers["service_packets"].sum(axis=0))),
    Metric("service_bytes_total", "counter", "Bytes of the service, IP total length.", _SERVICE,
           reading.of_services(lambda board: board.workers["service_bytes"].sum(axis=0))),
    Metric("service_flows_active", "gauge", "Flows of the service with packets in the last closed interval.",
           _SERVICE, reading.of_services(lambda board: board.services["flows_active"])),
    Metric("service_throughput_bytes_per_second", "gauge", "Throughput of the service in the last closed interval.",
           _SERVICE, reading.of_services(lambda board: board.services["bits_per_s"] / 8)),
    Metric("service_records_total", "counter", "Records of the service.", _SERVICE,
           reading.of_services(lambda board: board.services["records_total"])),
    Metric("service_names", "gauge", "Names of servers seen for the service.", _SERVICE,
           reading.of_services(lambda board: board.services["names"])),
    Metric("feature_class_seconds_per_packet", "gauge", "Processing cost of a feature class, from samples.",
           ("worker", "class"), reading.class_cost_s),
    Metric("feature_class_errors_total", "counter",
           "Calls of a feature class that ended with an error: its figures are wrong.", ("worker", "class"),
           reading.class_errors),
    Metric("feature_class_state_bytes", "gauge", "State of a feature class in one flow.", ("class",),
           reading.class_state_bytes),
    Metric("intervals_total", "counter", "Intervals closed and written.", (), reading.of_aggregator("intervals_total")),
    Metric("incomplete_intervals_total", "counter",
           "Intervals with lost packets, a missing interface, a restarted worker or dropped rows.", (),
           reading.of_aggregator("incomplete_total")),
    Metric("interval_latency_seconds", "histogram", "Time from the close of an interval until it is written.", (),
           reading.interval_latency),
    Metric("records_total", "counter", "Records written.", (), reading.of_aggregator("records_total")),
    Metric("unpublished_intervals_total", "counter",
           "Intervals missing from the query interface because it was busy.", (),
           reading.of_aggregator("unpublished_total")),
    Metric("sessions_started_total", "counter", "Video sessions that started.", (),
           reading.of_sessions("sessions_started_total")),
    Metric("sessions_ended_total", "counter", "Video sessions that ended.", (),
           reading.of_sessions("sessions_ended_total")),
    Metric("sessions_refused_total", "counter", "Video sessions refused because Sessions.MaxSessions were open.", (),
           reading.of_sessions("sessions_refused_total")),
    Metric("sessions_open", "gauge", "Video sessions that are open.", (), reading.of_sessions("sessions_open")),
    Metric("inferred_sessions", "gauge",
           "Sessions, flows or clients of the last interval by target and inferred label.",
           ("service", "target", "value"), reading.with_models(reading.inferred_sessions)),
    Metric("inferred_sessions_abstained", "gauge",
           "Sessions, flows or clients of the last interval for which the model of the target abstained.",
           ("service", "target"), reading.with_models(reading.of_targets("abstained"))),
    Metric("inferred_sessions_not_playing", "gauge",
           "Sessions of the last interval in which nothing was played, so that the target has no answer.",
           ("service", "target"), reading.with_models(reading.of_targets("not_playing"))),
    Metric("inferred_quantity", "gauge",
           "Mean over the sessions, flows or clients of the last interval of an inferred quantity, in its unit.",
           ("service", "target"), reading.with_models(reading.of_targets("quantity"))),
    Metric("inferences_total", "counter",
           "Inference records: of a session, flow or client, an interval and a target each.", (),
           reading.of_inference("inferences_total")),
    Metric("inferences_abstained_total", "counter",
           "Inference records in which the model abstained.", (),
           reading.of_inference("abstained_total")),
    Metric("inference_confidence", "histogram", "Probability of the most likely label.", (),
           reading.inference_histogram("confidence", "confidence_sum", CONFIDENCE_BUCKETS)),
    Metric("inference_latency_seconds", "histogram",
           "Time from the close of an interval until its inferences are made.", (),
           reading.inference_histogram("latency", "latency_sum_s", LATENCY_BUCKETS_S)),
    Metric("inference_drift_score", "gauge",
           "Population stability index of the latest features against the training data; above 0.25 is large.", (),
           reading.with_models(reading.inference_drift)),
    Metric("inference_dropped_intervals_total", "counter",
           "Intervals without inferences because too many were waiting or the inference worker died.", (),
           reading.of_sessions("inference_dropped_total")),
    Metric("inference_waiting_bytes", "gauge", "Size of what waits for the inference worker.", (),
           reading.with_models(reading.waiting_for_inference)),
    Metric("unpublished_inferences_total", "counter",
           "Intervals whose inferences are missing from the query interface.", (),
           reading.of_inference("unpublished_total")),
    Metric("sink_records_total", "counter", "Records written by the sink.", _SINK, reading.of_sinks("records_total")),
    Metric("sink_dropped_records_total", "counter", "Records that the sink lost.", _SINK,
           reading.of_sinks("dropped_total")),
    Metric("sink_waiting_bytes", "gauge", "Size of records that wait for the sink's server or disk.", _SINK,
           reading.of_sinks("waiting_bytes")),
    Metric("sink_failing", "gauge", "1 while the sink cannot write, else 0.", _SINK, reading.of_sinks("failing")),
    Metric("output_free_bytes", "gauge", "Free space where OutFolder is.", (),
           reading.output_space_bytes(lambda space: space.f_bavail)),
    Metric("output_size_bytes", "gauge", "Size of the file system where OutFolder is.", (),
           reading.output_space_bytes(lambda space: space.f_blocks)),
    Metric("ready", "gauge", "1 while all processes are ready and responding, else 0.", (), reading.ready),
    Metric("process_ready", "gauge", "1 while the process is ready, else 0.", _PROCESS,
           reading.of_processes(lambda record, _: record["state"] == READY)),
    Metric("process_heartbeat_age_seconds", "gauge", "Time since the last heartbeat of the process.", _PROCESS,
           reading.of_processes(lambda record, s: heartbeat_age_s(record, s.now_ns) if record["beat_ns"] else None)),
    Metric("process_restarts_total", "counter", "Restarts of a process that died or hung.", _PROCESS,
           reading.of_processes(lambda record, _: record["restarts_total"])),
    Metric("process_cpu_seconds_total", "counter", "User and system time.", _PROCESS,
           reading.of_processes(reading.cpu_s)),
    Metric("process_resident_memory_bytes", "gauge", "Resident memory; shared pages count in every process.",
           _PROCESS, reading.of_processes(reading.resident_bytes)),
    Metric("config_last_reload_successful", "gauge", "1 unless the last reload failed.", (),
           reading.last_reload_ok),
    Metric("config_last_reload_timestamp_seconds", "gauge", "When the configuration was last reloaded.", (),
           reading.last_reload_s),
    Metric("config_reloads_total", "counter", "Successful reloads of the configuration.", (),
           reading.of_supervisor("reloads_total")),
    Metric("config_reload_failures_total", "counter", "Failed reloads of the configuration.", (),
           reading.of_supervisor("reload_failures_total")),
    Metric("clock_steps_total", "counter", "Times that the time of day was set back.", (),
           reading.of_supervisor("clock_steps_total")),
    Metric("build", "info", "Versions, and how feature classes run (jit: on, boundscheck, off).",
           ("version", "python", "numba", "jit"), reading.build),
)  # fmt: skip


def _others() -> Iterator[Metric]:
    """A metric for each counter that has none of its own above."""
    shown = {name for one in _CHOSEN if isinstance(one.read, OfCounters) for name in one.read.counter_of.values()}
    named = {one.name for one in _CHOSEN}  # of the DNS process
    for name, help_ in COUNTER_HELP.items():
        if name not in shown:
            prefix = "worker_" if f"{name}_total" in named else ""
            yield Metric(f"{prefix}{name}_total", "counter", help_, _WORKER, reading.of_counter(name))
    for index, counter in enumerate(COUNTED_BESIDE):
        yield Metric(f"{counter.name}_total", "counter", counter.help, _PROCESS, reading.counted_beside(index))


COUNTED = tuple(_others())
"""Metrics of counters that need no choice: see `counters` for how a counter is declared."""
METRICS: tuple[Metric, ...] = (*_CHOSEN, *COUNTED)
