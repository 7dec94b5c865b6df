"""The columns of session-intervals."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from trafficrefinery.api.sessions import GROUPS

from .registry import SessionField

SESSION_COLUMNS: dict[str, pa.DataType] = {
    "ts_start": pa.float64(), "ts_end": pa.float64(), "service": pa.string(), "client_ip": pa.string(),
    "session_id": pa.string(), "session_start": pa.float64(),
    "playing": pa.bool_(), **{f"{group}_observed": pa.bool_() for group in GROUPS},
}  # fmt: skip
"""What is said of each session and interval beside its features; times in seconds since the epoch."""

COLUMN_DOCS = {
    "ts_start": "s, the interval's start", "ts_end": "s, the interval's end", "service": "name of the service",
    "client_ip": "address of the client", "session_id": "16 hexadecimal digits, the same in all intervals",
    "session_start": "s, when the session started, as far as it can be told",
    "playing": "false: nothing is played, as media do not keep coming; null where media do not open sessions",
    "network_observed": "false: the network features are null, because nothing was collected for them",
    "transport_observed": "false: the transport features are null, because there was no TCP flow, or none collected",
    "application_observed": "false: the application features are null",
}  # fmt: skip

_TYPES = {"int": pa.int64(), "float": pa.float64()}


def groups_of(names: Iterable[str]) -> tuple[str, ...]:
    """The feature groups of columns named `group.field`: those of the paper, and further ones in their order."""
    return tuple(dict.fromkeys([*GROUPS, *(name.partition(".")[0] for name in names if "." in name)]))


def session_schema(fields: Iterable[SessionField]) -> pa.Schema:
    """The columns of a table of session-intervals; each feature has its unit, meaning and provenance as metadata."""
    fields = list(fields)
    known = {name: (kind, COLUMN_DOCS[name]) for name, kind in SESSION_COLUMNS.items()}
    for group in groups_of(field.name for field in fields)[len(GROUPS) :]:
        doc = f"false: the {group} features are null, because nothing was collected for them"
        known[f"{group}_observed"] = pa.bool_(), doc
    return pa.schema([
        *(pa.field(name, kind, metadata={"doc": doc}) for name, (kind, doc) in known.items()),
        *(pa.field(field.name, _TYPES[field.kind], metadata=_metadata(field)) for field in fields),
    ])  # fmt: skip


def _metadata(field: SessionField) -> dict[bytes, bytes]:
    return {b"doc": field.doc.encode(), **(field.made_by.metadata() if field.made_by else {})}
