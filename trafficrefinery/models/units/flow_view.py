"""From the records of flows to rows of flows for models."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from trafficrefinery.engine.plan import Plan
from trafficrefinery.jit.lazy import Late
from trafficrefinery.models.targets import UNITS
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.inferences import FLOW

from .flow_columns import FLOW_COLUMNS, UnitField, flow_fields, unit_schema

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
else:
    pl = Late("polars")

_OPEN = "open"


class FlowView:
    """Gives a row of each flow and interval, of batches of records in their order.

    Args:
        only: columns of features that are wanted; None: all.
        with_last: give the last row of each flow once more, marked `is_last`: when its packets showed its end, or
            after it was silent for `FlowCache.IdleTimeout`. Until then the last rows of all flows are kept.
    """

    def __init__(self, plan: Plan, only: Collection[str] | None = None, *, with_last: bool = False) -> None:
        self.fields = [one for one in flow_fields(plan) if only is None or one.name in only]
        self.schema = unit_schema(UNITS[FLOW], FLOW_COLUMNS, self.fields)
        self._frame_schema = pl.DataFrame(self.schema.empty_table()).schema
        self._idle_s = plan.config.flow_cache.idle_timeout_ns / 1e9
        self._kept = self._frame_schema.to_frame() if with_last else None

    def add(self, batch: Batch) -> pa.Table | None:
        """The rows of the next batch; None when there are none."""
        if not len(batch.flow["flow_id"]):
            return None
        frame = self.frame(batch)
        return frame.to_arrow().cast(self.schema)

    def frame(self, batch: Batch) -> pl.DataFrame:
        """The same as a frame; with the last rows of flows that have ended since, if they are wanted."""
        columns = batch.columns()
        n = len(batch.flow["flow_id"])
        counts = [columns[name] for name in _PACKETS if name in columns]
        known = {
            **batch.flow,
            "packets": counts[0] + counts[1] if len(counts) == len(_PACKETS) else None,
            "is_last": pl.repeat(False, n, eager=True),
        }
        made: Iterator[pl.Series] = (
            _series(name, known.get(name), self._frame_schema[name], n) for name in FLOW_COLUMNS
        )
        features = (_series(one.name, _values(one, batch, columns), self._frame_schema[one.name], n)
                    for one in self.fields)  # fmt: skip
        frame = pl.DataFrame([*made, *features])
        return frame if self._kept is None else pl.concat([frame, self._ended(frame)])

    def finish(self) -> pa.Table | None:
        """What is left: the last rows of flows that were open."""
        if self._kept is None:
            return None
        left, self._kept = self._kept, self._kept.clear()
        return _last(left).to_arrow().cast(self.schema)

    def _ended(self, frame: pl.DataFrame) -> pl.DataFrame:
        assert self._kept is not None
        last = pl.concat([self._kept, frame]).unique("flow_id", keep="last", maintain_order=True)
        # A flow that goes on has its next row, of whatever service, in an interval that ends by then.
        next_end = 2 * pl.col("ts_end") - pl.col("ts_start") + self._idle_s
        silent = next_end < frame["ts_end"][0]
        has_ended = silent | (pl.col("end") != _OPEN)
        self._kept = last.filter(~has_ended)
        return _last(last.filter(has_ended))


_PACKETS = ("PacketCounters.packets_up", "PacketCounters.packets_down")


def _last(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.lit(True).alias("is_last"))


def _values(field: UnitField, batch: Batch, columns: Mapping[str, pl.Series]) -> pl.Series | None:
    if not field.source:
        tcp = batch.flow["protocol"] == "tcp"
        return tcp if field.name == "flow.tcp" else batch.flow.get("server_port")
    if field.source not in columns:
        return None
    values = columns[field.source]
    return values if field.position is None else values.list.get(field.position, null_on_oob=True)


def _series(name: str, values: pl.Series | None, kind: pl.DataType, n: int) -> pl.Series:
    return pl.repeat(None, n, dtype=kind, eager=True).alias(name) if values is None else values.cast(kind).alias(name)
