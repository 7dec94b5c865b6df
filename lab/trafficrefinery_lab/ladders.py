"""Sizes of segments: a ladder of bitrates for each title, and each segment larger or smaller than its average."""

from __future__ import annotations

import math
import random

from .profiles import RESOLUTIONS, Profile

_TITLE_SIGMA = 0.08  # of the logarithm of a title's complexity: ladders are fixed, coded to an average bitrate
_SCENE_SIGMA, _SCENE_MEMORY = 0.16, 0.6  # of a segment's, which is like that of the one before
_LEVEL_SPREAD = 0.04  # what is peculiar to a segment at one resolution
_AUDIO_SPREAD = 0.03
_BYTES_PER_KBIT = 125
_SEGMENTS = 400
_INDEX_BYTES = 1400
"""Initialisation and index of each representation, which a player reads first."""


class Title:
    """One video of a service; all that it is follows from its id and the seed."""

    def __init__(self, profile: Profile, seed: int, number: int) -> None:
        self.profile = profile
        self.video_id = f"{profile.name}-{seed}-{number:02}"
        chance = random.Random(f"title/{self.video_id}")
        self.complexity = min(max(chance.lognormvariate(0.0, _TITLE_SIGMA), 0.8), 1.25)
        self.ladder_kbps = tuple(round(kbps * self.complexity) for kbps in profile.ladder_kbps)
        """Average video bitrates as the manifest declares them."""
        scenes = _scenes(chance)
        self._video_bytes = [
            [self._size(kbps * scene, _LEVEL_SPREAD, chance) for kbps in self.ladder_kbps] for scene in scenes
        ]
        self._audio_bytes = [self._size(profile.audio_kbps, _AUDIO_SPREAD, chance) for _ in scenes]
        self.page_bytes = chance.randrange(8_000, 25_000)
        """What a player gets from the service before the media: page and manifest."""

    def _size(self, kbps: float, spread: float, chance: random.Random) -> int:
        return round(kbps * _BYTES_PER_KBIT * self.profile.segment_s * chance.uniform(1 - spread, 1 + spread))

    def video_bytes(self, segment: int, level: int) -> int:
        """Of a segment's body at a level of the ladder; the title starts again after its end."""
        return self._video_bytes[segment % _SEGMENTS][level]

    def audio_bytes(self, segment: int) -> int:
        return self._audio_bytes[segment % _SEGMENTS]

    @property
    def index_bytes(self) -> int:
        return _INDEX_BYTES * len(RESOLUTIONS)


def _scenes(chance: random.Random) -> list[float]:
    """Complexity of each segment beside the title's: 1 on average, similar from one to the next."""
    found, state = [], chance.gauss(0.0, 1.0)
    for _ in range(_SEGMENTS):
        state = _SCENE_MEMORY * state + math.sqrt(1 - _SCENE_MEMORY**2) * chance.gauss(0.0, 1.0)
        clipped = min(max(state, -2.5), 2.5)
        found.append(math.exp(_SCENE_SIGMA * clipped - _SCENE_SIGMA**2 / 2))
    return found
