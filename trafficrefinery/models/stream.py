"""Batches of records to session-intervals, and to what models say of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from trafficrefinery.engine.worker import Plan
from trafficrefinery.errors import UsageError
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.schema import SCHEMA
from trafficrefinery.records.sinks.base import Inferences

from .inference import Bundle, Predictor, check, inference_lines, load_bundle
from .sessions import SessionView


class Moment(NamedTuple):
    """The sessions of all services with packets in an interval.

    Args:
        sessions: with the columns of `SessionView.schema`, by service and `session_id`.
        inferences: None without models.
    """

    sessions: pa.Table
    inferences: Inferences | None


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
            yield Moment(sessions, None if self.predictor is None else infer(self.predictor, sessions))


def infer(predictor: Predictor, sessions: pa.Table) -> Inferences:
    """What models say of the session-intervals of one interval."""
    found = predictor.predict(sessions)
    return Inferences(inference_table(predictor, found), inference_lines(predictor, found))


PROBABILITY = "probabilities."
"""What columns of probabilities begin with; the resolution follows."""


def inference_schema(resolutions: Sequence[int]) -> pa.Schema:
    """Inference records as columns, a probability for each resolution: `probabilities.720`."""
    whole, real, text = pa.int64(), pa.float64(), pa.string()
    fields = {
        "schema": whole, "kind": text, "ts_start": real, "ts_end": real, "service": text, "client_ip": text,
        "session_id": text, "resolution": whole, "confidence": real,
        **{f"{PROBABILITY}{resolution}": real for resolution in resolutions},
        "startup_delay_s": real, "drift": real, "model": text,
    }  # fmt: skip
    return pa.schema(list(fields.items()))


def inference_table(predictor: Predictor, found: pa.Table) -> pa.Table:
    """What a predictor gave, with the columns of `inference_schema`."""
    schema = inference_schema(predictor.resolutions)
    n = len(found)
    made = {name: found[name] for name in found.column_names}
    made |= {"schema": pa.repeat(SCHEMA, n), "kind": pa.repeat("inference", n), "model": pa.repeat(predictor.model, n)}
    for index, resolution in enumerate(predictor.resolutions):
        shares = pc.list_element(found["probabilities"], index) if n else pa.nulls(0, pa.float64())
        made[f"{PROBABILITY}{resolution}"] = pc.if_else(pc.is_nan(shares), None, shares)
    return pa.table([made[field.name].cast(field.type) for field in schema], schema=schema)
