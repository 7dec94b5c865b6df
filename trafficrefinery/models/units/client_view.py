"""From the records of flows to rows of clients for models."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from trafficrefinery.engine.plan import Plan
from trafficrefinery.jit.lazy import Late
from trafficrefinery.models.sessions.provenance import Provenance
from trafficrefinery.models.targets import UNITS
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.inferences import CLIENT

from .flow_columns import FLOW_COLUMNS, UnitField, flow_fields, unit_schema
from .flow_view import FlowView

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
else:
    pl, pa = Late("polars"), Late("pyarrow")

AGGREGATES = ("sum", "mean", "max")
"""How each numeric feature is aggregated over those flows of a client in which it was observed."""
_OF_CLIENT = (
    ("client.flows", "flows with packets in the interval"),
    ("client.tcp_flows", "flows of TCP"),
    ("client.new_flows", "flows that began in the interval"),
    ("client.servers", "addresses of servers"),
    ("client.server_ports", "ports of servers"),
)
_COLUMNS = {name: FLOW_COLUMNS[name] for name in ("ts_start", "ts_end", "service", "client_ip")}


def client_fields(plan: Plan, services: Collection[str] = ()) -> list[UnitField]:
    """The features of clients that a configuration gives, of some services; none: of all."""
    nothing = Provenance("", ())
    numbers = [field for field in flow_fields(plan, services) if field.source and field.position is None]
    return [
        *(UnitField(name, pa.int64(), doc, nothing) for name, doc in _OF_CLIENT),
        *(
            field._replace(
                name=f"{field.name}.{how}",
                kind=pa.float64() if how == "mean" else field.kind,
                doc=f"{field.doc}: {how} over the client's flows",
            )
            for field in numbers
            for how in AGGREGATES
        ),
    ]


class ClientView:
    """Gives a row of each client of a service and interval, of batches of records in their order.

    Args:
        only: columns of features that are wanted; None: all.
    """

    def __init__(self, plan: Plan, only: Collection[str] | None = None) -> None:
        self._fields = [one for one in client_fields(plan) if only is None or one.name in only]
        self.schema = unit_schema(UNITS[CLIENT], _COLUMNS, self._fields)
        self._flows = FlowView(plan, {one.source for one in self._fields})

    def add(self, batch: Batch) -> pa.Table | None:
        """The rows of the next batch; None when there are none."""
        if not len(batch.flow["flow_id"]):
            return None
        frame = self._flows.frame(batch)
        counted = {
            "client.flows": pl.len(),
            "client.tcp_flows": (pl.col("protocol") == "tcp").sum(),
            "client.new_flows": (pl.col("flow_start") >= pl.col("ts_start")).sum(),
            "client.servers": pl.col("server_ip").n_unique(),
            "client.server_ports": pl.col("server_port").n_unique(),
        }
        made = frame.group_by("client_ip").agg(
            pl.col("ts_start", "ts_end", "service").first(),
            *(counted[one.name].alias(one.name) if one.name in counted else _aggregated(one) for one in self._fields),
        )
        return made.sort("client_ip").select(self.schema.names).to_arrow().cast(self.schema)

    def finish(self) -> pa.Table | None:
        """Nothing is left: a row is of one interval."""
        return None


def _aggregated(field: UnitField) -> pl.Expr:
    """NaN in place of a number over no flow."""
    values = pl.col(field.source)
    how = field.name.rpartition(".")[2]
    made = {"sum": values.sum(), "mean": values.mean(), "max": values.max()}[how]
    return pl.when(values.count() > 0).then(made).alias(field.name)
