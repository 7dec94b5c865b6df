"""The rows of label files as text: CSV or Parquet, whichever it is by content."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trafficrefinery.errors import UsageError
from trafficrefinery.records.reading import is_parquet, read_given_table
from trafficrefinery.system.files import open_text


class LabelRows(NamedTuple):
    """A label file.

    Args:
        columns: names.
        rows: of each, where it stands, for messages, and its values without space at their ends.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, dict[str, str]]]


def read_label_rows(path: Path) -> LabelRows:
    """Read a label file; what comes through a pipe is CSV.

    Raises:
        UsageError: it cannot be read, or a line has not as many values as the first one has names.
    """
    return _of_parquet(path) if path.is_file() and is_parquet(path) else _of_csv(path)


def _of_csv(path: Path) -> LabelRows:
    try:
        with open_text(path, newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            rows = list(_checked(reader, path))
            return LabelRows(tuple(reader.fieldnames or ()), rows)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: is no CSV file in UTF-8: {error}") from error


def _checked(reader: csv.DictReader[str], path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for row in reader:
        where = f"{path}:{reader.line_num}"
        values: Mapping[Any, Any] = row
        if None in values or None in values.values():
            raise UsageError(f"{where}: has not as many values as the first line has names")
        yield where, {name: value.strip() for name, value in row.items()}


def _of_parquet(path: Path) -> LabelRows:
    table = read_given_table(path)
    columns = [[_text(value) for value in table[name].to_pylist()] for name in table.column_names]
    rows = [
        (f"{path}: row {number}", dict(zip(table.column_names, values, strict=True)))
        for number, values in enumerate(zip(*columns, strict=True))
    ]
    return LabelRows(tuple(table.column_names), rows)


def _text(value: object) -> str:
    """A value as it would stand in a CSV file: the number 720.0 as 720, nothing for null and NaN."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
