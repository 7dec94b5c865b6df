"""How a player chooses the level of its next segment: by throughput, by buffer, or by both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from .profiles import RuleName

_SAFETY = 0.85  # share of the estimated throughput that media may take
_UP_SAFETY = 0.75  # to step up, more has to be spare: else a player goes to and fro
_HALF_LIVES_S = (3.0, 9.0)
_LEAST_SHARE, _FULL_SHARE = 0.35, 0.9  # of the usable buffer: BOLA takes the lowest level below, the highest above


class Situation(NamedTuple):
    """What a player knows when it chooses.

    Args:
        level: of the segment before; None for the first.
        throughput_kbps: estimate, None while there is none.
        buffer_s: media that is buffered.
        usable_s: as much as there can be at the time of a choice: the buffer's target less a segment.
        ladder_kbps: declared average of each level, audio included.
    """

    level: int | None
    throughput_kbps: float | None
    buffer_s: float
    usable_s: float
    ladder_kbps: tuple[float, ...]


class Throughput:
    """Two exponentially weighted averages of the measured throughput, the lower of which is the estimate.

    As in hls.js and Shaka Player: a measurement weighs as much as the time it took, so that the estimate falls fast
    and rises slowly.
    """

    def __init__(self) -> None:
        self._averages = [0.0 for _ in _HALF_LIVES_S]
        self._weights = [0.0 for _ in _HALF_LIVES_S]

    def add(self, size_bytes: int, seconds: float) -> None:
        """A download, and how long it took."""
        seconds = max(seconds, 1e-3)
        kbps = size_bytes * 8e-3 / seconds
        for index, half_life_s in enumerate(_HALF_LIVES_S):
            keep = 0.5 ** (seconds / half_life_s)
            self._averages[index] = keep * self._averages[index] + (1 - keep) * kbps
            self._weights[index] = keep * self._weights[index] + (1 - keep)

    @property
    def kbps(self) -> float | None:
        if not self._weights[0]:
            return None
        return min(average / weight for average, weight in zip(self._averages, self._weights, strict=True))


def highest_below(ladder_kbps: tuple[float, ...], kbps: float) -> int:
    """The highest level that needs no more than this; the lowest where all need more."""
    return max((level for level, needed in enumerate(ladder_kbps) if needed <= kbps), default=0)


def by_throughput(now: Situation) -> int:
    """The highest level that the throughput carries with some to spare; up by one level at a time."""
    if now.throughput_kbps is None or now.level is None:
        return 0
    sustained = highest_below(now.ladder_kbps, now.throughput_kbps * _SAFETY)
    if sustained <= now.level:
        return sustained
    return max(now.level, min(now.level + 1, highest_below(now.ladder_kbps, now.throughput_kbps * _UP_SAFETY)))


def by_buffer(now: Situation) -> int:
    """BOLA-O: the level of most utility for the buffer, not above what the throughput carries when it is a step up.

    Spiteri et al., BOLA: Near-Optimal Bitrate Adaptation for Online Videos (INFOCOM 2016); parameters as in dash.js,
    from the buffer below which the lowest level is right, and that from which the highest is.
    """
    if now.level is None:
        return 0
    least_s = _LEAST_SHARE * now.usable_s
    utilities = [math.log(kbps / now.ladder_kbps[0]) + 1 for kbps in now.ladder_kbps]
    gain = (utilities[-1] - 1) / (_FULL_SHARE / _LEAST_SHARE - 1)
    scale = least_s / gain
    scores = [
        (scale * (utility - 1 + gain) - now.buffer_s) / kbps
        for utility, kbps in zip(utilities, now.ladder_kbps, strict=True)
    ]
    best = scores.index(max(scores))
    if best > now.level and now.throughput_kbps is not None:
        best = max(now.level, min(best, highest_below(now.ladder_kbps, now.throughput_kbps * _SAFETY)))
    return best


def by_both(now: Situation) -> int:
    """By throughput until half of the buffer is filled, by BOLA from then on (dash.js: DYNAMIC)."""
    return by_throughput(now) if now.buffer_s < now.usable_s / 2 else by_buffer(now)


RULES: dict[RuleName, Callable[[Situation], int]] = {
    "throughput": by_throughput, "buffer": by_buffer, "hybrid": by_both,
}  # fmt: skip
