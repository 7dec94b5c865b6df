"""How many session-intervals a second the inference worker does on one core, with the bundled models.

python benchmarks/inference.py [MODEL...]
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trafficrefinery.config.paths import models_dir
from trafficrefinery.models.inference import Predictor, load_bundle
from trafficrefinery.records.inferences import inference_lines

DATA = Path(__file__).parent / "data" / "lab_sessions.parquet"
_REPEATS = 7


def interval(sessions: int) -> pa.Table:
    """One interval of so many sessions: rows of the lab's table, drawn at random."""
    table = pq.read_table(DATA)
    made = table.take(np.random.default_rng(0).integers(0, len(table), sessions))
    at = made.column_names.index("session_id")
    return made.set_column(
        at, "session_id", pa.array([f"{number:016x}" for number in range(sessions)])
    ).combine_chunks()


def main() -> None:
    names = sys.argv[1:] or ["lab", "lab-startup"]
    began = time.perf_counter()
    bundles = [load_bundle(models_dir() / name) for name in names]
    print(f"load and self-test of {', '.join(names)}: {time.perf_counter() - began:.2f} s")
    for sessions in (1_000, 10_000, 100_000):
        table, predictor = interval(sessions), Predictor(bundles)
        taken, whole = [], []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            found = predictor.predict(table)
            taken.append(time.perf_counter() - began)
            inference_lines(found)
            whole.append(time.perf_counter() - began)
        median = statistics.median(taken[1:])
        print(f"{sessions:>7,} sessions: {1e3 * median:8.1f} ms, {sessions / median:10,.0f} session-intervals/s; "
              f"with JSON lines {1e3 * statistics.median(whole[1:]):8.1f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
