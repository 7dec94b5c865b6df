"""The columns of tables that hold the labels of targets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa

from trafficrefinery.errors import UsageError, did_you_mean

from .built_in import BUILT_IN
from .target import CLASSES, LABEL_PREFIX, QUANTITY, Target

_METADATA = b"target"


def label_field(target: Target) -> pa.Field:
    """The column of a user's target, which says what the target is."""
    unit = f" ({target.measured_in})" if target.measured_in else ""
    metadata = {"doc": f"label: {target.name}{unit}", _METADATA: json.dumps(target.as_json())}
    return pa.field(target.label_column, pa.string() if target.has_labels else pa.float64(), metadata=metadata)


def target_of_column(column: str, defined: Mapping[str, Target], where: str) -> Target:
    """The target of a column `label.NAME` in a label file: as the user defined it, else one with classes.

    Raises:
        UsageError: the name cannot be that of a target.
    """
    name = column.removeprefix(LABEL_PREFIX)
    if name in defined:
        return defined[name]._replace(column="")  # which other tables may have under another name
    return Target.from_json({"name": name, "kind": CLASSES}, f"{where}: {column}")


def target_of_table(name: str, schema: pa.Schema, path: Path) -> Target:
    """A target by name: a built-in one, or what the column `label.NAME` of a table says of itself.

    A column that says nothing has classes, or a quantity without a unit if it holds real numbers.

    Raises:
        UsageError: the table has no labels of such a target.
    """
    known = {one.name: one for one in BUILT_IN.values() if one.label_column in schema.names}
    users = [one.removeprefix(LABEL_PREFIX) for one in schema.names if one.startswith(LABEL_PREFIX)]
    if name in users:
        field = schema.field(LABEL_PREFIX + name)
        said = (field.metadata or {}).get(_METADATA)
        try:
            content = json.loads(said) if said else {
                "name": name, "kind": QUANTITY if pa.types.is_floating(field.type) else CLASSES,
            }  # fmt: skip
        except ValueError as error:
            raise UsageError(
                f"{path}: {field.name}: its metadata is damaged: {error}; build the dataset again"
            ) from error
        return Target.from_json(content, f"{path}: {field.name}: target")
    if name not in known:
        there = (*known, *users)
        hint = did_you_mean(name, there) or (f"; there are labels of {', '.join(there)}" if there else "")
        column = BUILT_IN[name].label_column if name in BUILT_IN else LABEL_PREFIX + name
        raise UsageError(f"{path}: has no column {column} with labels of {name}{hint}")
    return known[name]


def labels_as_text(column: pl.Series) -> pl.Series:
    """Labels of any type of column as text: the number 720.0 as 720."""
    if column.dtype.is_float():
        texts = [None if one is None or one != one else f"{one:.15g}" for one in column.to_list()]
        return pl.Series(column.name, texts, pl.String)
    return column.cast(pl.String)
