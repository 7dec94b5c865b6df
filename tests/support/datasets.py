"""Datasets of made-up sessions: sizes grow with the resolution, and differ from video to video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trafficrefinery.config import parse_config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.models.dataset.tables import dataset_schema, write_table
from trafficrefinery.models.sessions import SessionView

CLASSES = ["PacketCounters", "TCPCounters", "VideoSegments"]
RESOLUTIONS = (240, 480, 1080)


def plan(interval: str = "10s", collect: list[Any] = CLASSES, names: tuple[str, ...] = ("Film",)) -> Plan:
    """A configuration with services that are told by prefix."""
    services = [
        {"Name": name, "Filter": {"Prefixes": [f"10.{number}.0.0/16"]}, "Collect": collect}
        for number, name in enumerate(names)
    ]
    return Plan.of(parse_config({"Interval": interval, "Services": services}, "made.json"))


def table(
    sessions: int = 24, intervals: int = 8, resolutions: tuple[int, ...] = RESOLUTIONS, seed: int = 0,
    **columns: Any,
) -> pa.Table:  # fmt: skip
    """A dataset; `columns` replace some of it. Two sessions in a row show the same video."""
    rng = np.random.default_rng(seed)
    schema = dataset_schema(SessionView(plan()).schema)
    n = sessions * intervals
    session, step = np.repeat(np.arange(sessions), intervals), np.tile(np.arange(intervals), sessions)
    level = np.repeat(rng.permutation(np.resize(np.arange(len(resolutions)), sessions)), intervals)
    size = 200_000 * 2.2**level * np.repeat(rng.normal(1, 0.05, sessions), intervals) * rng.normal(1, 0.1, n)
    start = 1_000.0 + 1_000.0 * session
    made: dict[str, Any] = {
        "file": [f"{one}.pcap" for one in session], "session": [f"s{one}" for one in session],
        "video_id": [f"v{one // 2}" for one in session], "site": ["A"] * n,
        "resolution": np.array(resolutions)[level], "startup_s": 1.0 + 0.5 * (session % 4),
        "ts_start": start + 10.0 * step, "ts_end": start + 10.0 * (step + 1), "service": ["Film"] * n,
        "client_ip": [f"192.0.2.{one % 250}" for one in session], "session_id": [f"{one:016x}" for one in session],
        "session_start": start + 2.0, "network_observed": [True] * n, "transport_observed": [True] * n,
        "application_observed": [True] * n,
        "application.segment_bytes_mean": size, "application.last10_bytes_max": size * 1.5,
        "application.segments": rng.integers(1, 5, n), "application.all_segments": 2 * (step + 1),
        "network.kbps_down": size / 400 * rng.normal(1, 0.5, n), "network.packets_down": rng.integers(50, 100, n),
        "transport.payload_bytes_mean_down": rng.normal(1_000, 100, n),
        "application.ttfb_s_mean": 0.05 + 0.3 * (session % 4) + 0.01 * rng.random(n),
    }  # fmt: skip
    made |= columns
    return pa.table(
        [pa.array(made[field.name], field.type) if field.name in made else pa.nulls(n, field.type) for field in schema],
        schema=schema,
    )


def write(path: Path, **given: Any) -> Path:
    """Write a dataset."""
    write_table(table(**given), path)
    return path
