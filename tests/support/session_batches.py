"""Batches of records that make sessions."""

from __future__ import annotations

import polars as pl

from trafficrefinery.config import parse_config
from trafficrefinery.engine.feature_classes.fields import output_fields
from trafficrefinery.engine.plan import Plan
from trafficrefinery.records.aggregate import Batch

COLLECT = ["PacketCounters", "PacketTimes", "TCPCounters", "LatencyCounters", "VideoSegments"]


def plan_of(collect=COLLECT, **changes) -> Plan:
    services = [{"Name": "Video", "Filter": {"DomainsString": ["video.example"]}, "Collect": collect}]
    return Plan.of(parse_config({"Services": services, **changes}))


PLAN = plan_of()


def batch_of(start_s: int, flows: list[dict], plan: Plan = PLAN) -> Batch:
    """Records with the given figures, `Class.field`; others are 0, or null where they are floats."""
    flow = {
        "ts_start": pl.Series([float(start_s)] * len(flows)),
        "ts_end": pl.Series([start_s + 10.0] * len(flows)),
        "client_ip": pl.Series([one.get("client_ip", "10.0.0.1") for one in flows]),
        "protocol": pl.Series([one.get("protocol", "tcp") for one in flows]),
        "domain": pl.Series([one.get("domain") for one in flows], dtype=pl.String),
        "flow_id": pl.Series([f"{number:016x}" for number in range(len(flows))]),
        "flow_start": pl.Series([float(one.get("flow_start", start_s)) for one in flows]),
    }
    zero = {"int": 0, "float": None, "ints": []}
    kinds = {"int": pl.Int64, "float": pl.Float64, "ints": pl.List(pl.Int64)}
    features = {
        cls.__name__: [
            pl.Series(
                field.name,
                [one.get(f"{cls.__name__}.{field.name}", zero[field.kind]) for one in flows],
                kinds[field.kind],
            )
            for field in output_fields(cls)
        ]
        for cls in plan.profiles[0].classes
    }
    return Batch("Video", flow, features)


def media(size: int = 50_000, **more) -> dict:
    """A flow with one segment in the interval."""
    return {
        "VideoSegments.segments": 1, "VideoSegments.all_segments": 1, "VideoSegments.segment_bytes": size,
        **{f"VideoSegments.segment_bytes_{figure}": size for figure in ("mean", "min", "max")},
        "VideoSegments.segment_bytes_std": 0.0, "VideoSegments.segment_sizes": [size], **more,
    }  # fmt: skip
