"""The services of the lab: how each codes its videos, delivers them, and plays them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trafficrefinery.errors import UsageError, did_you_mean

RESOLUTIONS = (240, 360, 480, 720, 1080)
"""Lines of the pictures, from the lowest level of a ladder to the highest."""

Transport = Literal["h1", "h2", "h3"]
RuleName = Literal["throughput", "buffer", "hybrid"]


@dataclass(frozen=True)
class Profile:
    """One service.

    Args:
        transport: HTTP/1.1 or HTTP/2 over TLS, or HTTP/3 over QUIC.
        segment_s: media in a segment, s.
        ladder_kbps: average video bitrate of each of RESOLUTIONS, for a title of average complexity.
        audio_kbps: bitrate of the audio, which comes in segments of its own.
        buffer_s: a player asks for no more once this much media is buffered.
        startup_s: media that is buffered before the first picture is shown.
        resume_s: media that is buffered before playing goes on after a stall.
        rule: how players choose the level of the next segment, see `adaptation`.
        connections: for video; audio has one of its own, unless the transport multiplexes.
        together: audio and video of a segment are asked for at the same time, else one after the other.
        live: segments come to be in real time.
        titles: videos that there are.
    """

    name: str
    transport: Transport
    segment_s: float
    ladder_kbps: tuple[int, ...]
    audio_kbps: int
    buffer_s: float
    startup_s: float
    resume_s: float
    rule: RuleName
    connections: int = 1
    together: bool = True
    live: bool = False
    titles: int = 20

    @property
    def domain(self) -> str:
        return f"{self.name}.example"

    @property
    def page_host(self) -> str:
        """Where a player gets what it needs before the media."""
        return f"www.{self.domain}"

    @property
    def media_host(self) -> str:
        return f"cdn.{self.domain}"


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("alder", "h1", 4, (230, 430, 820, 1650, 3200), 96, 24, 4, 4, "hybrid", connections=2),
        Profile("birch", "h2", 6, (260, 480, 900, 1750, 3400), 128, 30, 6, 6, "throughput", together=False),
        Profile("cedar", "h3", 5, (200, 380, 740, 1450, 2800), 64, 25, 5, 5, "buffer", together=False),
        Profile("dogwood", "h1", 2, (250, 460, 860, 1600, 3000), 96, 8, 4, 4, "throughput", live=True),
        Profile("elm", "h2", 10, (220, 420, 800, 1550, 3000), 128, 36, 10, 10, "buffer"),
    )
}
"""Their names are those of trees, and their hosts are below NAME.example."""


def chosen_profiles(names: str | None) -> list[Profile]:
    """Those of a list such as `alder,birch`; without one, all.

    Raises:
        UsageError: there is no such profile, or it is named twice.
    """
    if names is None:
        return list(PROFILES.values())
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in PROFILES:
            hint = did_you_mean(name, PROFILES) or f"; there are {', '.join(PROFILES)}"
            raise UsageError(f'--profiles: no profile "{name}"{hint}')
    if len(set(wanted)) < len(wanted):
        raise UsageError(f"--profiles: {names}: one is named twice")
    return [PROFILES[name] for name in wanted]
