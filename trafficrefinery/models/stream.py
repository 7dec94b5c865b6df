"""Batches of records to session-intervals, and to what models say of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from trafficrefinery.engine.worker import Plan
from trafficrefinery.errors import UsageError
from trafficrefinery.records.aggregate import Batch

from .inference import Bundle, Predictor, check, load_bundle
from .sessions import SessionView


class Moment(NamedTuple):
    """The sessions of all services with packets in an interval.

    Args:
        sessions: with the columns of `SessionView.schema`, by service and `session_id`.
        inferences: with the columns of `inference_schema`; None without models.
    """

    sessions: pa.Table
    inferences: pa.Table | None


def load_models(plan: Plan, folders: Iterable[Path]) -> list[Bundle]:
    """Models that fit a configuration.

    Raises:
        BundleError: one is damaged, was changed, or does not fit.
        UsageError: no service has sessions.
    """
    bundles = []
    for folder in folders:
        bundle = load_bundle(folder)
        check(bundle, plan)
        bundles.append(bundle)
    return bundles


def open_view(plan: Plan) -> SessionView:
    """The session view of a configuration.

    Raises:
        UsageError: no service has sessions.
    """
    view = SessionView(plan)
    if not view.services:
        raise UsageError(
            f"{plan.config.file}: Services: none collects VideoSegments, which make sessions; add it to Collect"
        )
    return view


def predictor_of(plan: Plan, folders: Sequence[Path]) -> Predictor | None:
    """What runs these models; None without any."""
    return Predictor(load_models(plan, folders), smoothing=plan.config.inference.smoothing) if folders else None


class Inferring:
    """Session-intervals of batches in the order in which they come, and what models say of them.

    Raises:
        BundleError, UsageError: a model cannot be used, or no service has sessions.
    """

    def __init__(self, plan: Plan, models: Sequence[Path] = ()) -> None:
        self.view = open_view(plan)
        self.predictor = predictor_of(plan, models)
        self._end_s: float | None = None
        self._waiting: list[pa.Table] = []

    def add(self, batch: Batch) -> Iterator[Moment]:
        """Take a batch; what is complete, because it is of a later interval."""
        if not len(batch.flow["ts_end"]):
            return
        end_s = float(batch.flow["ts_end"][0])
        if end_s != self._end_s:
            yield from self.finish()
            self._end_s = end_s
        made = self.view.add(batch)
        if made is not None:
            self._waiting.append(made.table)

    def finish(self) -> Iterator[Moment]:
        """What is left."""
        if self._waiting:
            sessions = pa.concat_tables(self._waiting)
            self._waiting = []
            yield Moment(sessions, None if self.predictor is None else self.predictor.predict(sessions))
