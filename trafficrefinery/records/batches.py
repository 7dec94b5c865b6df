"""The records of a service and interval as columns, made from packed rows when they are asked for.

A row takes about a kilobyte, its columns as much again and its JSON line three times that. So what writes records takes
them in slices, and only rows, not what is made of them, are held for all flows at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.engine.feature_classes.fields import OutputField

from .schema import Infinities, feature_column, infinite_values

if TYPE_CHECKING:
    import polars as pl

SLICE_ROWS = 1 << 11
"""Rows that become JSON lines at a time, which takes 20 KB for each of them; the fewest that take no longer by it."""


class Batch(NamedTuple):
    """The records of one service and interval, ordered by `flow_id`.

    Args:
        flow: the columns that all records have.
        features: class name → its output columns; `Features` makes them each time that they are asked for.
    """

    service: str
    flow: dict[str, pl.Series]
    features: Mapping[str, list[pl.Series]]

    def slices(self, rows: int = SLICE_ROWS) -> Iterator[Batch]:
        """The same records, some at a time."""
        for start in range(0, len(self.flow["flow_id"]), rows):
            flow = {name: column.slice(start, rows) for name, column in self.flow.items()}
            if isinstance(self.features, Features):
                yield Batch(self.service, flow, self.features.made(start, start + rows))
            else:
                features = {
                    name: [column.slice(start, rows) for column in columns] for name, columns in self.features.items()
                }
                yield Batch(self.service, flow, features)

    def columns(self) -> Mapping[str, pl.Series]:
        """The output columns of all records as `Class.field`, each made when it is asked for first."""
        if isinstance(self.features, Features):
            return _Columns(self.features)
        return {f"{name}.{column.name}": column for name, columns in self.features.items() for column in columns}


class Features(Mapping[str, "list[pl.Series]"]):
    """The output columns of packed rows.

    Args:
        parts: rows, in several arrays of the same dtype.
        order: in which the rows of all parts together are wanted.
        fields: class name → its outputs.
        infinities: counts the infinite values, once.
    """

    def __init__(
        self, parts: Sequence[NDArray[Any]], order: NDArray[np.intp], fields: Mapping[str, Sequence[OutputField]],
        infinities: Infinities,
    ) -> None:  # fmt: skip
        self._parts, self._order, self._fields = parts, order, fields
        self._starts = np.cumsum([0, *map(len, parts)])
        for name, outputs in fields.items():
            for field in outputs:
                infinities.count += sum(infinite_values(part[name][field.name], field) for part in parts)

    def __getitem__(self, name: str) -> list[pl.Series]:
        return [self.column(name, field) for field in self._fields[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    @property
    def fields(self) -> Mapping[str, Sequence[OutputField]]:
        """Class name → its outputs."""
        return self._fields

    def column(self, name: str, field: OutputField) -> pl.Series:
        """One output of all rows."""
        values = np.concatenate([part[name][field.name] for part in self._parts])
        return feature_column(values[self._order], field)

    def made(self, start: int, end: int) -> dict[str, list[pl.Series]]:
        """The columns of some of the rows."""
        rows = self._rows(self._order[start:end])
        return {
            name: [feature_column(rows[name][field.name], field) for field in fields]
            for name, fields in self._fields.items()
        }

    def _rows(self, indices: NDArray[np.intp]) -> NDArray[Any]:
        dtype = self._parts[0].dtype
        octets = np.empty((len(indices), dtype.itemsize), np.uint8)
        number = np.searchsorted(self._starts, indices, side="right") - 1
        for part in np.unique(number).tolist():
            wanted = np.flatnonzero(number == part)
            whole = np.ascontiguousarray(self._parts[part]).view(np.uint8).reshape(-1, dtype.itemsize)
            octets[wanted] = whole[indices[wanted] - self._starts[part]]
        return octets.view(dtype)[:, 0]


class _Columns(Mapping[str, "pl.Series"]):
    def __init__(self, features: Features) -> None:
        self._features, self._made = features, dict[str, "pl.Series"]()
        self._known = {
            f"{name}.{field.name}": (name, field) for name, fields in features.fields.items() for field in fields
        }

    def __getitem__(self, name: str) -> pl.Series:
        if name not in self._made:
            self._made[name] = self._features.column(*self._known[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
