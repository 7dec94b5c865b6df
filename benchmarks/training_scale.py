"""Trains on a table of the size of the published one, with the command as it is by default; tells time and memory.

    python benchmarks/training_scale.py [--rows 204713]

The table is made: sessions whose segment sizes grow with the resolution, and as many columns as ours and the published
dataset have together. Its accuracy says nothing; the time is the same as of real figures.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from measure import stamp

from trafficrefinery.models.dataset.tables import dataset_schema, write_table
from trafficrefinery.models.sessions import SessionRegistry, session_schema

RESOLUTIONS = (240, 360, 480, 720, 1080)
COLUMNS = 170
INTERVALS = 30


def table(rows: int) -> pa.Table:
    """Sessions of five minutes, two of each video; sizes differ from video to video."""
    rng = np.random.default_rng(1)
    schema = dataset_schema(session_schema(SessionRegistry().fields()))
    session = np.arange(rows) // INTERVALS
    step, sessions = np.arange(rows) % INTERVALS, int(session.max()) + 1
    level = rng.integers(0, len(RESOLUTIONS), sessions)[session]
    richness = rng.normal(0, 0.4, sessions // 2 + 1)[session // 2]
    start = 1e9 + 1e3 * session + 10 * step
    made = {
        "file": pa.array([f"{one}.pcap" for one in session]), "session": pa.array([f"s{one}" for one in session]),
        "session_id": pa.array([f"{one:016x}" for one in session]),
        "video_id": pa.array([f"v{one // 2}" for one in session]), "site": pa.array(["lab"] * rows),
        "service": pa.array([("Netflix", "YouTube", "Amazon", "Twitch")[one % 4] for one in session]),
        "resolution": pa.array(np.array(RESOLUTIONS)[level]), "ts_start": pa.array(start), "ts_end": pa.array(start + 10),
        "session_start": pa.array(1e9 + 1e3 * session),
    }  # fmt: skip
    for group in ("network", "transport", "application"):
        made[f"{group}_observed"] = pa.array(np.ones(rows, np.bool_))
    features = [field for field in schema if "." in field.name]
    more = [
        pa.field(f"published.{number}", pa.float64(), metadata={"doc": "made", "group": "transport"})
        for number in range(COLUMNS - len(features))
    ]
    for number, field in enumerate((*features[:COLUMNS], *more)):
        share = (0.2, 0.5, 1.0)[number % 3]  # of the label in the column
        values = np.exp(share * (level + richness) + rng.normal(0, 1, rows))
        made[field.name] = pa.array(values.round() if field.type == pa.int64() else values).cast(field.type)
    schema = pa.schema([*schema, *more])
    return pa.table(
        [made[field.name].cast(field.type) if field.name in made else pa.nulls(rows, field.type) for field in schema],
        schema=schema,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=204_713)
    given, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.parquet"
        write_table(table(given.rows), data)
        began_s = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "trafficrefinery",
            "train",
            str(data),
            "-o",
            f"{folder}/model",
            "--features",
            "all",
        ]
        subprocess.run([*command, *more], check=True)
        took_s = time.perf_counter() - began_s
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(stamp())
    print(f"{given.rows:,} rows x {COLUMNS} columns on {len(os.sched_getaffinity(0))} cores: {took_s:.0f} s, "
          f"{used.ru_utime + used.ru_stime:.0f} CPU-seconds, {used.ru_maxrss / 2**20:.1f} GiB")  # fmt: skip


if __name__ == "__main__":
    main()
