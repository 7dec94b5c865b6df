"""What `features check` does with a session feature: it runs on flows of generated traffic, as in production.

The feature classes that it needs run on generated packets. Their rows are the flows of several sessions, which the
session feature gets together and session by session; at the end comes an interval in which nothing is known of any
flow. Both must give the same, and only numbers that can be written.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trafficrefinery.api import FeatureClass, state_dtype
from trafficrefinery.api.sessions import Flows, SessionFeature
from trafficrefinery.costs.measure.check_runs import INTERVAL_S
from trafficrefinery.engine.feature_classes.fields import output_fields
from trafficrefinery.engine.feature_classes.registry import Registry, specialise
from trafficrefinery.errors import FeatureError
from trafficrefinery.models.sessions import SessionRegistry, session_fields
from trafficrefinery.models.sessions.running import run_feature
from trafficrefinery.records.schema import feature_column

from . import failure, start
from .comparing import Results

SESSIONS, TOGETHER = 5, 1_000
"""Sessions that the generated flows are shared out to; sessions at once when the time is measured."""
_TCP, _ROUNDS = 6, 5
_LARGEST = 2.0**53
Figures = list[NDArray[np.float64]]
"""An array for each output, with an element for each session."""


@dataclass(frozen=True)
class SessionReport:
    """What a check found out.

    Args:
        state_bytes: of one session.
        flows: that had packets, of all intervals.
        session_us: µs of one session and interval, with `together` sessions at once.
        notes: what is allowed, but may not be meant.
    """

    state_bytes: int
    output_field_count: int
    flows: int
    sessions: int
    intervals: int
    session_us: float
    together: int
    notes: list[str] = field(default_factory=list)


class _Interval(NamedTuple):
    """The flows of one interval, sorted by session; `session` numbers are those of the whole check."""

    columns: Mapping[str, pl.Series]
    session: NDArray[np.intp]
    tcp: NDArray[np.bool_]
    age_s: float

    def flows(self, wanted: Sequence[int], times: int = 1) -> Flows:
        """Those of some sessions, `times` over as if of as many sessions more."""
        rows = np.flatnonzero(np.isin(self.session, wanted))
        dense = np.searchsorted(wanted, self.session[rows])
        session = (np.arange(times)[:, None] * len(wanted) + dense).ravel()
        age_s = np.full(len(wanted) * times, self.age_s)
        return Flows(self.columns, np.tile(rows, times), np.tile(self.tcp[rows], times), session, age_s, INTERVAL_S)


def check_session_feature(file: Path, name: str, params: Mapping[str, Any], paths: Iterable[Path]) -> SessionReport:
    """Run the session feature `name` of `file` on generated traffic, together and session by session.

    Args:
        paths: where feature classes lie that it needs, beside the built-in ones.

    Raises:
        FeatureError: what is wrong with it; FILE:LINE, class, field and reason.
        ConfigError: it has no such parameter.
    """
    registry = Registry(paths)
    cls = specialise(SessionRegistry([file], dict.fromkeys(registry.names(), ())).get(name), params, str(file))
    if not cls.needs:
        raise FeatureError(str(file), f"{name}.needs: is empty; name the feature classes whose outputs it is made from")
    classes = [registry.get(one) for one in cls.needs]
    intervals = _intervals(classes, _rows(classes, registry))
    whole = _run(cls, intervals, [range(SESSIONS)])
    for other, what in (
        (_run(cls, intervals, [range(SESSIONS)]), "a second time; keep all that is remembered in fields of the class"),
        (_run(cls, intervals, [[one] for one in range(SESSIONS)]), "alone; a session must not depend on others"),
    ):
        _compare(cls, file, whole, other, what)
    _check_numbers(cls, file, whole)
    _check_without_flows(cls, intervals[0])
    return SessionReport(
        state_bytes=state_dtype(cls).itemsize,
        output_field_count=len(session_fields(cls)),
        flows=sum(len(one.session) for one in intervals),
        sessions=SESSIONS,
        intervals=len(intervals),
        session_us=_session_us(cls, intervals[0]),
        together=TOGETHER,
        notes=_notes(cls, whole),
    )


def _rows(classes: list[type[FeatureClass]], registry: Registry) -> Results:
    """The rows of feature classes on generated packets, interpreted in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.npz"
        task = {"classes": [(str(registry.file_of(cls.__name__)), cls.__name__, {}) for cls in classes],
                "once": True, "out": str(out)}  # fmt: skip
        process = start("off", task)
        said, complaint = process.communicate()
        error = failure(classes[0], "off", process.returncode, said, complaint)
        if error is not None:
            raise error
        with np.load(out) as arrays:
            return dict(arrays)


