"""Runs a session feature on the flows of an interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.api.sessions import Flow, Flows, SessionFeature, States
from trafficrefinery.engine.feature_classes.registry import line_in
from trafficrefinery.errors import FeatureError

from .registry import session_fields, source_file


def run_feature(cls: type[SessionFeature], states: NDArray[Any], flows: Flows) -> list[NDArray[np.float64]]:
    """The figures of each session, an array for each output; NaN where one was not observed.

    Args:
        states: of the sessions, in their order; changed.

    Raises:
        FeatureError: the class raised, or gives something else than it declares; FILE:LINE, class and field.
    """
    fields = session_fields(cls)
    try:
        with np.errstate(all="ignore"):
            if cls.collect_sessions is not None:
                output = cls.collect_sessions(States(states, cls), flows)
                made = [field.column.value(output) for field in fields]
            else:
                made = _one_by_one(cls, states, flows)
    except Exception as error:  # whatever the user's class raises
        file = source_file(cls)
        reason = error.message if isinstance(error, FeatureError) else f"{type(error).__name__}: {error}"
        raise FeatureError(f"{file}:{line_in(error, Path(file))}", f"{cls.__name__}: {reason}") from error
    return [_figures(cls, field.name, values, flows.count) for field, values in zip(fields, made, strict=True)]


def _figures(cls: type[SessionFeature], name: str, values: Any, sessions: int) -> NDArray[np.float64]:
    try:
        made = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise FeatureError(source_file(cls), f"{cls.__name__}: {name}: {error}; give a number") from error
    if made.shape != (sessions,):
        what = f"has the shape {made.shape}, for {sessions} sessions it should be ({sessions},)"
        raise FeatureError(source_file(cls), f"{cls.__name__}: {name}: {what}")
    return made


def _one_by_one(cls: type[SessionFeature], states: Any, flows: Flows) -> list[list[float]]:
    """The columns of a class that takes one flow of one session after the other."""
    ends = np.append(flows.starts[1:], len(flows.session)).tolist()
    outputs = []
    for number, (first, end) in enumerate(zip(flows.starts.tolist(), ends, strict=True)):
        one = cls.bind(states[number])
        for row in range(first, end):
            one.add_flow(Flow(flows, row))
        output = one.collect_features(flows.interval_s)
        outputs.append([field.column.value(output) for field in session_fields(cls)])
        one.clear()
    return [list(column) for column in zip(*outputs, strict=True)]
