"""The columns of a dataset that only its user has labels for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import pyarrow as pa

from trafficrefinery.models.targets import Target
from trafficrefinery.models.targets.label_columns import target_of_column

from .intervals import IntervalLabel
from .labels import Label
from .tables import dataset_schema


class OwnColumns(NamedTuple):
    """What the user has labels of, beside what all datasets have.

    Args:
        groups: names of columns.
    """

    targets: tuple[Target, ...]
    groups: tuple[str, ...]

    @classmethod
    def of(
        cls, labels: Sequence[Label], intervals: Iterable[IntervalLabel], defined: Mapping[str, Target], where: str
    ) -> OwnColumns:
        """The columns of label files.

        Args:
            defined: targets that the user defined, by name.
            where: what a message begins with.

        Raises:
            UsageError: a column has a name that no target can have.
        """
        rows: Iterable[Label | IntervalLabel] = chain(labels, intervals)
        columns = dict.fromkeys(column for one in rows for column, _ in one.own)
        groups = dict.fromkeys(column for label in labels for column, _ in label.groups)
        return cls(tuple(target_of_column(column, defined, where) for column in columns), tuple(groups))

    def schema(self, sessions: pa.Schema) -> pa.Schema:
        """The columns of the dataset."""
        return dataset_schema(sessions, self.targets, self.groups)
