"""A link without packets: how a player fares on it, in no time."""

from __future__ import annotations

from collections.abc import Sequence

from trafficrefinery_lab.ladders import Title
from trafficrefinery_lab.player import Player
from trafficrefinery_lab.profiles import Profile

STEP_S = 0.1
START_S = 1_000_003.0


def rate_at(rates: Sequence[tuple[float, float]], at_s: float) -> float:
    """The last rate whose time has come, kbit/s."""
    return [kbps for since_s, kbps in rates if since_s <= at_s][-1]


def played(profile: Profile, rates: Sequence[tuple[float, float]], duration_s: float, seed: int = 1) -> Player:
    """A session over a link with these rates (from how many seconds on, kbit/s)."""
    player = Player(Title(profile, seed, 0), START_S)
    now_s, end_s = START_S, START_S + duration_s
    while (now_s := now_s + player.pause_s(now_s)) < end_s:
        wanted, begun_s = player.wanted(now_s), now_s
        left_kbit = (wanted.video_bytes + wanted.audio_bytes) * 8e-3
        while left_kbit > 0:
            left_kbit -= rate_at(rates, now_s - START_S) * STEP_S
            now_s += STEP_S
        player.fetched(wanted, begun_s, now_s)
    player.playback.stop(end_s)
    return player
