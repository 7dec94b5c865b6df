"""An adaptive player without its network: which segment to ask for, at which level, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .adaptation import RULES, Situation, Throughput
from .ladders import Title
from .playback import Playback
from .profiles import RESOLUTIONS

LIVE_SEGMENTS = 3
"""Segments that a live service has when a viewer comes: so far behind the event players are."""


class Wanted(NamedTuple):
    """The next segment, video and audio of the same seconds."""

    number: int
    level: int
    video_bytes: int
    audio_bytes: int

    @property
    def resolution(self) -> int:
        return RESOLUTIONS[self.level]


class Downloaded(NamedTuple):
    """A segment that came, at wall-clock times in s."""

    start_s: float
    end_s: float
    resolution: int
    video_bytes: int
    audio_bytes: int


@dataclass
class Player:
    """State of one session, driven by whoever fetches: `pause_s`, `wanted`, `fetched`, and again.

    Args:
        start_s: when play was pressed.
    """

    title: Title
    start_s: float

    def __post_init__(self) -> None:
        self.profile = self.title.profile
        self.playback = Playback(self.profile.startup_s, self.profile.resume_s)
        self.downloads: list[Downloaded] = []
        self._throughput = Throughput()
        self._rule = RULES[self.profile.rule]
        self._number = 0
        self._level: int | None = None
        audio_kbps = self.profile.audio_kbps
        self._ladder_kbps = tuple(float(kbps + audio_kbps) for kbps in self.title.ladder_kbps)

    def pause_s(self, now_s: float) -> float:
        """How long to wait before the next segment is asked for: until it fits, and until there is one."""
        room_s = self.profile.buffer_s - self.profile.segment_s
        wait_s = self.playback.buffer_s(now_s) - room_s
        if self.profile.live:
            made_s = self.start_s + (self._number - LIVE_SEGMENTS + 1) * self.profile.segment_s
            wait_s = max(wait_s, made_s - now_s)
        return max(0.0, wait_s)

    def wanted(self, now_s: float) -> Wanted:
        """The segment to fetch now."""
        level = self._rule(Situation(
            self._level, self._throughput.kbps, self.playback.buffer_s(now_s),
            self.profile.buffer_s - self.profile.segment_s, self._ladder_kbps,
        ))  # fmt: skip
        video_bytes, audio_bytes = self.title.video_bytes(self._number, level), self.title.audio_bytes(self._number)
        return Wanted(self._number, level, video_bytes, audio_bytes)

    def fetched(self, wanted: Wanted, start_s: float, end_s: float) -> None:
        """Both parts of a segment have come."""
        self._throughput.add(wanted.video_bytes + wanted.audio_bytes, end_s - start_s)
        self.downloads.append(Downloaded(start_s, end_s, wanted.resolution, wanted.video_bytes, wanted.audio_bytes))
        self.playback.append(end_s, self.profile.segment_s, wanted.resolution)
        self._level = wanted.level
        self._number = wanted.number + 1
