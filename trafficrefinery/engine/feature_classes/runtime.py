"""What a generated step module calls beside the feature classes' own functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from trafficrefinery import api
from trafficrefinery.api.testing import plain
from trafficrefinery.jit import callback, helper, inlined, table_at
from trafficrefinery.packets.blanking import blanked_byte
from trafficrefinery.packets.parser import PACKET
from trafficrefinery.packets.tls_records import note_record

from .compile_errors import failure

seq_diff = inlined(api.seq_diff)
isnan = inlined(api.isnan)
isfinite = inlined(api.isfinite)
sqrt = inlined(api.sqrt)
seq_lt = inlined(api.seq_lt)


@helper
def put_list(field, values):
    """Fill a list field of a row; what does not fit is left out."""
    n = min(len(values), len(field.items))
    field.n = n
    for i in range(n):
        field.items[i] = values[i]


@helper
def raw_byte(r, buffer, index):
    """Packet.raw."""
    if index < 0 or index >= np.int64(r.raw_bytes):
        return np.int64(0)
    return np.int64(buffer[r.raw_offset + index])


class _BlankedPacket(api.Packet):
    """A packet whose raw bytes do not tell its addresses."""

    def raw(self, index: int) -> int:
        return blanked_byte(self._record, self._buffer, index)  # type: ignore[no-any-return]  # a compiled function


def plain_step(profile: Any, blanked: bool) -> tuple[int, int, int, int]:
    """The functions of a step for plain Python: start, add_packet, collect, end_flow; see `fuse.ProfileStep`."""
    state_dtype, row_dtype = profile.state_dtype(), profile.row_dtype()
    most = profile.first_packets
    kind = _BlankedPacket if blanked else api.Packet

    def states(address: int) -> Iterator[Any]:
        record = table_at(address, 1, state_dtype)[0]
        return (cls.bind(record[cls.__name__]) for cls in profile.classes)

    def start(state: int, errors: int) -> None:
        see_none(state)
        for bound in states(state):
            api.Struct.clear(bound)
            with _failures(bound):
                bound.clear()

    def see_none(state: int) -> None:
        if most is not None:
            table_at(state, 1, state_dtype)[0]["packets_seen"] = 0

    def add_packet(state: int, packet: int, buffer: int, buffer_bytes: int, errors: int) -> None:
        if most is not None:
            record = table_at(state, 1, state_dtype)[0]
            if record["packets_seen"] >= most:
                return
            record["packets_seen"] += 1
        record, raw = table_at(packet, 1, PACKET)[0], table_at(buffer, buffer_bytes, np.dtype("u1"))
        note_record(record, raw)
        pkt = kind.bind_raw(record, raw)
        for bound in states(state):
            with _failures(bound):
                bound.add_packet(pkt)

    def collect(state: int, row: int, interval_s: float, errors: int) -> None:
        see_none(state)
        out = table_at(row, 1, row_dtype)[0]
        for bound in states(state):
            fields = out[type(bound).__name__]
            with _failures(bound):
                values = plain(bound.collect_features(np.float64(interval_s)))._asdict()
                for field in fields.dtype.names:
                    _put(fields, field, values[field])
                bound.clear()

    def end_flow(state: int, how: int, errors: int) -> None:
        for bound in states(state):
            with _failures(bound):
                bound.end_flow(how)

    return callback("")(start), callback("")(add_packet), callback("")(collect), callback("")(end_flow)


class _failures:  # noqa: N801 (a context manager; as a generator it would cost more)
    """Turns what a class raises into a FeatureError that names its line."""

    def __init__(self, bound: api.FeatureClass) -> None:
        self._bound = bound

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            raise failure(error, type(self._bound).add_packet.__code__.co_filename) from error


def _put(out: Any, field: str, value: Any) -> None:
    if out.dtype[field].names is None:
        out[field] = value
        return
    items = out[field]["items"]
    n = min(len(value), len(items))
    out[field]["n"] = n
    items[:n] = list(value)[:n]
