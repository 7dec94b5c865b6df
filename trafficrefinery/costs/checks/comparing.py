"""The results of a class in several ways, compared field by field."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.api import FeatureClass
from trafficrefinery.errors import FeatureError

_LISTED = 8
Results = dict[str, NDArray[Any]]
"""What `run_mode` writes."""


class _Pair(NamedTuple):
    """Two results that must be equal: mode and run of each, in words, and what to look for when they are not."""

    one: tuple[str, str, str]
    other: tuple[str, str, str]
    hint: str


_PAIRS = (
    _Pair(
        ("on", "whole", "compiled"), ("off", "whole", "interpreted"),
        "look for whole numbers beyond 64 bits, and for a name that is an int in one branch and a float in another",
    ),
    _Pair(
        ("on", "whole", "unchecked"), ("boundscheck", "whole", "bounds-checked"),
        "look for an index beyond its array",
    ),
    *(
        pair
        for mode, way in (("on", "compiled"), ("off", "interpreted"))
        for pair in (
            _Pair(
                (mode, "whole", f"the first time, {way}"), (mode, "again", "the second time"),
                "look for a name without a value in one branch",
            ),
            _Pair(
                (mode, "whole", f"with all flows together, {way}"), (mode, "split", "flow after flow"),
                "keep all that is remembered in fields of the class",
            ),
        )
    ),
)  # fmt: skip


def compare(cls: type[FeatureClass], results: dict[str, Results]) -> None:
    """Raise FeatureError for the first field that is not the same in all ways: FILE:LINE, the values, a hint."""
    for kind in ("rows", "states"):
        for one, other, hint in _PAIRS:
            first, second = (results[mode][f"{run}_{kind}"][cls.__name__] for mode, run, _ in (one, other))
            for (name, values), (_, others) in zip(columns(first), columns(second), strict=True):
                same = _same(values, others).reshape(len(values), -1).all(axis=1)
                if not same.all():
                    at = int(np.argmin(same))
                    said = f"{values[at].tolist()} {one[2]}, {others[at].tolist()} {other[2]}"
                    raise FeatureError(_place(cls, name), f"{cls.__name__}.{name}: {said}; {hint}")


def columns(array: NDArray[Any], prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """The numbers in a structured array by the path of their field, such as `interval.sizes`."""
    for name in array.dtype.names or ():
        if array[name].dtype.names is None:
            yield prefix + name, array[name]
        else:
            yield from columns(array[name], f"{prefix}{name}.")


def _same(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Bit for bit, but that NaN is NaN."""
    if one.dtype.kind != "f":
        return np.asarray(one == other)
    bits = np.dtype(f"i{one.dtype.itemsize}")
    return np.asarray((one.view(bits) == other.view(bits)) | (np.isnan(one) & np.isnan(other)))


def _place(cls: type[FeatureClass], path: str) -> str:
    """FILE:LINE where an output field is given its value, or else where a field of the state is declared."""
    name = path.partition(".")[0]
    file = cls.add_packet.__code__.co_filename
    for source, pattern in ((cls.collect_features, rf"\b{name}="), (cls, rf"^    {name}\s*:")):
        lines, first = inspect.getsourcelines(source)
        for number, line in enumerate(lines):
            if re.search(pattern, line):
                return f"{file}:{first + number}"
    return file


def nulls(cls: type[FeatureClass], results: Results) -> list[str]:
    """What to say about values that are no numbers in JSON."""
    rows = results["whole_rows"][cls.__name__]
    floats = [(name.removesuffix(".items"), values) for name, values in columns(rows) if values.dtype.kind == "f"]
    not_observed = [name for name, values in floats if np.isnan(values).any()]
    infinite = [name for name, values in floats if np.isinf(values).any()]
    notes = [f"NaN becomes null: {_few(not_observed)}"] if not_observed else []
    return [*notes, f"infinity becomes null, and is counted: {_few(infinite)}"] if infinite else notes


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
