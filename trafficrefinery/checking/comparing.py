"""The results of a class in several ways, compared field by field."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.api import FeatureClass
from trafficrefinery.errors import FeatureError

Results = dict[str, NDArray[Any]]
"""What `checking.way` writes."""

_HINTS = {
    "off": "look for whole numbers beyond 64 bits, a name that is an int in one branch and a float in another, and "
    "int ** negative",
    "boundscheck": "look for an index beyond its array",
    "again": "look for a name that has no value in one branch",
    "split": "keep all that is remembered in fields of the class",
}


def compare(cls: type[FeatureClass], results: dict[str, Results]) -> None:
    """Raise FeatureError for the first field that is not the same in all ways: FILE:LINE, the values, a hint."""
    compiled = results["on"]
    pairs = [
        ("compiled", compiled, "whole", "interpreted", results["off"], "whole", "off"),
        ("compiled", compiled, "whole", "bounds-checked", results["boundscheck"], "whole", "boundscheck"),
        *(
            (f"first ({way})", results[mode], "whole", "again", results[mode], "again", "again")
            for mode, way in (("on", "compiled"), ("off", "interpreted"))
        ),
        *(
            (f"flows together ({way})", results[mode], "whole", "flow after flow", results[mode], "split", "split")
            for mode, way in (("on", "compiled"), ("off", "interpreted"))
        ),
    ]
    for kind in ("rows", "states"):
        for word, one, one_key, other_word, other, other_key, hint in pairs:
            first, second = one[f"{one_key}_{kind}"][cls.__name__], other[f"{other_key}_{kind}"][cls.__name__]
            for name, values in columns(first):
                others = dict(columns(second))[name]
                if not _same(values, others).all():
                    at = int(np.argmin(_same(values, others).reshape(len(values), -1).all(axis=1)))
                    said = f"{_value(values[at])} {word}, {_value(others[at])} {other_word}"
                    raise FeatureError(_place(cls, name), f"{cls.__name__}.{name}: {said}; {_HINTS[hint]}")


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
    return (one.view(bits) == other.view(bits)) | (np.isnan(one) & np.isnan(other))


def _value(value: Any) -> str:
    return str(value.tolist())


def _place(cls: type[FeatureClass], path: str) -> str:
    """FILE:LINE where an output field is given its value, or else where a field of the state is declared."""
    name = path.split(".")[0]
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
    notes = [f"NaN becomes null: {', '.join(not_observed)}"] if not_observed else []
    return [*notes, f"infinity becomes null, and is counted: {', '.join(infinite)}"] if infinite else notes
