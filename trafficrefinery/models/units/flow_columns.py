"""The columns of tables of flows: what identifies one, and what feature classes gave of it as numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from trafficrefinery.engine.feature_classes.fields import OutputField, output_fields
from trafficrefinery.engine.feature_classes.registry import Registry
from trafficrefinery.engine.plan import Plan
from trafficrefinery.models.sessions.provenance import FEATURE_CLASS, Provenance, UsedCode
from trafficrefinery.models.targets import Unit

UNIT = b"trafficrefinery.unit"
"""In the metadata of a table: what its rows are about; a table without it is one of sessions."""

FLOW_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "ts_start": (pa.float64(), "s, the interval's start"), "ts_end": (pa.float64(), "s, the interval's end"),
    "service": (pa.string(), "name of the service"), "protocol": (pa.string(), "tcp or udp"),
    "client_ip": (pa.string(), "address of the client"), "client_port": (pa.int64(), "port of the client"),
    "server_ip": (pa.string(), "address of the server"), "server_port": (pa.int64(), "port of the server"),
    "flow_id": (pa.string(), "16 hexadecimal digits, the same in all intervals"),
    "flow_start": (pa.float64(), "s, the flow's first packet"), "end": (pa.string(), "how the flow has ended so far"),
    "packets": (pa.int64(), "packets of the interval, as PacketCounters counts them; else null"),
    "is_last": (pa.bool_(), "true: the flow's last row once more, when it had ended"),
}  # fmt: skip
"""What is said of each flow and interval beside its features."""

_OF_FLOW = (("flow.tcp", "1: TCP, 0: UDP"), ("flow.server_port", "port of the server"))
"""Columns that need no feature class."""
_NUMBERS = {"int": pa.int64(), "float": pa.float64(), "bool": pa.int64(), "ints": pa.int64(), "floats": pa.float64()}
"""Kinds of outputs that models can see: not bytes."""


class UnitField(NamedTuple):
    """A feature of a flow or of a client.

    Args:
        name: `Class.output`, of a list `Class.output.POSITION`; of clients the aggregate follows.
        kind: type of the column.
        doc: unit and meaning.
        source: the column of records, `Class.output`; empty for what needs no feature class.
        position: in a list; None: the output is a number.
    """

    name: str
    kind: pa.DataType
    doc: str
    made_by: Provenance
    source: str = ""
    position: int | None = None

    def column(self) -> pa.Field:
        """As a column of a table."""
        return pa.field(self.name, self.kind, metadata={b"doc": self.doc.encode(), **self.made_by.metadata()})


def flow_fields(plan: Plan, services: Collection[str] = ()) -> list[UnitField]:
    """The features of flows that a configuration gives, of some services; none: of all."""
    paths = plan.config.feature_paths
    registry = Registry(paths) if paths else None
    known = registry.names() if registry is not None else []
    nothing = Provenance("", ())
    found = {name: UnitField(name, pa.int64(), doc, nothing) for name, doc in _OF_FLOW}
    for name, classes in plan.classes_of(services).items():
        file = registry.file_of(name) if registry is not None and name in known else None
        code = tuple(one for cls in classes for one in UsedCode.of(FEATURE_CLASS, cls, file, always=len(classes) > 1))
        made_by = Provenance("", (name,), code)
        for cls in classes:
            for output in output_fields(cls):
                found |= {one.name: one for one in _fields_of(f"{name}.{output.name}", output, made_by)}
    return list(found.values())


def _fields_of(name: str, output: OutputField, made_by: Provenance) -> Iterator[UnitField]:
    if output.kind not in _NUMBERS:
        return
    field = UnitField(name, _NUMBERS[output.kind], output.doc, made_by, name)
    if not output.size:
        yield field
        return
    for position in range(output.size):
        yield field._replace(name=f"{name}.{position}", position=position)


def unit_schema(unit: Unit, columns: dict[str, tuple[pa.DataType, str]], fields: Iterable[UnitField]) -> pa.Schema:
    """The columns of a table of flows or clients; each feature has its unit, meaning and provenance as metadata."""
    known = [pa.field(name, kind, metadata={"doc": doc}) for name, (kind, doc) in columns.items()]
    return pa.schema([*known, *(field.column() for field in fields)], metadata={UNIT: unit.name.encode()})


def bare(schema: pa.Schema, unit: str) -> pa.Schema:
    """Columns without their units and meaning, for tables between processes."""
    return pa.schema([field.remove_metadata() for field in schema], metadata={UNIT: unit.encode()})


def unit_name(schema: pa.Schema, default: str) -> str:
    """What the rows of a table are about, as its metadata say."""
    return str((schema.metadata or {}).get(UNIT, default.encode()).decode())
