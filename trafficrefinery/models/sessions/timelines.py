"""What was inferred of the first sessions of a replay, for its summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from trafficrefinery.models.stream import Moment

KEPT = 10
"""Sessions; further ones are counted only."""


class Run(NamedTuple):
    """Intervals one after the other with the same resolution; seconds since the session's start.

    Args:
        resolution: None where the model abstained.
    """

    resolution: int | None
    from_s: float
    to_s: float


@dataclass
class Timeline:
    """One session.

    Args:
        startup_s: its startup delay, when it was inferred.
    """

    service: str
    client_ip: str
    session_start: float
    startup_s: float | None = None
    runs: list[Run] = field(default_factory=list)

    def add(self, resolution: int | None, ts_start: float, ts_end: float) -> None:
        """The next interval."""
        from_s, to_s = max(ts_start - self.session_start, 0.0), ts_end - self.session_start
        if self.runs and self.runs[-1].resolution == resolution:
            self.runs[-1] = self.runs[-1]._replace(to_s=to_s)
        else:
            self.runs.append(Run(resolution, from_s, to_s))


class Timelines:
    """The timelines of the sessions that came first.

    Attributes:
        kept: session_id → its timeline.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Timeline] = {}

    def add(self, moment: Moment) -> None:
        """Take an interval with inferences."""
        if moment.inferences is None:
            return
        starts = zip(*(moment.sessions[name].to_pylist() for name in ("session_id", "session_start")), strict=True)
        columns = ("session_id", "service", "client_ip", "ts_start", "ts_end", "resolution", "startup_delay_s")
        rows = zip(*(moment.inferences[name].to_pylist() for name in columns), strict=True)
        start_of: dict[str, float] | None = None
        for session_id, service, client_ip, ts_start, ts_end, resolution, startup_s in rows:
            if session_id not in self.kept:
                if len(self.kept) >= KEPT:
                    continue
                start_of = dict(starts) if start_of is None else start_of
                self.kept[session_id] = Timeline(service, client_ip, start_of[session_id])
            timeline = self.kept[session_id]
            timeline.add(resolution, ts_start, ts_end)
            timeline.startup_s = timeline.startup_s if startup_s is None else startup_s
