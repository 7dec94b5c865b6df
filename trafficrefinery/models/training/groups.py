"""What changes from row to row in the world: the columns by which rows are grouped, and labels that coincide with one.

Figures hold for another video, site, day, link, player or device only if no row of it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from trafficrefinery.errors import UsageError, did_you_mean
from trafficrefinery.models.dataset.tables import GROUP_PREFIX, LABEL_COLUMNS

DAY = "day"
"""A column that every table has: the day in UTC on which the row began."""
OTHERS = ("service", "client_ip", DAY)
"""Columns that are no labels."""
_COINCIDES = 0.9
_LEAST_CHANCES = 5
_MOST_VALUES = 20


def group_columns(schema: pa.Schema) -> list[str]:
    """The columns of a table by which rows can be grouped."""
    texts = [name for name, (kind, _) in LABEL_COLUMNS.items() if pa.types.is_string(kind)]
    own = [name for name in schema.names if name in texts or name.startswith(GROUP_PREFIX)]
    return own + [name for name in OTHERS if name == DAY or name in schema.names]


def check_groups(names: Sequence[str], schema: pa.Schema, where: str) -> None:
    """See that a table has some columns of groups.

    Args:
        where: option and file, for messages.

    Raises:
        UsageError: it has not.
    """
    known = group_columns(schema)
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            raise UsageError(f"{where} has no column {name} of groups{hint}")


def group_values(table: pa.Table, name: str) -> pl.Series:
    """The values of a column of groups, as text; null where a row has none."""
    if name == DAY and DAY not in table.column_names:
        seconds = pl.Series(name, table["ts_start"]).cast(pl.Float64)
        return (seconds * 1e6).cast(pl.Int64).cast(pl.Datetime("us")).dt.date().cast(pl.String)
    return pl.Series(name, table[name]).cast(pl.String)


def numbers_of(names: pl.Series) -> NDArray[np.int64]:
    """Numbers from 0, the same for the same value."""
    return names.rank("dense").cast(pl.Int64).to_numpy() - 1


def joined(numbers: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The same number for rows that agree in any of the groups, directly or by way of others."""
    found, changed = numbers[0], len(numbers) > 1
    while changed:
        before = found
        for number in numbers:
            least = np.full(int(number.max(initial=0)) + 1, len(found))
            np.minimum.at(least, number, found)
            found = least[number]
        changed = bool((found != before).any())
    return found


def coincidences(
    table: pa.Table, truth: NDArray[np.int64 | np.float64], groups: NDArray[np.int64], target: str
) -> Iterator[str]:
    """Warnings of columns that tell the labels although rows of one value are on both sides of splits.

    A model can then know the day, say, in place of what it is asked for, and no fold shows it. Looked for in all rows,
    and within each value of another column.

    Args:
        truth: places in a list of labels, or quantities.
        groups: by which rows are split.
        target: its name.
    """
    columns = {name: group_values(table, name) for name in group_columns(table.schema)}
    columns = {name: one for name, one in columns.items() if one.n_unique() > 1}
    whole = np.arange(len(truth))
    for name, values in columns.items():
        contexts = [("", whole)]
        for other, within in columns.items():
            if other != name and within.n_unique() <= _MOST_VALUES:
                contexts += [
                    (f" within {other} {value}", np.flatnonzero((within == value).fill_null(value=False).to_numpy()))
                    for value in within.drop_nulls().unique().sort().to_list()
                ]
        for where, rows in contexts:
            known = _known_from(values.gather(rows), truth[rows], groups[rows])
            if known >= _COINCIDES:
                yield (
                    f"{target} coincides with {name}{where}: {name} alone tells {known:.0%} of it, and rows of one "
                    f"{name} are on both sides of the split; a model may know the {name} (see --leave-out {name})"
                )
                break


def _known_from(values: pl.Series, truth: NDArray[np.int64 | np.float64], groups: NDArray[np.int64]) -> float:
    """How much of the labels is known from the values of a column that several groups share.

    Of labels it is the share of the errors of a guess that go away (lambda of Goodman and Kruskal, JASA 1954), of
    quantities that of the variance between groups (epsilon squared of Kelley, 1935); 0 where so few groups share a
    value that chance would do as well.
    """
    frame = pl.DataFrame({"value": values, "truth": truth, "group": groups}).drop_nulls()
    frame = frame.filter(pl.col("group").n_unique().over("value") > 1)
    many = frame["value"].n_unique()
    if many < 2 or frame["truth"].n_unique() < 2 or 2 * len(frame) < len(truth):
        return 0.0
    pairs = frame.group_by("value", "group").agg(pl.col("truth").mean())
    chances = len(pairs) - many
    if chances < _LEAST_CHANCES:
        return 0.0
    if frame["truth"].dtype.is_float():
        away = pairs["truth"] - pairs.select(pl.col("truth").mean().over("value"))["truth"]
        total = float(pairs["truth"].var() or 0.0)  # type: ignore[arg-type] # of numbers it is a number
        return 1 - float((away**2).sum()) / chances / total if total else 0.0
    counts = frame.group_by("value", "truth").len()
    right = int(counts.group_by("value").agg(pl.col("len").max())["len"].sum())
    most = int(frame.group_by("truth").len()["len"].max())  # type: ignore[arg-type] # of counts it is one
    return (right - most) / (len(frame) - most)


def lonely_labels(
    truth: NDArray[np.int64], labels: Sequence[str], groups: NDArray[np.int64], by: Sequence[str]
) -> Iterator[str]:
    """Warnings of labels that one group has alone, which no model can both learn and be tested on."""
    for number, label in enumerate(labels):
        if len(np.unique(groups[truth == number])) == 1:
            yield (
                f"{label}: all of its rows are of one group ({', '.join(by)}), so that no model is both trained and "
                "tested on it; record it in other groups, or leave it out with --only"
            )


def dataset_warnings(
    table: pa.Table, truth: NDArray[np.int64 | np.float64], labels: Sequence[str], groups: NDArray[np.int64],
    by: Sequence[str], target: str,
) -> Iterator[str]:  # fmt: skip
    """All of what makes figures of a table say less than they seem to."""
    if labels:
        yield from lonely_labels(truth.astype(np.int64), labels, groups, by)
    yield from coincidences(table, truth, groups, target)
