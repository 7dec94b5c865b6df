"""Access links: how fast each is over time, and how late and lossy its packets are."""

from __future__ import annotations

import math
import random
from typing import Literal, NamedTuple

from .profiles import RESOLUTIONS, Profile

LinkKind = Literal["constant", "steps", "walk"]
_KINDS: tuple[tuple[LinkKind, int], ...] = (("constant", 50), ("steps", 35), ("walk", 15))
_OVERHEAD = 1.06  # headers of packets and records
_LEAST_KBPS = 180
_LEVEL_WEIGHTS = (17, 17, 18, 24, 24)  # players step up late: the upper levels come about less often than they fit
_TOP = len(RESOLUTIONS) - 1
# Of the bitrate that a level needs: less than 1.18 (see `adaptation`) and it is not kept, more than 2 and it is not it.
_HEADROOM = {0: (0.85, 1.5), _TOP: (1.4, 3.0)}
_USUAL_HEADROOM = (1.3, 1.75)
_STEP_S, _WALK_S = (45.0, 110.0), 3.0
_WALK_SIGMA, _WALK_MEMORY = 0.18, 0.9


class Link(NamedTuple):
    """One client's access link.

    Args:
        rates: from how many seconds on, which rate towards the client, kbit/s.
        up_kbps: rate from the client.
        delay_s: of the path beyond the access link, one way.
        jitter_s: at most so much later; packets keep their order.
        loss_down, loss_up: share of packets that the path loses.
        reordered: share of packets that others overtake.
        queue_s: packets wait for so long at most before the link drops them.
    """

    kind: LinkKind
    rates: tuple[tuple[float, int], ...]
    up_kbps: int
    delay_s: float
    jitter_s: float
    loss_down: float
    loss_up: float
    reordered: float
    queue_s: float

    @property
    def mean_kbps(self) -> float:
        """Of the rates as listed."""
        return sum(kbps for _, kbps in self.rates) / len(self.rates)


def draw_link(profile: Profile, duration_s: float, chance: random.Random) -> Link:
    """A link for a session that fits one level of the profile's ladder, each about equally often."""
    (kind,) = chance.choices([kind for kind, _ in _KINDS], [weight for _, weight in _KINDS])
    level = _level(chance)
    rates: list[tuple[float, int]]
    if kind == "constant":
        rates = [(0.0, _rate_kbps(profile, level, chance))]
    elif kind == "steps":
        rates = _steps(profile, level, duration_s, chance)
    else:
        rates = _walk(_rate_kbps(profile, level, chance), duration_s, chance)
    lossy = chance.random() < 0.5
    return Link(
        kind, tuple(rates), max(600, rates[0][1] // 4), round(chance.uniform(0.005, 0.045), 4),
        round(chance.choice((0.0, 0.001, 0.004)), 4), round(chance.uniform(0.0002, 0.002), 5) if lossy else 0.0,
        round(chance.uniform(0.0, 0.0005), 5) if lossy else 0.0, 0.001 if chance.random() < 0.2 else 0.0,
        round(chance.uniform(0.08, 0.3), 3),
    )  # fmt: skip


def _level(chance: random.Random, but: int | None = None) -> int:
    levels = [level for level in range(len(RESOLUTIONS)) if level != but]
    return chance.choices(levels, [_LEVEL_WEIGHTS[level] for level in levels])[0]


def _rate_kbps(profile: Profile, level: int, chance: random.Random) -> int:
    needed_kbps = profile.ladder_kbps[level] + profile.audio_kbps
    return max(_LEAST_KBPS, round(needed_kbps * _OVERHEAD * chance.uniform(*_HEADROOM.get(level, _USUAL_HEADROOM))))


def _steps(profile: Profile, level: int, duration_s: float, chance: random.Random) -> list[tuple[float, int]]:
    """Stays for a while, then fits another level."""
    found, at_s = [], 0.0
    while at_s < duration_s:
        found.append((round(at_s, 1), _rate_kbps(profile, level, chance)))
        at_s += chance.uniform(*_STEP_S)
        level = _level(chance, but=level)
    return found


def _walk(mean_kbps: int, duration_s: float, chance: random.Random) -> list[tuple[float, int]]:
    """Goes up and down around a mean: a random walk of the logarithm that is drawn back."""
    found, at_s, state = [], 0.0, chance.gauss(0.0, 1.0)
    while at_s < duration_s:
        factor = math.exp(_WALK_SIGMA * state)
        found.append((round(at_s, 1), max(_LEAST_KBPS, round(mean_kbps * factor))))
        state = _WALK_MEMORY * state + (1 - _WALK_MEMORY**2) ** 0.5 * chance.gauss(0.0, 1.0)
        at_s += _WALK_S
    return found
