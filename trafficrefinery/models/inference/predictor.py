"""From rows of sessions, flows or clients to the answers of models, those of labels smoothed over a unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trafficrefinery.models.targets import UNITS
from trafficrefinery.models.targets.units import INTERVAL
from trafficrefinery.records.inferences import (
    IDENTITY,
    NO_MODEL,
    NOT_PLAYING,
    PROBABILITY,
    QUANTILE,
    QUANTILES,
    SESSION,
    UNOBSERVED,
    UNSURE,
    inference_schema,
)
from trafficrefinery.records.schema import SCHEMA

from .asked import Asked
from .bundle import Bundle, BundleError
from .drift import Drift
from .slots import Slots


def feature_matrix(table: pa.Table, columns: Sequence[str]) -> NDArray[np.float32]:
    """The features of session-intervals, (rows, columns); NaN where one was not observed or is infinite."""
    made = np.empty((len(table), len(columns)), np.float32)
    with np.errstate(over="ignore"):
        for number, name in enumerate(columns):
            made[:, number] = table.column(name).to_numpy()  # nulls become NaN
    made[~np.isfinite(made)] = np.nan
    return made


class Predictor:
    """Runs models on the sessions, flows or clients of one interval after the other.

    For each target, a unit takes the model for its service, else the one for any service. What goes over intervals,
    which is 8 bytes a unit and label, is forgotten 10 minutes after its last interval.

    Args:
        smoothing: over the intervals of a unit.

    Raises:
        BundleError: two models are for the same, or have the same name for different targets.
    """

    def __init__(self, bundles: Sequence[Bundle], smoothing: bool = True) -> None:
        models: dict[str, dict[str, Bundle]] = {}
        for bundle in bundles:
            of_target = models.setdefault(bundle.target.name, {})
            for other in of_target.values():
                if other.target != bundle.target:
                    raise BundleError(
                        f"{bundle.label}: {other.label} has another target that is called {bundle.target.name} too; "
                        "give one of them another name"
                    )
            for service in bundle.services or ("",):
                other = of_target.setdefault(service, bundle)
                if other is not bundle:
                    what = f"the {bundle.target.name} of {service or 'any service'}"
                    raise BundleError(f"{bundle.label}: {other.label} is for {what} too; name one of them")
        self._asked = [Asked(next(iter(one.values())).target, one) for one in models.values()]
        self.targets = tuple(one.target for one in self._asked)
        self.labels_of = {one.target.name: one.labels for one in self._asked}
        self.labels = tuple(dict.fromkeys(label for one in self._asked for label in one.labels))
        self._smoothing = smoothing
        self._drifts = {id(bundle): Drift(bundle) for bundle in bundles}
        self._slots = {
            name: Slots(unit, some)
            for name, unit in UNITS.items()
            if (some := [one for one in self._asked if one.target.unit == name])
        }
        self.units = tuple(self._slots)

    def drift(self) -> float:
        """How far the sessions of late are from the training data; see `Drift.score`. NaN when not known."""
        scores = [drift.score() for drift in self._drifts.values()]
        return max((score for score in scores if score == score), default=float("nan"))

    def predict(self, table: pa.Table, unit: str = SESSION) -> pa.Table:
        """What is inferred of the units of one kind in one interval; see `inference_schema`.

        In the order of the rows, of each its targets in the order of the models. A target that is answered in every
        interval has a record for each row.

        Raises:
            BundleError: a column is missing.
        """
        return self.predict_rows(table, unit)[0]

    def predict_all(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """The same of units of several kinds, by kind."""
        return pa.concat_tables([
            inference_schema(self.labels).empty_table(), *(self.predict(table, unit) for unit, table in tables.items())
        ])  # fmt: skip

    def predict_rows(self, table: pa.Table, unit: str = SESSION) -> tuple[pa.Table, NDArray[np.intp]]:
        """The same, and the row of the table that each record is of."""
        made = [inference_schema(self.labels).empty_table()]
        if unit not in self._slots:
            return made[0], np.zeros(0, np.intp)
        of_unit = self._slots[unit]
        slots = of_unit.of(table)
        due = [asked.due(table, slots) for asked in of_unit.asked]
        made += [
            self._answers(asked, table if len(at) == len(table) else table.take(pa.array(at)), slots[at])
            for asked, at in zip(of_unit.asked, due, strict=True)
            if len(at)
        ]
        found, rows = pa.concat_tables(made), np.concatenate(due)
        if len(due) > 1:
            order = np.argsort(rows, kind="stable")
            found, rows = found.take(pa.array(order)), rows[order]
        of_unit.clean(float(table.column("ts_end").to_numpy().max()) if len(table) else 0.0)
        return found, rows

    def _answers(self, asked: Asked, table: pa.Table, slots: NDArray[np.intp]) -> pa.Table:
        """The records of a target, one for each row."""
        n = len(table)
        outputs = np.full((n, len(asked.labels) or len(QUANTILES)), np.nan)
        least, drift = np.zeros(n), np.full(n, np.nan)
        observed, models = np.zeros(n, np.bool_), np.zeros(n, np.intp)
        shared = asked.shared_out(table.column("service"))
        silent = _silent(table, asked)
        for number, (bundle, all_rows) in enumerate(shared, 1):
            models[all_rows] = number
            rows = all_rows[~silent[all_rows]]
            x = feature_matrix(_rows(table, bundle, rows), bundle.columns)
            outputs[rows] = asked.outputs(bundle, x, slots[rows], smoothing=self._smoothing)
            drift[rows] = self._drifts[id(bundle)].add(x)
            least[rows] = bundle.calibration.least_confidence
            observed[rows] = ~np.isnan(x).all(axis=1)
        names = pa.array([None, *(bundle.label for bundle, _ in shared)])
        found = _Found(outputs, least, drift, observed, models, silent, names.take(pa.array(models)))
        return _table(table, asked, self.labels, found)


def _rows(table: pa.Table, bundle: Bundle, rows: NDArray[np.intp]) -> pa.Table:
    """What a model needs of some rows, which are in order."""
    there = set(table.column_names)
    missing = [name for name in bundle.columns if name not in there]
    if missing:
        many = UNITS[bundle.target.unit].many
        raise BundleError(f"{bundle.label}: the {many} have no {missing[0]}; collect {', '.join(bundle.needs)}")
    chosen = table.select(list(bundle.columns))
    return chosen if len(rows) == len(table) else chosen.take(rows)


def _silent(table: pa.Table, asked: Asked) -> NDArray[np.bool_]:
    """In which rows nothing is played; a target that is answered once, such as a start-up delay, is asked anyway."""
    if asked.target.unit != SESSION or asked.target.when.at != INTERVAL or "playing" not in table.column_names:
        return np.zeros(len(table), np.bool_)
    found: NDArray[np.bool_] = table["playing"].cast(pa.bool_()).fill_null(True).to_numpy()
    return ~found


class _Found(NamedTuple):
    """What models say of rows.

    Args:
        outputs: see `Asked.outputs`; NaN without a model.
        least: confidence below which the model abstains.
        models: 0 where there is none.
        silent: nothing is played.
    """

    outputs: NDArray[np.float64]
    least: NDArray[np.float64]
    drift: NDArray[np.float64]
    observed: NDArray[np.bool_]
    models: NDArray[np.intp]
    silent: NDArray[np.bool_]
    names: pa.Array


def _table(table: pa.Table, asked: Asked, labels: Sequence[str], found: _Found) -> pa.Table:
    n, schema = len(table), inference_schema(labels)
    usable = (found.models > 0) & found.observed
    reason = np.where(usable, 0, np.where(found.models == 0, 3, np.where(found.silent, 4, 2)))
    made: dict[str, Any] = {
        "schema": pa.repeat(SCHEMA, n), "kind": pa.repeat("inference", n), "target": pa.repeat(asked.target.name, n),
        "unit": pa.repeat(asked.target.unit, n),
        "measured_in": pa.repeat(asked.target.measured_in or None, n).cast(pa.string()),
        "applies": pa.array(np.zeros(n, np.bool_), mask=usable | (reason == 4)),
        "drift": pa.array(found.drift, mask=np.isnan(found.drift)), "model": found.names,
    }  # fmt: skip
    if asked.labels:
        confidence = found.outputs.max(axis=1)
        known = usable & (confidence >= found.least)
        reason = np.where(usable & ~known, 1, reason)
        made["value"] = pa.array(asked.labels).take(pa.array(found.outputs.argmax(axis=1), mask=~known))
        made["confidence"] = pa.array(confidence, mask=~usable)
        names = [f"{PROBABILITY}{label}" for label in asked.labels]
    else:
        made["quantity"] = pa.array(found.outputs[:, QUANTILES.index(0.5)], mask=~usable)
        names = [f"{QUANTILE}{quantile}" for quantile in QUANTILES]
    made |= {name: pa.array(found.outputs[:, number], mask=~usable) for number, name in enumerate(names)}
    made["why"] = pa.array([None, UNSURE, UNOBSERVED, NO_MODEL, NOT_PLAYING], pa.string()).take(pa.array(reason))
    if "playing" in table.column_names:
        made["playing"] = table["playing"].cast(pa.bool_())
    identity = (*_OF_ALL, *IDENTITY[asked.target.unit])
    columns = [
        made[field.name] if field.name in made
        else table[field.name].cast(field.type) if field.name in identity else pa.nulls(n, field.type)
        for field in schema
    ]  # fmt: skip
    return pa.table(columns, schema=schema)


_OF_ALL = ("ts_start", "ts_end", "service", "client_ip")
