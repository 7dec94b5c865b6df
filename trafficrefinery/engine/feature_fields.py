"""The outputs of feature classes: fields, their types, and the layout of a row."""

from __future__ import annotations

import functools
import inspect
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from trafficrefinery.api import FeatureClass, parameters, png, resolve_size, up_to, when
from trafficrefinery.api.parameters import MAX_ROW_BYTES, size_text
from trafficrefinery.errors import FeatureError


class OutputField(NamedTuple):
    """One field of an output.

    Args:
        kind: int, float, bool, or list of int or float, or bytes.
        size: greatest number of elements of a list or bytes; 0 for numbers.
        png_width: pixels a row when the bytes are written as an image, else 0.
        declared_in: the NamedTuple.
    """

    name: str
    kind: str
    size: int
    png_width: int
    declared_in: type

    @property
    def doc(self) -> str:
        """Unit and meaning, from the comment behind the field. The source is read for it only when it is asked for."""
        return field_comments(self.declared_in).get(self.name, "")


_SCALARS = {int: "int", float: "float", bool: "bool"}
_LISTS = {list[int]: "ints", list[float]: "floats", bytes: "bytes"}
_DTYPES = {"int": "i8", "float": "f8", "bool": "u1", "ints": "i8", "floats": "f8", "bytes": "u1"}


def output_class(cls: type[FeatureClass]) -> type:
    """The NamedTuple that `collect_features` returns."""
    made = get_type_hints(cls.collect_features, include_extras=True).get("return")
    if not (isinstance(made, type) and issubclass(made, tuple) and hasattr(made, "_fields")):
        raise FeatureError(
            source_of(cls.collect_features),
            f"{cls.__name__}.collect_features must be annotated with a NamedTuple class",
        )
    return made


_fields: dict[type, list[OutputField]] = {}


def output_fields(cls: type[FeatureClass]) -> list[OutputField]:
    """The output fields of a class with its parameters, in order; fields of options that are off are left out."""
    if cls not in _fields:
        _fields[cls] = _output_fields(cls)
    return _fields[cls]


def _output_fields(cls: type[FeatureClass]) -> list[OutputField]:
    made = output_class(cls)
    values = parameters(cls)
    found = []
    for name, hint in get_type_hints(made, include_extras=True).items():
        base, extras = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
        if any(isinstance(extra, when) and not values.get(extra.parameter) for extra in extras):
            continue
        bound = next((resolve_size(cls, extra.size) for extra in extras if isinstance(extra, up_to)), 0)
        width = next((resolve_size(cls, extra.width) for extra in extras if isinstance(extra, png)), 0)
        if base in _SCALARS:
            found.append(OutputField(name, _SCALARS[base], 0, 0, made))
        elif base in _LISTS and bound > 0:
            found.append(OutputField(name, _LISTS[base], bound, width, made))
        else:
            raise FeatureError(
                made.__name__,
                f"field {name}: {inspect.formatannotation(hint)} cannot be written; use int, float, bool, or "
                "Annotated[list[int], up_to(N)] (list[float], bytes)",
            )
    return found


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


@functools.cache
def field_comments(made: type) -> dict[str, str]:
    """Field name → the comment behind it in the source; empty where there is no source."""
    try:
        lines = inspect.getsource(made).splitlines()
    except (OSError, TypeError):
        return {}
    comments = {}
    for line in lines:
        declaration, _, comment = line.partition("#")
        name = declaration.split(":")[0].strip()
        if name in made._fields:  # type: ignore[attr-defined]  # a NamedTuple
            comments[name] = comment.strip()
    return comments


def source_file(cls: type[FeatureClass]) -> str:
    """The file of a class, as its code names it."""
    found: str = cls.add_packet.__code__.co_filename
    return found


def source_of(function: Any) -> str:
    """FILE:LINE of a function."""
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"
