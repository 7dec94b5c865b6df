"""What a model costs: time of a row, such as a session-interval, its size, and how late its predictions are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from trafficrefinery.costs.measure.clock import Distribution, Repeated, cpu_ns
from trafficrefinery.engine.plan import Plan
from trafficrefinery.models.inference import Bundle, Predictor, check, load_bundle
from trafficrefinery.models.targets import UNITS
from trafficrefinery.models.units.views import Views, wanted_by
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.inferences import inference_lines
from trafficrefinery.system.files import read_json

_MANY = 1000
_REPETITIONS = 7


class ModelCosts(NamedTuple):
    """Of one bundle.

    Args:
        session_intervals: in the trace.
        one_us: of a session-interval, in the intervals of the trace as they come.
        many_us: the same, when an interval has a thousand sessions.
        model_bytes, bundle_bytes: of the trees, and of all files.
        latency_ms: from the records of an interval to its predictions as JSON lines, of each interval.
        waiting_s: what comes before: from the end of an interval to its records, as configured (Grace).
        training_s: that the training took; None when the bundle does not say.
    """

    label: str
    session_intervals: int
    one_us: Repeated
    many_us: Repeated
    model_bytes: int
    bundle_bytes: int
    latency_ms: Distribution
    waiting_s: float
    training_s: float | None


class ModelRuns:
    """Runs each bundle beside a walk.

    Raises:
        BundleError: a bundle cannot be used, or not with the plan.
    """

    def __init__(self, paths: Sequence[str | Path], plan: Plan) -> None:
        self._plan, self._paths = plan, [Path(path) for path in paths]
        self._bundles = [load_bundle(path) for path in self._paths]
        for bundle in self._bundles:
            check(bundle, plan)
        self._views = Views(plan, wanted_by(self._bundles))
        self._predictors = [Predictor([bundle]) for bundle in self._bundles]
        self._latencies_ns: list[list[float]] = [[] for _ in self._bundles]
        self._tables: dict[str, list[pa.Table]] = {}

    def take(self, batch: Batch) -> None:
        """The records of one service and interval, as the daemon would hand them on."""
        before = cpu_ns()
        made = self._views.add(batch)
        made_ns = cpu_ns() - before
        for unit, table in made.items():
            self._tables.setdefault(unit, []).append(table)
        for bundle, predictor, found in zip(self._bundles, self._predictors, self._latencies_ns, strict=True):
            unit = bundle.target.unit
            if unit in made:
                before = cpu_ns()
                inference_lines(predictor.predict(made[unit], unit))
                found.append(cpu_ns() - before + made_ns)

    def costs(self) -> list[ModelCosts]:
        """Of each bundle."""
        return [
            self._costs_of(path, bundle, latencies)
            for path, bundle, latencies in zip(self._paths, self._bundles, self._latencies_ns, strict=True)
        ]

    def _costs_of(self, path: Path, bundle: Bundle, latencies_ns: list[float]) -> ModelCosts:
        tables = self._tables.get(bundle.target.unit, [])
        rows = sum(map(len, tables))
        nothing = Repeated(float("nan"), ())
        one = many = nothing
        if rows:
            one = Repeated.of([_predict_us(bundle, tables) for _ in range(_REPETITIONS)])
            wide = _many(tables, bundle.target.unit)
            many = Repeated.of([_predict_us(bundle, [wide]) for _ in range(_REPETITIONS)])
        files = {item.name: item.stat().st_size for item in path.iterdir()}
        return ModelCosts(
            bundle.label, rows, one, many, files["model.npz"], sum(files.values()),
            Distribution.of(np.array(latencies_ns) / 1e6), self._plan.config.grace_ns / 1e9, _training_s(path),
        )  # fmt: skip


def _predict_us(bundle: Bundle, tables: Sequence[pa.Table]) -> float:
    predictor = Predictor([bundle])
    before = cpu_ns()
    for table in tables:
        predictor.predict(table, bundle.target.unit)
    return (cpu_ns() - before) / 1e3 / sum(map(len, tables))


def _many(tables: Sequence[pa.Table], unit: str) -> pa.Table:
    """An interval with as many units as there are in a city: rows of the trace, each a session or flow of its own."""
    whole = pa.concat_tables(tables)
    wide = whole.take(np.arange(_MANY) % len(whole))
    name = UNITS[unit].id
    at = wide.schema.get_field_index(name)
    return wide.set_column(at, name, pa.array([f"{number:016x}" for number in range(_MANY)]))


def _training_s(path: Path) -> float | None:
    metrics = path / "metrics.json"
    if not metrics.is_file():
        return None
    found = read_json(metrics).get("training_s")
    return None if found is None else float(found)
