"""What was inferred of the first sessions of a replay, for its summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow.compute as pc

from trafficrefinery.models.stream import Moment
from trafficrefinery.models.targets import Target
from trafficrefinery.records.inferences import NOT_PLAYING, SESSION

KEPT = 10
"""Sessions; further ones are counted only."""


class Run(NamedTuple):
    """Intervals one after the other with the same label; seconds since the session's start.

    Args:
        label: None where the model abstained; "" where nothing was played.
    """

    label: str | None
    from_s: float
    to_s: float


@dataclass
class Timeline:
    """One session.

    Args:
        runs: of each target with labels.
        quantities: of each other target, one for each interval in which it was answered.
    """

    service: str
    client_ip: str
    session_start: float
    runs: dict[str, list[Run]] = field(default_factory=dict)
    quantities: dict[str, list[float]] = field(default_factory=dict)

    def add(self, target: str, label: str | None, ts_start: float, ts_end: float) -> None:
        """The next interval."""
        from_s, to_s = max(ts_start - self.session_start, 0.0), ts_end - self.session_start
        runs = self.runs.setdefault(target, [])
        if runs and runs[-1].label == label:
            runs[-1] = runs[-1]._replace(to_s=to_s)
        else:
            runs.append(Run(label, from_s, to_s))


class Timelines:
    """The timelines of the sessions that came first.

    Args:
        targets: that are answered.

    Attributes:
        kept: session_id → its timeline.
    """

    def __init__(self, targets: Sequence[Target] = ()) -> None:
        self.targets = tuple(target for target in targets if target.unit == SESSION)
        self._with_labels = {target.name for target in self.targets if target.has_labels}
        self.kept: dict[str, Timeline] = {}

    def add(self, moment: Moment) -> None:
        """Take an interval with inferences."""
        if moment.inferences is None or moment.sessions is None:
            return
        starts = zip(*(moment.sessions[name].to_pylist() for name in ("session_id", "session_start")), strict=True)
        columns = ("session_id", "service", "client_ip", "ts_start", "ts_end", "target", "value", "quantity", "why")
        found = moment.inferences.filter(pc.equal(moment.inferences["unit"], SESSION))
        rows = zip(*(found[name].to_pylist() for name in columns), strict=True)
        start_of: dict[str, float] | None = None
        for session_id, service, client_ip, ts_start, ts_end, target, label, quantity, why in rows:
            if session_id not in self.kept:
                if len(self.kept) >= KEPT:
                    continue
                start_of = dict(starts) if start_of is None else start_of
                self.kept[session_id] = Timeline(service, client_ip, start_of[session_id])
            timeline = self.kept[session_id]
            if quantity is not None:
                timeline.quantities.setdefault(target, []).append(quantity)
            elif target in self._with_labels:
                timeline.add(target, "" if why == NOT_PLAYING else label, ts_start, ts_end)
