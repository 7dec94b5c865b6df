"""Intervals of made-up records, and sinks into folders of the tests. Run as a script: a daemon that is to be killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from trafficrefinery.config import Config, parse_config
from trafficrefinery.engine.feature_classes.fields import output_fields
from trafficrefinery.engine.plan import Plan
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.inferences import inference_schema
from trafficrefinery.records.schema import SCHEMA
from trafficrefinery.records.sinks.base import Interval, Place, Sink
from trafficrefinery.records.sinks.opening import open_sinks
from trafficrefinery.records.storage.recovery import recover

SECOND = 10**9
START_S = 1_800_000_000


@cache
def _config(sinks: bytes) -> Config:
    services = [{"Name": "Video", "Filter": {"DomainsString": ["video.example"]}, "Collect": ["PacketCounters"]}]
    return parse_config({"Interval": "10s", "Sensor": "edge 1.a", "Services": services, "Sinks": orjson.loads(sinks)})


def config_of(**sinks: Any) -> Config:
    """A configuration with these sinks alone."""
    off = {"Enabled": False}
    return _config(orjson.dumps({"JSONLines": off, **sinks}))


@cache
def plan() -> Plan:
    return Plan.of(config_of())


def interval(number: int, flows: int = 3) -> Interval:
    """The interval of a number, which each of its records has in `flow_start`; the flows count up in `flow_id`."""
    start_s = START_S + 10 * number

    def all_the_same(value: object) -> pl.Series:
        return pl.Series([value] * flows)

    flow = {
        "schema": all_the_same(SCHEMA), "kind": all_the_same("flow"), "sensor": all_the_same("edge 1.a"),
        "ts_start": all_the_same(float(start_s)), "ts_end": all_the_same(start_s + 10.0),
        "service": all_the_same("Video"), "matched_by": all_the_same("dns"),
        "domain": pl.Series([None, *["video.example"] * (flows - 1)], dtype=pl.String),
        "protocol": all_the_same("tcp"), "client_ip": all_the_same("10.0.0.1"), "client_port": all_the_same(1234),
        "server_ip": all_the_same("192.0.2.1"), "server_port": all_the_same(443),
        "flow_id": pl.Series([f"{flow:016x}" for flow in range(flows)]), "flow_start": all_the_same(float(number)),
        "end": all_the_same("open"), "sides": pl.Series([None, *["both"] * (flows - 1)], dtype=pl.String),
    }  # fmt: skip
    (cls,) = plan().profiles[0].classes
    columns = [
        pl.Series(field.name, np.arange(flows) * (1 if field.kind == "int" else 0.5)) for field in output_fields(cls)
    ]
    summary = {"schema": SCHEMA, "kind": "interval", "sensor": "edge 1.a", "ts_start": float(start_s), "number": number}
    return Interval((start_s + 10) * SECOND, [Batch("Video", flow, {cls.__name__: columns})], [summary])


def inferred(number: int, sessions: int = 3) -> Interval:
    """Inferences of the interval of a number, which `value` has."""
    start_s = START_S + 10 * number
    rows = [
        {"schema": SCHEMA, "kind": "inference", "ts_start": float(start_s), "ts_end": start_s + 10.0, "service": "Video",
         "client_ip": "10.0.0.1", "unit": "session", "session_id": f"{session:016x}", "target": "resolution",
         "value": str(number), "measured_in": "p", "confidence": 0.5,
         "probabilities.480": 0.5, "probabilities.720": 0.5, "drift": 0.0, "model": "m@0123"}
        for session in range(sessions)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=inference_schema(("480", "720")))
    return Interval((start_s + 10) * SECOND, [], [], table)


def place(folder: Path, state: Path | None = None) -> Place:
    return Place(plan(), folder, state or folder)


def opened(folder: Path, state: Path | None = None, **sinks: Any) -> Sink:
    """The only sink of a configuration."""
    (sink,) = open_sinks(config_of(**sinks), place(folder, state))
    return sink


def text_of(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".zst":
        return data
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        return reader.readall()


def objects(lines: bytes) -> list[dict[str, Any]]:
    assert not lines or lines.endswith(b"\n")
    return [orjson.loads(line) for line in lines.splitlines()]


def records_in(folder: Path, kind: str = "records") -> list[dict[str, Any]]:
    """The records of all complete files, in the order of their names; columns of Parquet as they are."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"{kind}-*")):
        if path.suffix == ".parquet":
            found += pq.read_table(path).to_pylist()
        elif path.suffix in (".jsonl", ".zst"):
            found += objects(text_of(path))
    return found


def numbers_of(records: Iterable[dict[str, Any]], flows: int = 3) -> list[int]:
    """The intervals that records are of, once each; all of them have to be whole."""
    ids: dict[int, list[str]] = {}
    for record in records:
        ids.setdefault(int(record["flow_start"]), []).append(record["flow_id"])
    assert all(found == [f"{flow:016x}" for flow in range(flows)] for found in ids.values())
    return list(ids)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def fill(folder: Path) -> Path:
    """A file that takes all the room."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return ballast


def start_daemon(folder: Path, sinks: dict[str, Any]) -> subprocess.Popen[bytes]:
    """A process that recovers, then writes interval after interval and says so, until it is killed.

    The file `next` in the folder has the number of its first interval.
    """
    command = [sys.executable, __file__, str(folder), orjson.dumps(sinks).decode()]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def main(folder: Path, sinks: dict[str, Any]) -> None:
    made = [interval(number) for number in range(100)]
    recover(folder)
    running = open_sinks(config_of(**sinks), place(folder))
    first = int(folder.joinpath("next").read_text())
    for number in range(first, first + 1_000_000):
        whole = made[number % 100]
        for batch in whole.batches:
            batch.flow["flow_start"] = pl.Series([float(number)] * 3)
        fresh = Interval(whole.end_ns, whole.batches, whole.summaries)
        for sink in running:
            sink.write(fresh)
            sink.tick(time.time_ns())
            assert not sink.dropped_total
        print(number, flush=True)  # noqa: T201 - acknowledged


if __name__ == "__main__":
    main(Path(sys.argv[1]), orjson.loads(sys.argv[2]))
