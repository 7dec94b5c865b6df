"""A feature class compiled on its own, without the packet path: for traces that are too long for plain Python."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from support.naive.packets import P
from trafficrefinery.api import Packet, parameters, state_dtype, state_fields
from trafficrefinery.engine.feature_classes.fields import output_dtype
from trafficrefinery.engine.feature_classes.transform import ClassFunctions, reads_raw
from trafficrefinery.jit import keep, records

_FIELDS = list(state_fields(Packet))
_GIVEN = [name for name in _FIELDS if name in P.__slots__]
_VALUES = attrgetter(*_GIVEN)
_RECORD = np.dtype([*((name, state_dtype(Packet)[name]) for name in _FIELDS), ("raw_offset", "i8")], align=True)
_HEAD = """
import math
import numpy as np
from numpy import float64, int64
from trafficrefinery.jit import helper, kernel
from trafficrefinery.engine.feature_classes.runtime import isfinite, isnan, put_list, raw_byte, seq_diff, seq_lt, sqrt
"""
_RUN = """
@kernel
def run(state, packets, rows, buffer, interval_s):
    row = -1
    start = -1
    for i in range(len(packets)):
        if packets[i].interval_start_ns != start:
            if row >= 0:
                {collect}(state[0], rows[row], interval_s)
                {clear}(state[0])
            row += 1
            start = packets[i].interval_start_ns
        {add}(state[0], packets[i]{buffer})
    {collect}(state[0], rows[row], interval_s)
    return row + 1
"""


def compiled(cls: Any) -> Callable[[Sequence[Sequence[P]]], list[dict[str, Any]]]:
    """A function from the intervals of a flow, none empty, to their outputs; the packets' raw bytes are not there."""
    program = ClassFunctions()
    names = {"buffer": ", buffer" if reads_raw(cls.add_packet) else ""}
    names |= {key: program.method(cls, method, cls.__name__) for key, method in _METHODS.items()}
    functions = [f"@helper\n{ast.unparse(ast.fix_missing_locations(node))}" for node, _ in program.functions]
    module = _module("\n\n".join([_HEAD, *functions, _RUN.format(**names)]), f"{cls.__name__}{parameters(cls)}")
    dtype = output_dtype(cls)

    def run(intervals: Sequence[Sequence[P]]) -> list[dict[str, Any]]:
        packets = _records([p for packets in intervals for p in packets])
        state = records(np.zeros(1, state_dtype(cls)))
        rows = records(np.zeros(len(intervals), dtype))
        module.run(state, packets, rows, np.zeros(1, np.uint8), 10.0)
        return [{name: row[name].item() for name in dtype.names} for row in rows]

    return run


_METHODS = {"add": "add_packet", "collect": "collect_features", "clear": "clear"}


def _records(packets: list[P]) -> Any:
    columns = np.array([_VALUES(p) for p in packets], np.int64).T
    made = np.zeros(len(packets), _RECORD)
    for name, column in zip(_GIVEN, columns, strict=True):
        made[name] = column
    return records(made)


def _module(text: str, what: str) -> Any:
    name = f"alone_{hashlib.sha256((text + what).encode()).hexdigest()[:16]}"
    path = keep(f"{name}.py", text.encode())
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
