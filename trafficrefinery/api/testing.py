"""Packets by hand, for doctests and tests of feature classes."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from . import UP, Array, FeatureClass, Packet, state_dtype, state_fields
from .outputs import columns

_PACKET = np.dtype(
    [*((name, state_dtype(Packet)[name]) for name in state_fields(Packet)), ("raw_offset", "i8")], align=True
)


def packet(*, ts_s: float = 0.0, raw: bytes = b"", **fields: Any) -> Packet:
    """A packet with the given fields (`direction=DOWN`, `ip_bytes=1500`, `seq=…`); TCP, upstream, else zeros.

    `ts_s` is a convenience for `ts_ns`; `ip_bytes` defaults to the payload plus 40 bytes of headers.
    """
    record = np.zeros((), _PACKET)
    defaults: dict[str, Any] = {
        "ts_ns": round(ts_s * 1e9), "direction": UP, "protocol": 6, "ip_version": 4, "window_scale": -1,
        "ip_bytes": fields.get("payload_bytes", 0) + 40, "tcp_header_bytes": 20, "raw_bytes": len(raw),
    }  # fmt: skip
    for name, value in {**defaults, **fields}.items():
        if name not in state_fields(Packet):
            raise TypeError(f"packet() has no field {name!r}; there are {', '.join(state_fields(Packet))}")
        record[name] = value
    return Packet.bind_raw(record[()], np.frombuffer(raw, np.uint8))


def new_state(cls: type[FeatureClass]) -> Any:
    """A cleared instance of a feature class, on its own record; runs as plain Python."""
    made = cls.bind(np.zeros((), state_dtype(cls))[()])
    with np.errstate(all="ignore"):
        made.clear()
    return made


def feed(cls: type[FeatureClass], packets: Iterable[Packet], interval_s: float = 10.0) -> Any:
    """The output of one interval with the given packets."""
    state = new_state(cls)
    with np.errstate(all="ignore"):
        for pkt in packets:
            state.add_packet(pkt)
        return plain(state.collect_features(interval_s))


def plain(output: Any) -> Any:
    """The columns of an output as a NamedTuple, with Python numbers and lists, as they are printed and compared."""
    made: Any = type(output)
    found = {column.name: _python(column.value(output)) for column in columns(made)}
    return _flat(made.__name__, tuple(found))(**found)


@cache
def _flat(name: str, fields: tuple[str, ...]) -> Any:
    return namedtuple(name, fields)  # noqa: PYI024 (made from names)


def _python(value: Any) -> Any:
    if isinstance(value, Array):
        return [_python(item) for item in value]
    return value.item() if isinstance(value, np.generic | np.ndarray) else value
