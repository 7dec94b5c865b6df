"""The outputs of feature classes: fields, their types, and the layout of a row."""

from __future__ import annotations

from typing import Any, NamedTuple, get_type_hints

import numpy as np

from trafficrefinery.api import FeatureClass, Struct, parameters, png, resolve_size, up_to, when
from trafficrefinery.api.outputs import LISTS, NUMBERS, Column, columns, is_output, wrong
from trafficrefinery.api.parameters import MAX_ROW_BYTES, size_text
from trafficrefinery.errors import FeatureError, did_you_mean


class OutputField(NamedTuple):
    """One column of the outputs of a class with its parameters.

    Args:
        kind: int, float, bool, or list of int or float, or bytes.
        size: greatest number of elements of a list or bytes; 0 for numbers.
        png_width: pixels a row when the bytes are written as an image, else 0.
        column: as declared; says where its value lies.
    """

    name: str
    kind: str
    size: int
    png_width: int
    column: Column

    @property
    def doc(self) -> str:
        """Unit and meaning, from the source, which is read for it only when it is asked for."""
        return self.column.doc


_DTYPES = {"int": "i8", "float": "f8", "bool": "u1", "ints": "i8", "floats": "f8", "bytes": "u1"}


def output_class(cls: type[Struct]) -> type:
    """The NamedTuple that `collect_features` returns, or `collect_sessions` of a session feature."""
    method = getattr(cls, "collect_sessions", None) or cls.collect_features  # type: ignore[attr-defined]
    made = get_type_hints(method).get("return")
    if not is_output(made):
        raise FeatureError(
            source_of(method), f"{cls.__name__}.{method.__name__} must be annotated with a NamedTuple class"
        )
    assert isinstance(made, type)
    return made


_fields: dict[type, list[OutputField]] = {}


def output_fields(cls: type[Struct]) -> list[OutputField]:
    """The output columns of a class with its parameters: in order of declaration, then those of each option that is on.

    Raises:
        FeatureError: an output is declared wrongly; FILE:LINE, field, and what would be right.
    """
    if cls not in _fields:
        options = list(parameters(cls))
        found = [(_rank(column, options), column) for column in columns(output_class(cls))]
        _fields[cls] = [
            _output_field(cls, column)
            for rank, column in sorted(found, key=lambda pair: pair[0])
            if all(parameters(cls)[option] for option in _options(column))
        ]
    return _fields[cls]


def options_of(cls: type[Struct]) -> set[str]:
    """The parameters of a class that add outputs to those that it has without them."""
    return {option for column in columns(output_class(cls)) for option in _options(column)}


def _options(column: Column) -> list[str]:
    return [extra.parameter for extra in column.extras if isinstance(extra, when)]


def _rank(column: Column, options: list[str]) -> int:
    """Where a column stands among those of options, which follow the others so that an option changes no order."""
    for option in _options(column):
        if option not in options:
            hint = did_you_mean(option, options)
            raise wrong(*column.fields[-1], f'when("{option}"): the class has no parameter of that name{hint}')
    return max((options.index(option) + 1 for option in _options(column)), default=0)


def _output_field(cls: type[Struct], column: Column) -> OutputField:
    if column.kind in NUMBERS:
        return OutputField(column.name, NUMBERS[column.kind], 0, 0, column)
    size = next(resolve_size(cls, extra.size) for extra in column.extras if isinstance(extra, up_to))
    width = next((resolve_size(cls, extra.width) for extra in column.extras if isinstance(extra, png)), 0)
    return OutputField(column.name, LISTS[column.kind], size, width, column)


def output_dtype(cls: type[FeatureClass]) -> np.dtype:
    """The output of one interval as a NumPy record; a list is a record of `n` and `items`.

    Raises:
        TypeError: it is larger than MAX_ROW_BYTES.
    """
    row_bytes = sum(16 + 8 * field.size for field in output_fields(cls) if field.kind != "bytes")
    row_bytes += sum(16 + field.size for field in output_fields(cls) if field.kind == "bytes")
    if row_bytes > MAX_ROW_BYTES:
        raise TypeError(
            f"{cls.__name__}: its outputs take {size_text(row_bytes)} a flow and interval; "
            f"the most is {size_text(MAX_ROW_BYTES)}"
        )
    members: list[tuple[str, Any]] = []
    for field in output_fields(cls):
        scalar = np.dtype(_DTYPES[field.kind])
        if field.size:
            members.append((field.name, np.dtype([("n", "i8"), ("items", scalar, (field.size,))], align=True)))
        else:
            members.append((field.name, scalar))
    return np.dtype(members, align=True)


def source_file(cls: type[FeatureClass]) -> str:
    """The file of a class, as its code names it."""
    found: str = cls.add_packet.__code__.co_filename
    return found


def source_of(function: Any) -> str:
    """FILE:LINE of a function."""
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"
