"""The rows of all kinds of units that models or commands want, from batches of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pyarrow as pa

from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import UsageError
from trafficrefinery.models.sessions import SessionView
from trafficrefinery.models.targets import Target
from trafficrefinery.models.targets.units import END
from trafficrefinery.records.aggregate import Batch
from trafficrefinery.records.inferences import CLIENT, FLOW, SESSION

from .client_view import ClientView
from .flow_view import FlowView

if TYPE_CHECKING:
    from trafficrefinery.models.inference import Bundle


class UnitView(Protocol):
    """Gives the rows of one kind of units."""

    schema: pa.Schema

    def add(self, batch: Batch) -> pa.Table | None:
        """The rows of the next batch; None when there are none."""

    def finish(self) -> pa.Table | None:
        """What is left after the last batch."""


class Wanted(NamedTuple):
    """What is wanted of the units of one kind.

    Args:
        columns: of features; None: all.
        with_last: see `FlowView`.
    """

    columns: tuple[str, ...] | None = None
    with_last: bool = False

    @classmethod
    def of(cls, targets: Iterable[Target]) -> Wanted:
        """All that datasets of some targets of one unit need."""
        return cls(None, any(target.when.at == END for target in targets))


def wanted_by(bundles: Iterable[Bundle]) -> dict[str, Wanted]:
    """What models want, by unit."""
    found: dict[str, list[Bundle]] = {}
    for bundle in bundles:
        found.setdefault(bundle.target.unit, []).append(bundle)
    return {
        unit: Wanted.of(one.target for one in some)._replace(
            columns=tuple(dict.fromkeys(name for one in some for name in one.columns))
        )
        for unit, some in found.items()
    }


def open_view(plan: Plan, unit: str, wanted: Wanted = Wanted()) -> UnitView:  # noqa: B008 (immutable)
    """What gives the rows of a kind of units; of sessions always with all columns.

    Raises:
        UsageError: no service has sessions.
    """
    if unit == FLOW:
        return FlowView(plan, wanted.columns, with_last=wanted.with_last)
    return ClientView(plan, wanted.columns) if unit == CLIENT else open_sessions(plan)


def open_sessions(plan: Plan) -> SessionView:
    """The session view of a configuration.

    Raises:
        UsageError: no service has sessions.
    """
    view = SessionView(plan)
    if not view.services:
        raise UsageError(
            f"{plan.config.file}: Services: none collects {plan.config.sessions.opening_class}, which make sessions; "
            "add it to Collect"
        )
    return view


class Views:
    """The views of several kinds of units, fed with the same batches.

    Args:
        wanted: of each kind.

    Raises:
        UsageError: sessions are wanted, and no service has any.

    Attributes:
        sessions: the view of these, if they are wanted.
        schemas: of each kind of units, the columns of its tables.
    """

    def __init__(self, plan: Plan, wanted: Mapping[str, Wanted]) -> None:
        self._views = {unit: open_view(plan, unit, one) for unit, one in wanted.items()}
        self._everybody = {service.name for service in plan.config.services}
        view = self._views.get(SESSION)
        self.sessions = view if isinstance(view, SessionView) else None
        self.schemas = {unit: _chosen(view.schema, wanted[unit]) for unit, view in self._views.items()}

    def add(self, batch: Batch) -> dict[str, pa.Table]:
        """The rows of the next batch, by unit."""
        return self._given({unit: view.add(batch) for unit, view in self._views.items()})

    def finish(self) -> dict[str, pa.Table]:
        """What is left after the last batch, by unit."""
        return self._given({unit: view.finish() for unit, view in self._views.items()})

    def _given(self, made: Mapping[str, pa.Table | None]) -> dict[str, pa.Table]:
        return {
            unit: table.select(self.schemas[unit].names)
            for unit, table in made.items()
            if table is not None and len(table)
        }

    @property
    def services(self) -> set[str]:
        """Those that rows can be of."""
        return self._everybody if self.sessions is None or len(self._views) > 1 else set(self.sessions.services)

    @property
    def started(self) -> dict[str, int]:
        """Service → sessions started; none where they are not wanted."""
        return {} if self.sessions is None else self.sessions.started

    @property
    def counters(self) -> dict[str, int]:
        """Those of the session view; none where sessions are not wanted."""
        return {} if self.sessions is None else self.sessions.counters


def _chosen(schema: pa.Schema, wanted: Wanted) -> pa.Schema:
    """The columns of features that are wanted, and those that are none."""
    if wanted.columns is None:
        return schema
    chosen = [field for field in schema if "." not in field.name or field.name in wanted.columns]
    return pa.schema(chosen, metadata=schema.metadata)
