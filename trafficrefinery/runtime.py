"""What a generated step module calls beside the feature classes' own functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery import api
from trafficrefinery.jit import COMPILED, helper
from trafficrefinery.testing import plain

seq_diff = helper(api.seq_diff)
isnan = helper(api.isnan)
isfinite = helper(api.isfinite)
sqrt = helper(api.sqrt)
seq_lt = helper(api.seq_lt)


@helper
def put_list(field, values):  # type: ignore[no-untyped-def]  # compiled
    """Fill a list field of a row; what does not fit is left out."""
    n = min(len(values), len(field.items))
    field.n = n
    for i in range(n):
        field.items[i] = values[i]


@helper
def raw_byte(r, buffer, index):  # type: ignore[no-untyped-def]
    """Packet.raw."""
    if index < 0 or index >= np.int64(r.raw_bytes):
        return np.int64(0)
    return np.int64(buffer[r.raw_offset + index])


class PlainStates:
    """Feature classes as they stand, called by the packet loop in plain Python."""

    def __init__(self, profiles: Sequence[Any], module: dict[str, Any]) -> None:
        assert not COMPILED
        self._module = module
        self._classes = [profile.classes for profile in profiles]

    def _bound(self, p: Any, profile: int, slot: int) -> list[tuple[str, Any]]:
        record = self._module[f"state{profile}_of"](p)[slot]
        return [(cls.__name__, cls.bind(record[cls.__name__])) for cls in self._classes[profile]]

    def add_packet(self, p: Any, profile: int, slot: int, r: Any, buffer: NDArray[np.uint8]) -> None:
        pkt = api.Packet.bind_raw(r, buffer)
        for _, state in self._bound(p, profile, slot):
            state.add_packet(pkt)

    def start_state(self, p: Any, profile: int, slot: int) -> None:
        for _, state in self._bound(p, profile, slot):
            api.Struct.clear(state)
            state.clear()

    def collect_row(
        self, fill: Callable[..., None], p: Any, profile: int, slot: int, row: int, header: Any, interval_s: float
    ) -> None:
        out = self._module[f"rows{profile}_of"](p)[row]
        fill(out["flow"], header)
        for name, state in self._bound(p, profile, slot):
            values = plain(state.collect_features(np.float64(interval_s)))._asdict()
            for field in out[name].dtype.names:
                _put(out[name], field, values[field])
            state.clear()


def _put(out: Any, field: str, value: Any) -> None:
    if out.dtype[field].names is None:
        out[field] = value
        return
    items = out[field]["items"]
    n = min(len(value), len(items))
    out[field]["n"] = n
    items[:n] = list(value)[:n]
