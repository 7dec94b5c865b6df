"""A table that somebody names, read by its content: a pickled data frame, CSV or Parquet, plain or compressed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from trafficrefinery.errors import UsageError
from trafficrefinery.records.reading import read_given_table
from trafficrefinery.system.files import available_bytes, open_regular

from .unpickling import read_frame, unpacking

_LOOKED_AT = 1 << 16
_SEPARATORS = (",", ";", "\t")


def read_any(path: Path) -> dict[str, np.ndarray]:
    """The columns of a table, as `read_frame` gives them.

    Raises:
        UsageError: the file cannot be read, or is none of these.
    """
    begin = _begin(path)
    if begin.startswith(b"PAR1"):
        return _from_arrow(read_given_table(path))
    separator = _separator(begin)
    if separator:
        return _from_csv(path, separator)
    return read_frame(path)


def _begin(path: Path) -> bytes:
    """The first bytes of the content, unpacked."""
    try:
        with open(path, "rb", opener=open_regular) as opened:
            begin = opened.read(_LOOKED_AT)
            unpack = unpacking(begin)
            if unpack is None:
                return begin
            opened.seek(0)
            return bytes(unpack(opened).read(_LOOKED_AT))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise UsageError(f"{path}: cannot be unpacked: {error}") from error


def _separator(begin: bytes) -> str:
    """The separator of the names in the first line of a CSV file; empty if the file is not CSV."""
    if b"\0" in begin or begin[:1] in (b"\x80", b"<", b"("):
        return ""
    try:
        line = begin.partition(b"\n")[0].decode()
    except UnicodeDecodeError:
        return ""
    return max(_SEPARATORS, key=line.count) if any(one in line for one in _SEPARATORS) else ""


def _from_csv(path: Path, separator: str) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb", opener=open_regular) as opened:
            unpack = unpacking(opened.read(8))
            opened.seek(0)
            most = available_bytes() // 4
            content = (unpack(opened) if unpack else opened).read(most + 1)
        if len(content) > most:
            raise UsageError(f"{path}: needs more memory than there is")
        frame = pl.read_csv(io.BytesIO(content), separator=separator, infer_schema_length=None)
    except (OSError, EOFError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    except pl.exceptions.PolarsError as error:
        line = str(error).splitlines()[0]
        raise UsageError(f"{path}: not a readable CSV file: {line}") from error
    return _from_polars(frame)


def _from_arrow(table: pa.Table) -> dict[str, np.ndarray]:
    return _from_polars(pl.DataFrame(table))


def _from_polars(frame: pl.DataFrame) -> dict[str, np.ndarray]:
    """Without the column that pandas writes of an index that has no name."""
    found = {}
    for column in frame.iter_columns():
        if column.name in {"", "__index_level_0__", "Unnamed: 0"}:
            continue
        if column.dtype.is_numeric() or column.dtype == pl.Boolean:
            found[column.name] = column.to_numpy() if not column.null_count() else _objects(column.to_list())
        else:
            plain = column.cast(pl.String) if column.dtype in {pl.Categorical, pl.Enum} else column
            found[column.name] = _objects(plain.to_list())
    return found


def _objects(values: list[object]) -> np.ndarray:
    made = np.empty(len(values), np.dtype("O"))
    made[:] = [tuple(one) if isinstance(one, list) else one for one in values]
    return made
