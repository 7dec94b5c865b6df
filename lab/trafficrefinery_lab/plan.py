"""What is to be played: every session follows from the seed and its own number, and from nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from .links import Link, draw_link
from .profiles import Profile

SITE = "lab"


class SessionPlan(NamedTuple):
    """One session.

    Args:
        number: counts from 0.
        title: number of the title among those of the profile.
        family: version of IP.
        tls: version of TLS, where the transport is not QUIC.
        quic: version of QUIC, where it is.
        long_hello: the ClientHello is longer than one packet holds, as with post-quantum key shares.
        visits: other traffic of the same client, of no service.
        think_s: how long the player thinks between the page and the media.
        keeps_connections: else there is a new one for each segment, where the transport does not multiplex.
        dns_over_tcp: names are asked for by TCP.
    """

    number: int
    seed: int
    profile: Profile
    title: int
    duration_s: float
    link: Link
    family: int
    tls: str
    quic: int
    long_hello: bool
    visits: bool
    think_s: float
    keeps_connections: bool = True
    dns_over_tcp: bool = False

    @property
    def session(self) -> str:
        """Name of the session in labels."""
        return f"{SITE}-{self.seed}-{self.number:04}"

    @property
    def stem(self) -> str:
        """Name of its files without their ends."""
        return f"{self.session}-{self.profile.name}"

    @property
    def chance(self) -> random.Random:
        """For what is decided while it runs; the same at each call."""
        return random.Random(f"session/{self.seed}/{self.number}/run")


def make_plan(seed: int, sessions: int, profiles: Sequence[Profile], duration_s: float) -> list[SessionPlan]:
    """The plan of so many sessions, whose durations lie between 2/3 and 4/3 of `duration_s`.

    Session N is the same in a longer plan.
    """
    return [_session(seed, number, profiles[number % len(profiles)], duration_s) for number in range(sessions)]


def _session(seed: int, number: int, profile: Profile, mean_s: float) -> SessionPlan:
    chance = random.Random(f"session/{seed}/{number}")
    duration_s = round(mean_s * chance.uniform(2 / 3, 4 / 3), 1)
    return SessionPlan(
        number, seed, profile, chance.randrange(profile.titles), duration_s, draw_link(profile, duration_s, chance),
        6 if chance.random() < 0.3 else 4, "1.2" if chance.random() < 0.15 else "1.3",
        2 if chance.random() < 0.25 else 1, chance.random() < 0.3, chance.random() < 0.4,
        round(chance.uniform(0.02, 0.3), 3),
    )  # fmt: skip


COLUMNS = ("session", "profile", "transport", "title", "seconds", "link", "kbps", "delay", "loss", "ip")


def plan_rows(plan: Sequence[SessionPlan]) -> list[list[str]]:
    """A plan as the rows of a table with COLUMNS."""
    return [
        [
            one.session, one.profile.name, one.profile.transport, str(one.title), f"{one.duration_s:.0f}",
            one.link.kind, f"{one.link.mean_kbps:,.0f}", f"{one.link.delay_s * 1e3:.0f} ms",
            f"{one.link.loss_down:.2%}", str(one.family),
        ]
        for one in plan
    ]  # fmt: skip
