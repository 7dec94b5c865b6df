"""Boards as a running daemon fills them, and an interval of records, for tests of what shows them."""

from __future__ import annotations

import os
import time

import numpy as np
import pyarrow as pa

from trafficrefinery.config import parse_config
from trafficrefinery.daemon.metrics import Running
from trafficrefinery.daemon.status import CONFIDENCE_BUCKETS, LATENCY_BUCKETS_S, READY, Answers, Board, class_names
from trafficrefinery.engine.counters import COUNTED_BESIDE
from trafficrefinery.engine.partition import COUNTERS
from trafficrefinery.engine.plan import Plan
from trafficrefinery.records.inferences import inference_schema
from trafficrefinery.records.schema import SCHEMA
from trafficrefinery.records.sinks.files import parquet_schema

WORKERS = 2
SERVICES = ("Netflix", 'a "quoted" \\ one')
END_S = 1_700_000_000.0
LABELS = ("480", "720")
ANSWERS = Answers.of({"resolution": LABELS, "startup": ()})


def plan(**sections) -> Plan:
    services = [
        {"Name": SERVICES[0], "Filter": {"DomainsString": ["netflix.com"]}, "Collect": ["PacketCounters"]},
        {"Name": SERVICES[1], "Filter": {"Prefixes": ["::/0"]}, "Collect": ["PacketCounters", "TCPCounters"]},
    ]
    sinks = {"JSONLines": {"Enabled": True}, "NATS": {"Enabled": True}}
    return Plan.of(parse_config({"Sensor": "s", "Sinks": sinks, **sections, "Services": services}))


def filled(of: Plan, workers: int = WORKERS) -> Board:
    """A board of a daemon at work; each figure differs from the others."""
    board = Board(of, workers, ANSWERS)
    processes = (board.supervisor, board.names, board.aggregator, *board.workers, board.inference)
    for number, record in enumerate(processes):
        record["pid"], record["state"], record["beat_ns"] = os.getpid(), READY, time.monotonic_ns()
        record["restarts_total"] = 10 + number
    for number, worker in enumerate(board.workers):
        worker["counters"] = [1000 * (number + 1) + index for index in range(len(COUNTERS))]
        own = [name for name in worker.dtype.names if name.endswith("_total") and name != "restarts_total"]
        for index, name in enumerate(["flows_active", "flow_bytes", "names", "cpu_ns", *own]):
            worker[name] = 100 * (number + 1) + index
        worker["sent_bytes"], worker["taken_bytes"] = 5000 + number, 1000
        worker["service_packets"], worker["service_bytes"] = [5 + number, 6], [5000, 6000 + number]
        worker["class_ns"][: len(class_names(of))] = 12.5
    for number, record in enumerate((*board.workers, board.names)):
        record["counted_beside"] = [2000 * (number + 1) + index for index in range(len(COUNTED_BESIDE))]
    names = [name for name in board.names.dtype.names if name.endswith("_total") and name != "restarts_total"]
    for index, name in enumerate(["entries", *names]):
        board.names[name] = 70 + index
    aggregator = board.aggregator
    aggregator["intervals_total"], aggregator["incomplete_total"], aggregator["records_total"] = 81, 82, 83
    aggregator["unpublished_total"] = 84
    aggregator["latency"] = range(len(LATENCY_BUCKETS_S) + 1)
    aggregator["latency_sum_s"] = 44.5
    for number in range(len(board.sinks)):
        aggregator["sinks"][number] = (900 + number, 910 + number, 920 + number, 0)
    names = ("sessions_started", "sessions_ended", "sessions_refused", "inference_dropped")
    for number, name in enumerate(names):
        aggregator[f"{name}_total"] = 930 + number
    aggregator["sessions_open"] = 934
    inference = board.inference
    inference["inferences_total"], inference["abstained_total"], inference["unpublished_total"] = 941, 942, 943
    inference["confidence"], inference["confidence_sum"] = range(len(CONFIDENCE_BUCKETS) + 1), 33.5
    inference["latency"], inference["latency_sum_s"] = range(len(LATENCY_BUCKETS_S) + 1), 45.5
    inference["drift"] = 0.125
    board.inferred[:] = [((1, 2), (3, 0), (7, 0), (np.nan, 1.5)), ((4, 5), (6, 0), (0, 0), (np.nan, np.nan))]
    board.to_inference["sent_bytes"], board.to_inference["taken_bytes"] = 7000, 1000
    board.supervisor["clock_steps_total"], board.supervisor["reloads_total"] = 31, 32
    board.supervisor["last_reload_ns"], board.supervisor["last_reload_ok"] = int(END_S * 1e9), 1
    for number in range(len(SERVICES)):
        board.services[number] = (40 + number, 50 + number, 8e6 * (number + 1), 60 + number)
    return board


def running(of: Plan | None = None) -> Running:
    of = of or plan()
    return Running(filled(of), of)


def flow_table(of: Plan, flows: int, end_s: float = END_S, interval_s: float = 10.0, service: str | None = None):
    """Records of an interval; flow i has client 10.0.0.(i mod 5), or 2001:db8::1 for every seventh."""
    schema = parquet_schema(of)
    rows = []
    for number in range(flows):
        name = service or SERVICES[number % 2]
        row = dict.fromkeys(schema.names)
        row |= {
            "schema": SCHEMA, "kind": "flow", "sensor": "s", "ts_start": end_s - interval_s, "ts_end": end_s,
            "service": name, "matched_by": "dns", "domain": None, "protocol": "tcp",
            "client_ip": "2001:db8::1" if number % 7 == 0 else f"10.0.0.{number % 5}", "client_port": number,
            "server_ip": f"192.0.2.{number % 3}", "server_port": 443, "flow_id": f"{number:016x}",
            "flow_start": end_s - 5.0, "PacketCounters.packets_up": number, "PacketCounters.bytes_up": 10 * number,
            "PacketCounters.bytes_down": 1000,
        }  # fmt: skip
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema)


def inference_table(sessions: int, end_s: float = END_S) -> pa.Table:
    """Inference records of an interval: of each third session the resolution is not known."""
    rows = [
        {"schema": SCHEMA, "kind": "inference", "ts_start": end_s - 10, "ts_end": end_s, "service": SERVICES[number % 2],
         "client_ip": f"10.0.0.{number % 5}", "unit": "session", "session_id": f"{number:016x}",
         "target": "resolution", "value": None if number % 3 == 2 else LABELS[number % 2], "measured_in": "p",
         "confidence": 0.875, "why": "confidence" if number % 3 == 2 else None,
         "probabilities.480": 0.125 + 0.75 * (number % 2 == 0), "probabilities.720": 0.125 + 0.75 * (number % 2),
         "drift": 0.0, "model": "m@0123"}
        for number in range(sessions)
    ]  # fmt: skip
    delay = {**rows[0], "target": "startup", "value": None, "quantity": 1.5, "measured_in": "s", "confidence": None}
    delay |= {f"probabilities.{label}": None for label in LABELS}
    return pa.Table.from_pylist([rows[0], delay, *rows[1:]], schema=inference_schema(LABELS))


def summary(end_s: float = END_S):
    return {"schema": SCHEMA, "kind": "interval", "sensor": "s", "ts_start": end_s - 10, "ts_end": end_s, "packets": 7}
