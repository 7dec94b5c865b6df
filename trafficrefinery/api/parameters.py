"""Parameters of classes: what values they take. A class body says `SampleMs = parameter(1_000, at_least=1, ...)`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

Scalar = bool | int | float | str
V = TypeVar("V", bool, int, float, str)

INT64 = (-(1 << 63), (1 << 63) - 1)
MAX_TEXT = 1_000
MAX_STATE_BYTES = 4 << 20
"""Of one flow: the state of a class, and of all classes of a service together."""
MAX_ROW_BYTES = 1 << 20
"""Of one flow and interval: the outputs of a class, and of all classes of a service together."""
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


class Parameter(NamedTuple):
    """What a class declares of a parameter.

    Args:
        at_least, at_most: the range of a number, both ends included; None: as far as 64 bits reach.
        unit: of a number, such as "ms".
    """

    default: Scalar
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    def described(self) -> str:
        """The values that it takes, in words: `a whole number from 1 to 3,600,000 ms`."""
        words, unit = _NAMES[type(self.default)], f" {self.unit}" if self.unit else ""
        if self.at_least is not None and self.at_most is not None:
            return f"{words} from {self.at_least:,} to {self.at_most:,}{unit}"
        for name, bound in (("of at least", self.at_least), ("of at most", self.at_most)):
            if bound is not None:
                return f"{words} {name} {bound:,}{unit}"
        if type(self.default) is str:
            return f"{words} of at most {MAX_TEXT:,} characters"
        return (
            f"{words} that fits into 64 bits" if type(self.default) is int else words + (f" ({self.unit})" * bool(unit))
        )

    def checked(self, value: object) -> Scalar:
        """The value as the class gets it.

        Raises:
            ValueError: it is of the wrong type or out of range; what is allowed.
        """
        kind = type(self.default)
        number: Any = value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value
        fits = isinstance(number, bool) == (kind is bool) and isinstance(
            number, (int, float) if kind is float else kind
        )
        if fits and kind in (int, float):
            fits = self._contains(number)
        if fits and kind is str:
            fits = len(number) <= MAX_TEXT
        if not fits:
            said = json.dumps(value, default=repr)
            said = said if len(said) <= 40 else f"{said[:30]}… ({len(said)} characters)"
            raise ValueError(f"must be {self.described()}, not {said}")
        made: Scalar = kind(number)
        return made

    def _contains(self, number: float) -> bool:
        fits = INT64[0] <= number <= INT64[1] if isinstance(number, int) else math.isfinite(number)
        low, high = self.at_least, self.at_most
        return fits and (low is None or low <= number) and (high is None or number <= high)

    def json_schema(self) -> dict[str, Any]:  # Any: JSON values
        """As a JSON schema."""
        made: dict[str, Any] = {"type": _JSON_TYPES[type(self.default)], "default": self.default}
        if self.at_least is not None:
            made["minimum"] = self.at_least
        if self.at_most is not None:
            made["maximum"] = self.at_most
        return made | ({"description": f"Unit: {self.unit}."} if self.unit else {})


def parameter(default: V, *, at_least: float | None = None, at_most: float | None = None, unit: str = "") -> V:
    """Declare a parameter in the body of a feature class; in its methods it is the value.

    Args:
        default: the value where the configuration sets none.
        at_least: the least value of a number.
        at_most: the greatest value of a number.
        unit: the unit of a number, such as "ms".

    Raises:
        ValueError: the default is out of its own range.
        TypeError: it is no number, boolean or string, or what is none has a range.
    """
    if type(default) not in _NAMES:
        raise TypeError(f"parameter({default!r}): a parameter is true or false, a number, or text")
    if type(default) in (bool, str) and (at_least, at_most) != (None, None):
        raise TypeError(f"parameter({default!r}): only numbers have a range")
    declared: Any = Parameter(default, at_least, at_most, unit)
    try:
        declared.checked(default)
    except ValueError as error:
        raise ValueError(f"parameter({default!r}): the default {error}") from None
    made: V = declared
    return made


def parameters_schema(declared: Mapping[str, Parameter]) -> dict[str, Any]:  # Any: JSON values
    """The parameters of a class as a JSON schema."""
    return {
        "type": "object",
        "properties": {name: item.json_schema() for name, item in declared.items()},
        "additionalProperties": False,
    }


def size_text(size_bytes: int) -> str:
    """A size for messages, in the unit that makes it short."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:,.4g} {unit}"
    return f"{size_bytes} bytes"
