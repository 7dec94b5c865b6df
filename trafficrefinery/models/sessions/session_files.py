"""What a replay makes of its records: session-intervals, and what models say of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from trafficrefinery.engine.plan import Plan
from trafficrefinery.models.stream import Inferring, Moment
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.inferences import SESSION, inference_schema
from trafficrefinery.records.sinks.base import Encoded, File, Interval

from . import session_lines
from .timelines import Timelines


class Follower:
    """Follows the records of a replay, batch by batch.

    Args:
        with_sessions: session-intervals are wanted too.

    Raises:
        BundleError, UsageError: a model cannot be used, or no service has sessions that are wanted.

    Attributes:
        timelines: what was inferred of the first sessions.
        files: kind of records that come from here, and its file.
    """

    def __init__(self, plan: Plan, models: Sequence[Path], with_sessions: bool) -> None:
        self._inferring = Inferring(plan, models, with_sessions=with_sessions)
        predictor = self._inferring.predictor
        self.timelines = Timelines(predictor.targets if predictor else ())
        self.files: dict[str, File] = {}
        if with_sessions:
            self.files["sessions"] = File("sessions", lambda: self._inferring.views.schemas[SESSION])
        if predictor is not None:
            self.files["inferences"] = File("inferences", partial(inference_schema, predictor.labels))

    @property
    def started(self) -> dict[str, int]:
        """Service → sessions that started."""
        return self._inferring.views.started

    @property
    def counters(self) -> dict[str, int]:
        """Sessions started, ended, refused and open."""
        return self._inferring.views.counters

    def add(self, batch: Batch) -> Iterator[Interval]:
        """Take the next records; what is complete by them."""
        return self._intervals(self._inferring.add(batch))

    def finish(self) -> Iterator[Interval]:
        """What is left."""
        return self._intervals(self._inferring.finish())

    def _intervals(self, moments: Iterable[Moment]) -> Iterator[Interval]:
        for moment in moments:
            self.timelines.add(moment)
            wanted = "sessions" in self.files and moment.sessions is not None
            sessions = Encoded(moment.sessions, session_lines) if wanted else None
            yield Interval(0, [], [], moment.inferences, sessions)
