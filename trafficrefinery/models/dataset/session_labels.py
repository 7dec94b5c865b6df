"""Label files of sessions applied: which session each label means, and its intervals with what is true of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from trafficrefinery.errors import UsageError
from trafficrefinery.models.sessions import SessionView
from trafficrefinery.models.targets import Target
from trafficrefinery.models.units.views import UnitView
from trafficrefinery.records.inferences import SESSION

from .intervals import IntervalLabel, intervals_of, with_intervals
from .labels import Label, match_traces, read_labels
from .own_columns import OwnColumns


class SessionLabels(NamedTuple):
    """The labels of some sessions.

    Args:
        labels: of whole sessions.
        intervals: of their intervals; empty where the labels have the resolution of whole sessions.
        own: what the user has labels of.
    """

    labels: tuple[Label, ...]
    intervals: list[IntervalLabel]
    own: OwnColumns
    unit: str = SESSION

    @classmethod
    def of_traces(
        cls, directory: Path, labels_file: Path, resolutions: tuple[int, ...], defined: Mapping[str, Target]
    ) -> dict[Path, SessionLabels]:
        """The traces in a directory, and the labels of each.

        Raises:
            UsageError: the label files are wrong, or labels and traces do not fit.
        """
        labels = read_labels(labels_file, resolutions, defined)
        traces = match_traces(directory, labels, labels_file)
        of_trace = {trace: tuple(one for one in labels if directory / one.file == trace) for trace in traces}
        intervals = {
            trace: intervals_of(trace, some, labels_file, resolutions, defined) for trace, some in of_trace.items()
        }
        own = OwnColumns.of(labels, chain(*intervals.values()), defined, str(labels_file))
        return {trace: cls(some, intervals[trace], own) for trace, some in of_trace.items()}

    def told(self) -> list[Any]:
        """All that a table depends on, as JSON values."""
        return [[[str(value) for value in label] for label in self.labels], self.intervals, self.own]

    def check(self, view: UnitView, where: str, file: str) -> None:
        """See that the services of labels have sessions.

        Raises:
            UsageError: one has none.
        """
        assert isinstance(view, SessionView)
        for label in self.labels:
            if label.service and label.service not in view.services:
                raise UsageError(
                    f'{where}: service: "{label.service}" is not a service with sessions in {file}; '
                    f"there are {', '.join(view.services)}"
                )

    def schema(self, sessions: pa.Schema) -> pa.Schema:
        """The columns of the dataset."""
        return self.own.schema(sessions)

    def labelled(self, table: pa.Table) -> tuple[pa.Table, list[str]]:
        """The intervals of the labelled sessions with their labels; and the sessions that are not there.

        Of the sessions in a trace, or of those of the label's client, a label belongs to the one with the most media
        bytes (where none has any, with the most intervals). A label with a client and a start belongs to the session
        that starts nearest to it. No session has two labels.
        """
        sessions = _sessions_of(pl.DataFrame(table), self.labels)
        tables = [self._labelled(table, one, label) for one, label in zip(sessions, self.labels, strict=True)]
        absent = [
            f"{label.file}: {label.session}: no such video session in it"
            for label, some in zip(self.labels, tables, strict=True)
            if not len(some)
        ]
        return pa.concat_tables(tables).cast(self.schema(table.schema)), absent

    def _labelled(self, table: pa.Table, session: str | None, label: Label) -> pa.Table:
        frame = pl.DataFrame(table).filter(pl.col("session_id") == (session or ""))
        chosen = with_intervals(frame, self.intervals).to_arrow() if self.intervals else frame.to_arrow()
        given: dict[str, Any] = {name: None if value in ("", None) or value != value else value
                                 for name, value in {**label._asdict(), **dict(label.groups),
                                                     **dict(label.own)}.items()
                                 if name not in chosen.column_names}  # fmt: skip
        fields = self.schema(pa.schema([]))
        columns = [
            chosen[field.name].cast(field.type)
            if field.name in chosen.column_names and field.name not in table.schema.names
            else pa.array([given.get(field.name)] * len(chosen), field.type)
            for field in fields
        ]  # fmt: skip
        features = [chosen[field.name].cast(field.type) for field in table.schema]
        return pa.table([*columns, *features], names=[*fields.names, *table.schema.names])


def _sessions_of(frame: pl.DataFrame, labels: Sequence[Label]) -> list[str | None]:
    """The session that each label means, which is that of no other; None where there is none."""
    sessions = frame.group_by("session_id", maintain_order=True).agg(
        pl.col("service", "client_ip", "session_start").first(),
        pl.col("application.segment_bytes").sum().alias("bytes"),
        pl.len().alias("intervals"),
    )
    fits = []
    for number, label in enumerate(labels):
        by_start = label.client_ip and not math.isnan(label.session_start_s)
        for one in sessions.iter_rows(named=True):
            if label.service in ("", one["service"]) and label.client_ip in ("", one["client_ip"]):
                rank = abs(one["session_start"] - label.session_start_s) if by_start else -one["bytes"]
                fits.append((rank, -one["intervals"], number, one["session_id"]))
    found: dict[int, str] = {}
    for *_, number, session in sorted(fits):
        if number not in found and session not in found.values():
            found[number] = session
    return [found.get(number) for number in range(len(labels))]
