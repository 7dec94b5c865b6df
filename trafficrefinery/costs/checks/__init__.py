"""What `features check` does: a feature class on generated traffic, in every way in which it can run.

Interpreted, compiled with bounds checks, and compiled, each in a process of its own; with the flows together, and one
after the other with states that move in memory. All must give the same.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trafficrefinery.api import FeatureClass, state_dtype
from trafficrefinery.engine.feature_classes.fields import output_fields, source_of
from trafficrefinery.engine.feature_classes.fuse import Profile, compiled_source
from trafficrefinery.engine.feature_classes.registry import Registry, specialise
from trafficrefinery.errors import FeatureError

from .comparing import Results, compare, nulls
from .examples import run_examples
from .run_mode import WRONG

_WAYS = {"boundscheck": "bounds-checked", "off": "interpreted", "on": "compiled"}
"""Values of TRAFFICREFINERY_JIT, in the order in which an error of theirs tells most."""


@dataclass(frozen=True)
class Report:
    """What a check found out.

    Args:
        state_bytes: of one flow.
        output_bytes: of one row.
        rows: flows times intervals.
        add_packet_ns: of one packet, net of a class that does nothing.
        collect_ns: of one row, likewise.
        examples: doctests that were run.
        notes: what is allowed, but may not be meant.
    """

    name: str
    file: Path
    state_bytes: int
    output_bytes: int
    output_field_count: int
    packets: int
    flows: int
    rows: int
    add_packet_ns: float
    collect_ns: float
    examples: int
    notes: list[str] = field(default_factory=list)


def check_class(file: Path, name: str, params: Mapping[str, Any] | None = None) -> Report:
    """Run the class `name` of `file` with some parameters in every way, and compare.

    Raises:
        FeatureError: what is wrong with the class; FILE:LINE, reason, hint.
        ConfigError: it has no such parameter.
    """
    cls = specialise(Registry([file]).get(name), params or {}, str(file))
    compiled_source([Profile((cls,), 1)])  # what cannot be translated is found before any process is started
    examples = run_examples(cls)
    with tempfile.TemporaryDirectory() as folder:
        results = _run_all(cls, params or {}, file, Path(folder))
    compare(cls, results)
    compiled = results["on"]
    return Report(
        name=name,
        file=file,
        state_bytes=state_dtype(cls).itemsize,
        output_bytes=compiled["whole_rows"].dtype[name].itemsize,
        output_field_count=len(output_fields(cls)),
        packets=int(compiled["packets"]),
        flows=int(compiled["flows"]),
        rows=len(compiled["whole_rows"]),
        add_packet_ns=float(compiled["add_packet_ns"]),
        collect_ns=float(compiled["collect_ns"]),
        examples=examples,
        notes=[*nulls(cls, compiled), *_undocumented(cls, examples)],
    )


def _undocumented(cls: type[FeatureClass], examples: int) -> list[str]:
    without = [field.name for field in output_fields(cls) if not field.doc]
    notes = [f"no unit behind {', '.join(without)}: `field: int  # bytes` documents it"] if without else []
    return notes if examples else [*notes, "no doctest: an example with feed and packet documents the class"]


def _run_all(cls: type[FeatureClass], params: Mapping[str, Any], file: Path, folder: Path) -> dict[str, Results]:
    task = {"classes": [(str(file), cls.__name__, dict(params))], "once": False}
    processes = {way: start(way, {**task, "out": str(folder / f"{way}.npz")}) for way in _WAYS}
    unplaced: FeatureError | None = None
    try:
        for way, process in processes.items():
            said, complaint = process.communicate()
            error = failure(cls, way, process.returncode, said, complaint)
            if error is not None and way == "boundscheck" and error.where == source_of(cls.add_packet):
                unplaced = error  # plain Python may know the line
            elif error is not None:
                raise error
            elif unplaced is not None:
                raise unplaced
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    results = {}
    for way in _WAYS:
        with np.load(folder / f"{way}.npz") as arrays:
            results[way] = dict(arrays)
    return results


def start(way: str, task: Mapping[str, Any]) -> subprocess.Popen[str]:
    """Start a process that runs classes in one way; see `run_mode`."""
    return subprocess.Popen(
        [sys.executable, "-m", "trafficrefinery.costs.checks.run_mode", json.dumps(task)],
        env={**os.environ, "TRAFFICREFINERY_JIT": way},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def failure(cls: type[FeatureClass], way: str, status: int, said: str, complaint: str) -> FeatureError | None:
    """What a process that failed says about the class."""
    if status == 0:
        return None
    told = json.loads(said.splitlines()[-1]) if status == WRONG else {}
    if told.get("where"):
        return FeatureError(told["where"], told["message"])
    last = told.get("message") or (complaint.strip().splitlines() or [""])[-1] or signal.strsignal(-status)
    if status == -signal.SIGXCPU:
        last = "a loop that does not end; give it a bound"
    return FeatureError(source_of(cls.add_packet), f"{cls.__name__}: {_WAYS[way]}, it ended with {last}")
