"""From session-intervals to what was played: resolutions, smoothed over a session, and startup delays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trafficrefinery.models.targets import RESOLUTION
from trafficrefinery.records.inferences import PROBABILITY, inference_schema
from trafficrefinery.records.schema import SCHEMA

from .bundle import QUANTILES, Bundle, BundleError

STARTUP_S = 10.0
_KEPT_S = 600.0
_SAMPLE = 500
_MEMORY = 20_000.0
"""Of each interval about so many rows count for the drift score; so many rows later, they count half."""


def feature_matrix(table: pa.Table, columns: Sequence[str]) -> NDArray[np.float32]:
    """The features of session-intervals, (rows, columns); NaN where one was not observed or is infinite."""
    made = np.empty((len(table), len(columns)), np.float32)
    with np.errstate(over="ignore"):
        for number, name in enumerate(columns):
            made[:, number] = table.column(name).to_numpy()  # nulls become NaN
    made[~np.isfinite(made)] = np.nan
    return made


def smooth(belief: NDArray[np.float64], seen: NDArray[np.float64], stay: float, weight: float) -> NDArray[np.float64]:
    """One step of the forward algorithm (Rabiner, Proc. IEEE 77(2), 1989) for many sessions at once.

    Args:
        belief: (sessions, resolutions), after the interval before.
        seen: (sessions, resolutions), what this interval alone tells.
        stay: probability that the resolution is the same as in the interval before.
        weight: exponent of what this interval tells; below 1, because neighbouring intervals tell much the same.
    """
    n = belief.shape[1]
    if n == 1:
        return np.ones_like(belief)
    now = belief * stay + (1 - belief) * ((1 - stay) / (n - 1))
    now = now * np.maximum(seen, 1e-4) ** weight
    smoothed: NDArray[np.float64] = now / now.sum(axis=1, keepdims=True)
    return smoothed


class _Drift:
    """How far the features of late are from the training data: population stability index."""

    def __init__(self, bundle: Bundle) -> None:
        columns, edges = bundle.bins.shape
        self._edges = bundle.bins
        self._counts = np.zeros((columns, edges - 1))
        # Values that many rows have are several quantiles at once.
        self._expected = np.array([
            np.bincount(np.searchsorted(row[1:-1], row[1:]), minlength=edges - 1) for row in bundle.bins
        ]) / (edges - 1)  # fmt: skip

    def add(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Count some of the rows, and tell of each the share of its features outside the training data's range."""
        sample = rows[:: max(len(rows) // _SAMPLE, 1)]
        self._counts *= 0.5 ** (len(sample) / _MEMORY)
        for column, edges in enumerate(self._edges):
            values = sample[:, column]
            places = np.searchsorted(edges[1:-1], values[~np.isnan(values)])
            self._counts[column] += np.bincount(places, minlength=len(edges) - 1)
        low, high = self._edges[:, 0], self._edges[:, -1]
        with np.errstate(invalid="ignore"):
            outside: NDArray[np.float64] = ((rows < low) | (rows > high)).mean(axis=1)
        return outside

    def score(self) -> float:
        """Mean index over the features; above 0.25 is usually called a major shift. NaN before 100 rows."""
        totals = self._counts.sum(axis=1, keepdims=True)
        used = totals[:, 0] >= 100
        if not used.any():
            return float("nan")
        found = np.maximum(self._counts[used] / totals[used], 1e-4)
        expected = np.maximum(self._expected[used], 1e-4)
        return float(((found - expected) * np.log(found / expected)).sum(axis=1).mean())


class Predictor:
    """Runs models on the sessions of one interval after the other.

    A session takes the model for its service, else the one for any service. What goes over intervals, which is 8 bytes
    a session and resolution, is forgotten 10 minutes after its last interval.

    Args:
        smoothing: over the intervals of a session.

    Raises:
        BundleError: two models are for the same.
    """

    def __init__(self, bundles: Sequence[Bundle], smoothing: bool = True) -> None:
        self._models: dict[tuple[str, str], Bundle] = {}
        for bundle in bundles:
            for service in bundle.services or ("",):
                other = self._models.setdefault((bundle.target.name, service), bundle)
                if other is not bundle:
                    what = f"the {bundle.target.name} of {service or 'any service'}"
                    raise BundleError(f"{bundle.label}: {other.label} is for {what} too; name one of them")
        self.model = "+".join(bundle.label for bundle in bundles)
        self.resolutions = tuple(sorted({one for bundle in bundles for one in map(int, bundle.labels)}))
        self._smoothing = smoothing
        self._drifts = {id(bundle): _Drift(bundle) for bundle in bundles}
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._belief = np.zeros((0, len(self.resolutions)))
        self._latest_s = np.zeros(0)
        self._started = np.zeros(0, np.bool_)
        self._cleaned_s = 0.0

    def drift(self) -> float:
        """How far the sessions of late are from the training data; see `_Drift.score`. NaN when not known."""
        scores = [drift.score() for drift in self._drifts.values()]
        return max((score for score in scores if score == score), default=float("nan"))

    def predict(self, table: pa.Table) -> pa.Table:
        """What is inferred of the session-intervals of one interval, in their order; see `inference_schema`.

        Raises:
            BundleError: a column is missing.
        """
        n = len(table)
        sessions = table.column("session_id").to_pylist()
        ts_end = table.column("ts_end").to_numpy()
        slots = self._slots_of(sessions, ts_end)
        probabilities = np.full((n, len(self.resolutions)), np.nan)
        least = np.zeros(n)
        startup_s = np.full(n, np.nan)
        drift = np.full(n, np.nan)
        for bundle, rows in self._shared_out(table):
            x = feature_matrix(_rows(table, bundle, rows), bundle.columns)
            drift[rows] = np.fmax(drift[rows], self._drifts[id(bundle)].add(x))
            if bundle.target == RESOLUTION:
                probabilities[rows] = self._resolved(bundle, x, slots[rows])
                least[rows] = bundle.calibration.least_confidence
        for bundle, rows in self._shared_out(table, "startup"):
            due = rows[self._due(table, rows, slots[rows])]
            if len(due):
                x = feature_matrix(_rows(table, bundle, due), bundle.columns)
                startup_s[due] = np.maximum(bundle.outputs(x)[:, QUANTILES.index(0.5)], 0.0)
        others = {"startup_delay_s": startup_s, "drift": drift}
        made = _table(table, self.resolutions, self.model, probabilities, least, others)
        self._clean(float(ts_end.max()) if n else 0.0)
        return made

    def _shared_out(self, table: pa.Table, target: str = "resolution") -> list[tuple[Bundle, NDArray[np.intp]]]:
        services = table.column("service").combine_chunks().dictionary_encode()
        index = services.indices.to_numpy(zero_copy_only=False)
        rows_of: dict[int, tuple[Bundle, list[NDArray[np.intp]]]] = {}
        for number, service in enumerate(services.dictionary.to_pylist()):
            bundle = self._models.get((target, service)) or self._models.get((target, ""))
            if bundle is not None:
                rows_of.setdefault(id(bundle), (bundle, []))[1].append(np.flatnonzero(index == number))
        return [(bundle, np.sort(np.concatenate(parts))) for bundle, parts in rows_of.values()]

    def _resolved(self, bundle: Bundle, x: NDArray[np.float32], slots: NDArray[np.intp]) -> NDArray[np.float64]:
        """Probabilities over all resolutions; those that a model does not know have none."""
        at = np.searchsorted(self.resolutions, [*map(int, bundle.labels)])
        seen = bundle.outputs(x)
        if self._smoothing:
            before = self._belief[np.ix_(slots, at)]
            new = before.sum(axis=1) == 0
            before[new] = 1 / len(at)
            seen = smooth(before, seen, bundle.calibration.stay, bundle.calibration.weight)
            self._belief[np.ix_(slots, at)] = seen
        wide = np.zeros((len(x), len(self.resolutions)))
        wide[:, at] = seen
        return wide

    def _due(self, table: pa.Table, rows: NDArray[np.intp], slots: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whose startup delay is to be inferred: once, in the first interval that ends 10 s or more after the start."""
        begin, end, start = (table.column(name).to_numpy()[rows] for name in ("ts_start", "ts_end", "session_start"))
        old = end - start >= STARTUP_S
        due: NDArray[np.bool_] = old & ~self._started[slots] & (begin - start < STARTUP_S)
        self._started[slots] |= old
        return due

    def _slots_of(self, sessions: list[str], ts_end: NDArray[np.float64]) -> NDArray[np.intp]:
        slots = np.fromiter((self._slots.get(one, -1) for one in sessions), np.intp, len(sessions))
        for row in np.flatnonzero(slots < 0).tolist():
            if not self._free:
                self._grow(len(sessions))
            slot = self._free.pop()
            self._slots[sessions[row]] = slots[row] = slot
            self._belief[slot], self._started[slot] = 0.0, False
        self._latest_s[slots] = ts_end
        return slots

    def _grow(self, more: int) -> None:
        before = len(self._belief)
        more = max(more, before, 64)
        self._belief = np.concatenate((self._belief, np.zeros((more, len(self.resolutions)))))
        self._latest_s = np.concatenate((self._latest_s, np.zeros(more)))
        self._started = np.concatenate((self._started, np.zeros(more, np.bool_)))
        self._free.extend(range(before + more - 1, before - 1, -1))

    def _clean(self, now_s: float) -> None:
        if now_s - self._cleaned_s < _KEPT_S:
            return
        self._cleaned_s = now_s
        for session, slot in list(self._slots.items()):
            if self._latest_s[slot] < now_s - _KEPT_S:
                del self._slots[session]
                self._free.append(slot)


def _rows(table: pa.Table, bundle: Bundle, rows: NDArray[np.intp]) -> pa.Table:
    """What a model needs of some rows, which are in order."""
    there = set(table.column_names)
    missing = [name for name in bundle.columns if name not in there]
    if missing:
        raise BundleError(f"{bundle.label}: the sessions have no {missing[0]}; collect {', '.join(bundle.needs)}")
    chosen = table.select(list(bundle.columns))
    return chosen if len(rows) == len(table) else chosen.take(rows)


def _table(
    table: pa.Table, resolutions: tuple[int, ...], model: str, probabilities: NDArray[np.float64],
    least: NDArray[np.float64], others: Mapping[str, NDArray[np.float64]],
) -> pa.Table:  # fmt: skip
    n = len(table)
    known = np.zeros(n, np.bool_)
    best, confidence = np.zeros(n, np.int64), np.full(n, np.nan)
    if resolutions:
        known = ~np.isnan(probabilities[:, 0])
        best = np.array(resolutions)[probabilities.argmax(axis=1)]
        confidence = probabilities.max(axis=1)
    shares = {f"{PROBABILITY}{one}": probabilities[:, number] for number, one in enumerate(resolutions)}
    made: dict[str, Any] = {
        "schema": pa.repeat(SCHEMA, n), "kind": pa.repeat("inference", n), "model": pa.repeat(model, n),
        "resolution": pa.array(best, mask=~(known & (confidence >= least))),
        "confidence": pa.array(confidence, mask=~known),
        **{name: pa.array(values, mask=np.isnan(values)) for name, values in {**shares, **others}.items()},
    }  # fmt: skip
    schema = inference_schema(resolutions)
    return pa.table([made[field.name] if field.name in made else table[field.name] for field in schema], schema=schema)
