"""Batches of records to rows of sessions, flows or clients, and to what models say of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from trafficrefinery.engine.plan import Plan
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.inferences import SESSION

from .inference import Bundle, Predictor, check, load_bundle
from .units.views import Views, Wanted, wanted_by


class Moment(NamedTuple):
    """The units of all services with packets in an interval.

    Args:
        sessions: with the columns of `SessionView.schema`, by service and `session_id`; None without any.
        inferences: with the columns of `inference_schema`; None without models.
    """

    sessions: pa.Table | None
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


class Inferring:
    """Rows of units of batches in the order in which they come, and what models say of them.

    Args:
        with_sessions: session-intervals are wanted, whatever the models are of.

    Raises:
        BundleError, UsageError: a model cannot be used, or no service has sessions that are wanted.
    """

    def __init__(self, plan: Plan, models: Sequence[Path] = (), *, with_sessions: bool = False) -> None:
        bundles = load_models(plan, models)
        wanted = wanted_by(bundles)
        if with_sessions or SESSION in wanted:
            wanted[SESSION] = Wanted()
        self.views = Views(plan, wanted)
        self.predictor = Predictor(bundles, smoothing=plan.config.inference.smoothing) if bundles else None
        self._end_s: float | None = None
        self._waiting: dict[str, list[pa.Table]] = {}

    def add(self, batch: Batch) -> Iterator[Moment]:
        """Take a batch; what is complete, because it is of a later interval."""
        if not len(batch.flow["ts_end"]):
            return
        end_s = float(batch.flow["ts_end"][0])
        if end_s != self._end_s:
            yield from self._complete()
            self._end_s = end_s
        self._keep(self.views.add(batch))

    def finish(self) -> Iterator[Moment]:
        """What is left."""
        yield from self._complete()
        self._keep(self.views.finish())
        yield from self._complete()

    def _keep(self, made: Mapping[str, pa.Table]) -> None:
        for unit, table in made.items():
            self._waiting.setdefault(unit, []).append(table)

    def _complete(self) -> Iterator[Moment]:
        if self._waiting:
            tables = {unit: pa.concat_tables(some) for unit, some in self._waiting.items()}
            self._waiting = {}
            yield Moment(tables.get(SESSION), None if self.predictor is None else self.predictor.predict_all(tables))
