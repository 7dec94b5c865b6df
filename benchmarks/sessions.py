"""Records of flows to features of sessions, and to what models say of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import polars as pl
from measure import Figure, Report, Sample, interleaved, other_processes, rates

from trafficrefinery.config import parse_config
from trafficrefinery.config.paths import models_dir
from trafficrefinery.engine.feature_classes.fields import output_fields
from trafficrefinery.engine.plan import Plan
from trafficrefinery.models.inference import Predictor, load_bundle
from trafficrefinery.models.sessions import SessionView
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.inferences import inference_lines

SESSIONS, FEW, FLOWS = 10_000, 1_000, 4
ONE_CORE = {"POLARS_MAX_THREADS": "1"}
CLASSES = ["PacketCounters", "PacketTimes", "TCPCounters", "LatencyCounters", "VideoSegments", "FirstSeconds"]


def session_view(report: Report, directory: Path, repetitions: int, divide: int) -> None:  # noqa: ARG001 (no trace)
    """An interval of sessions with four flows each, and the bundled models on it; on one core."""
    with other_processes(1, ONE_CORE) as pool:
        features, models = pool.submit(measured, repetitions, divide).result()
    amount = SESSIONS / divide / 1e3
    report.add(rates("features of sessions of four flows", "k/s", amount, features, at_least=100))
    for name, (many, few) in models.items():
        report.add(
            rates(f"inferences, model {name}", "k/s", amount, many, at_least=100),
            Figure(f"inferences of 1,000 sessions, model {name}", "ms", [s.wall_s * 1e3 for s in few],
                   [s.cpu_s * 1e3 for s in few], at_most=50),
        )  # fmt: skip


def measured(repetitions: int, divide: int) -> tuple[list[Sample], dict[str, tuple[list[Sample], list[Sample]]]]:
    """In a process of its own, bound to one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    service = {"Name": "Video", "Filter": {"DomainsString": ["video.example"]}, "Collect": CLASSES}
    plan = Plan.of(parse_config({"Services": [service]}))
    view = SessionView(plan)
    batch, intervals = batch_of(plan, SESSIONS // divide), iter(range(1, 1 << 30))
    first = view.add(batch)
    assert first is not None
    tables = {"many": first, "few": first.slice(0, max(FEW // divide, 1))}

    def features() -> Sample:
        moved = at_interval(batch, next(intervals))
        wall, cpu = time.perf_counter(), time.process_time()
        view.add(moved)
        return Sample(time.perf_counter() - wall, time.process_time() - cpu)

    def inferences(predictor: Predictor, size: str) -> Sample:
        wall, cpu = time.perf_counter(), time.process_time()
        inference_lines(predictor.predict(tables[size]))
        return Sample(time.perf_counter() - wall, time.process_time() - cpu)

    models = {}
    for folder in sorted(path for path in models_dir().glob("*") if path.is_dir()):
        predictor = Predictor([load_bundle(folder)])
        found = interleaved(
            {size: lambda size=size, predictor=predictor: inferences(predictor, size) for size in tables}, repetitions
        )
        models[folder.name] = found["many"], found["few"]
    return interleaved({"features": features}, repetitions)["features"], models


def batch_of(plan: Plan, sessions: int) -> Batch:
    """Records of flows with a segment each, in the order of `flow_id`, as an aggregator gives them."""
    random = np.random.default_rng(1)
    count = sessions * FLOWS
    client = random.permutation(count) % sessions
    flow = {
        "client_ip": pl.Series([f"10.{one >> 16}.{one >> 8 & 255}.{one & 255}" for one in client.tolist()]),
        "protocol": pl.repeat("tcp", count, eager=True),
        "flow_id": pl.Series([f"{number:016x}" for number in range(count)]),
        "flow_start": pl.Series(np.zeros(count)),
    }
    features: dict[str, list[pl.Series]] = {}
    for cls in plan.profiles[0].classes:
        columns = features[cls.__name__] = []
        for field in output_fields(cls):
            if field.kind == "ints":
                column = pl.Series(random.integers(30_000, 900_000, (count, 2))).arr.to_list()
            elif field.kind == "float":
                values = random.random(count)
                values[::9] = np.nan
                column = pl.Series(values, nan_to_null=True)
            else:
                column = pl.Series(random.integers(2, 900, count))
            columns.append(column.alias(field.name))
    return at_interval(Batch("Video", flow, features), 0)


def at_interval(batch: Batch, number: int) -> Batch:
    """The same records in the interval of a number."""
    count = len(batch.flow["flow_id"])
    times = {name: pl.Series(np.full(count, 10.0 * number + at)) for name, at in (("ts_start", 0), ("ts_end", 10))}
    return batch._replace(flow={**batch.flow, **times})