def _intervals(classes: list[type[FeatureClass]], found: Results) -> list[_Interval]:
    """The rows as flows of `SESSIONS` sessions, interval by interval, and one more of which nothing is known."""
    rows, starts_ns = found["whole_rows"], found["interval_start_ns"]
    session = (found["flow"] % SESSIONS).astype(np.intp)
    made = []
    for number, start_ns in enumerate(np.unique(starts_ns)):
        chosen = np.flatnonzero(starts_ns == start_ns)
        chosen = chosen[np.argsort(session[chosen], kind="stable")]
        tcp = found["protocol"][chosen] == _TCP
        made.append(_Interval(_columns(classes, rows[chosen]), session[chosen], tcp, (number + 1) * INTERVAL_S))
    unknown = np.zeros(SESSIONS, rows.dtype)
    for cls in classes:
        for one in output_fields(cls):
            if one.kind == "float":
                unknown[cls.__name__][one.name] = np.nan
    of_all = np.arange(SESSIONS)
    made.append(_Interval(_columns(classes, unknown), of_all, of_all % 2 == 0, (len(made) + 1) * INTERVAL_S))
    return made


def _columns(classes: list[type[FeatureClass]], rows: NDArray[Any]) -> dict[str, pl.Series]:
    return {
        f"{cls.__name__}.{one.name}": feature_column(rows[cls.__name__][one.name], one)
        for cls in classes
        for one in output_fields(cls)
    }


def _run(cls: type[SessionFeature], intervals: list[_Interval], parts: Iterable[Sequence[int]]) -> Figures:
    """The figures of each interval and session, (intervals * sessions) for each output; NaN without flows."""
    made = np.full((len(session_fields(cls)), len(intervals), SESSIONS), np.nan)
    for part in parts:
        states = np.zeros(SESSIONS, state_dtype(cls))
        for number, interval in enumerate(intervals):
            there = [one for one in part if one in interval.session]
            if there:
                own = states[there]
                made[:, number, there] = run_feature(cls, own, interval.flows(there))
                states[there] = own
    return list(made.reshape(len(made), -1))


def _compare(cls: type[SessionFeature], file: Path, one: Figures, other: Figures, what: str) -> None:
    for column, first, second in zip(session_fields(cls), one, other, strict=True):
        same = np.isclose(first, second, rtol=1e-9, atol=1e-12, equal_nan=True)
        if not same.all():
            at = int(np.argmin(same))
            said = f"interval {at // SESSIONS}: {first[at]} with the sessions together, {second[at]} {what}"
            raise _wrong(cls, file, column.name, said)


def _check_numbers(cls: type[SessionFeature], file: Path, figures: Figures) -> None:
    for column, values in zip(session_fields(cls), figures, strict=True):
        known = values[~np.isnan(values)]
        if np.isinf(known).any():
            raise _wrong(cls, file, column.name, "is infinite; give nan for what was not observed")
        if column.kind == "int" and len(known) and (np.trunc(known) != known).any():
            odd = known[np.trunc(known) != known][0]
            raise _wrong(cls, file, column.name, f"is {odd}, but is declared as int; declare it as float")
        if column.kind == "int" and (np.abs(known) >= _LARGEST).any():
            raise _wrong(cls, file, column.name, "is beyond 2^53, where a float holds no whole numbers")


def _check_without_flows(cls: type[SessionFeature], interval: _Interval) -> None:
    """See that nothing is raised without any flow."""
    if cls.collect_sessions is not None:
        run_feature(cls, np.zeros(0, state_dtype(cls)), interval.flows([]))
        return
    one = cls.bind(np.zeros(1, state_dtype(cls))[0])
    try:
        with np.errstate(all="ignore"):
            one.collect_features(INTERVAL_S)
    except Exception as error:  # whatever the user's class raises
        where = cls.collect_features.__code__
        reason = f"{cls.__name__}: without flows, {type(error).__name__}: {error}"
        raise FeatureError(f"{where.co_filename}:{where.co_firstlineno}", reason) from error


def _session_us(cls: type[SessionFeature], interval: _Interval) -> float:
    there = np.unique(interval.session).tolist()
    times = TOGETHER // len(there)
    took_s = []
    for _ in range(_ROUNDS):
        flows, states = interval.flows(there, times), np.zeros(times * len(there), state_dtype(cls))
        began_s = time.perf_counter()
        run_feature(cls, states, flows)
        took_s.append(time.perf_counter() - began_s)
    return min(took_s) / (times * len(there)) * 1e6


def _notes(cls: type[SessionFeature], figures: Figures) -> list[str]:
    fields = session_fields(cls)
    never = [one.name for one, values in zip(fields, figures, strict=True) if np.isnan(values).all()]
    without = [one.name for one in fields if not one.doc]
    notes = [f"null everywhere on this traffic: {', '.join(never)}"] if never else []
    notes += [f"no unit behind {', '.join(without)}: `field: int  # bytes` documents it"] if without else []
    return notes if cls.__doc__ else [*notes, "no docstring: say what is measured, and where it comes from"]


def _wrong(cls: type[SessionFeature], file: Path, column: str, what: str) -> FeatureError:
    """An error about one output, at the line where it is declared."""
    name = column.partition(".")[2]
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if re.match(rf"\s+{re.escape(name)}\s*:", line):
            return FeatureError(f"{file}:{number}", f"{cls.__name__}.{name}: {what}")
    return FeatureError(str(file), f"{cls.__name__}.{name}: {what}")
