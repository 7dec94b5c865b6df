"""What really happened in a session, per interval: the labels."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter

from trafficrefinery.models.dataset.intervals import COLUMNS, IntervalLabel

from .playback import Playback
from .player import Downloaded

INTERVAL_S = 10


def intervals(
    playback: Playback, downloads: list[Downloaded], start_s: float, end_s: float, interval_s: int = INTERVAL_S
) -> list[IntervalLabel]:
    """The truth of a session from `start_s` to `end_s`; playback is stopped."""
    first, last = math.floor(start_s / interval_s), math.ceil(end_s / interval_s)
    return [
        _interval(playback, downloads, number * interval_s, (number + 1) * interval_s)
        for number in range(first, last)
    ]  # fmt: skip


def _interval(playback: Playback, downloads: list[Downloaded], start_s: int, end_s: int) -> IntervalLabel:
    came: Counter[int] = Counter()
    shown_s = dict.fromkeys((one.resolution for one in playback.shown), 0.0)
    for one in playback.shown:
        shown_s[one.resolution] += _overlap_s(one.start_s, one.end_s, start_s, end_s)
    for one_download in downloads:
        if start_s <= one_download.end_s < end_s:
            came[one_download.resolution] += one_download.video_bytes
    pairs = zip(playback.shown, playback.shown[1:], strict=False)
    return IntervalLabel(
        start_s, end_s,
        max(shown_s, key=lambda resolution: shown_s[resolution]) if any(shown_s.values()) else None,
        came.most_common(1)[0][0] if came else None,
        sum(start_s <= stall.start_s < end_s for stall in playback.stalls),
        sum(_overlap_s(stall.start_s, stall.end_s, start_s, end_s) for stall in playback.stalls),
        sum(a.resolution != b.resolution and start_s <= b.start_s < end_s for a, b in pairs),
        buffered_s(playback, end_s),
    )  # fmt: skip


def _overlap_s(a_start: float, a_end: float, b_start: float, b_end: float) -> float:
    return max(0.0, min(a_end, b_end) - max(a_start, b_start))


def buffered_s(playback: Playback, at_s: float) -> float:
    """Media that had come and was not shown at some time of a session that is over."""
    came_s = sum(media_s for when_s, media_s in playback.filled if when_s <= at_s)
    return max(0.0, came_s - sum(_overlap_s(one.start_s, one.end_s, 0.0, at_s) for one in playback.shown))


def as_csv(rows: list[IntervalLabel]) -> str:
    """The content of a label file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([
            int(row.ts_start), int(row.ts_end), row.resolution or "", row.downloaded_resolution or "", row.stalls,
            f"{row.stalled_s:.3f}", row.switches, f"{row.buffer_s:.3f}",
        ])  # fmt: skip
    return text.getvalue()
