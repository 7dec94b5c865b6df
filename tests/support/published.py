"""Tables as the course hands them out: session-intervals of the published dataset's columns, with made-up figures."""

from __future__ import annotations

from typing import Any

import numpy as np

RESOLUTIONS = (240, 360, 480, 720, 1080)


def session_intervals(sessions: int = 60, intervals: int = 8, labelled: bool = True) -> dict[str, list[Any]]:
    """Columns of a frame; of each session with one resolution, and one interval in ten without any."""
    rng = np.random.default_rng(1)
    rows = sessions * intervals
    session, step = np.repeat(np.arange(sessions), intervals), np.tile(np.arange(intervals), sessions)
    level = rng.permutation(np.arange(sessions) % len(RESOLUTIONS))[session]
    size = 150_000 * 1.9**level * np.exp(rng.normal(0, 0.15, rows))
    columns: dict[str, list[Any]] = {
        "session_id": [f"netflix-{one}" for one in session.tolist()],
        "video_id": [f"7019{one // 2}" for one in session.tolist()], "home_id": ["lab"] * rows,
        "service": ["netflix"] * rows, "deployment_session_id": [f"netflix_00:11:22_{one}" for one in session.tolist()],
        "absolute_timestamp": (1.5e9 + 1e3 * session + 10.0 * step).tolist(),
        "relative_timestamp": (10 * (step + 1)).tolist(), "is_tcp": [True] * rows,
        "n_chunks_down": rng.integers(1, 5, rows).tolist(), "n_prev_down_chunk": (2 * step).tolist(),
        "10_avg_chunksize": size.tolist(), "10_max_chunksize": (1.5 * size).tolist(),
        "allprev_avg_chunksize": (size * np.exp(rng.normal(0, 0.1, rows))).tolist(),
        "service_Video_throughput_down": (size / 1e3).tolist(), "service_Video_throughput_up": (size / 4e4).tolist(),
        "service_non_video_throughput_down": rng.random(rows).tolist(),
        "service_non_video_throughput_up": rng.random(rows).tolist(),
    }  # fmt: skip
    if labelled:
        lines = np.where(rng.random(rows) < 0.1, 0, np.array(RESOLUTIONS)[level])
        columns |= {"resolution": lines.tolist(), "bitrate": (size / 100).tolist(), "quality": ["good"] * rows}
    return columns
