"""A target: the question that a model answers, of what, in which words or unit, and when."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from trafficrefinery.errors import UsageError, did_you_mean

from .units import INTERVAL, PACKETS, SECONDS, UNITS, When

CLASSES, ORDINAL, QUANTITY = "classes", "ordinal", "quantity"
KINDS = (CLASSES, ORDINAL, QUANTITY)
LABEL_PREFIX = "label."
"""What a column with the labels of a target begins with, in label files and datasets; the target's name follows."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class Target(NamedTuple):
    """A target.

    Args:
        name: as `train --target` and inference records have it.
        kind: `classes`, `ordinal` (classes in an order), or `quantity` (a number).
        unit: what is asked about, see `UNITS`.
        labels: the classes, those of an ordinal target from low to high; empty: those of the training data, which in
            an ordinal target have to be numbers.
        measured_in: unit of a quantity, such as `s`, or of labels that are numbers, such as the `p` of 720p.
        groups: label columns; rows that agree in any of them are never on both sides of a split.
        when: it is answered.
        column: that has the labels; empty: `label.NAME`.
        least: smallest value that a quantity can have; None: any.
        sizes_vary: whether the bytes that one class takes vary with the content more than few recordings show, as
            those of a resolution do from video to video; training then varies the sizes.
    """

    name: str
    kind: str
    unit: str = next(iter(UNITS))
    labels: tuple[str, ...] = ()
    measured_in: str = ""
    groups: tuple[str, ...] = ("file",)
    when: When = When()
    column: str = ""
    least: float | None = None
    sizes_vary: bool = False

    @property
    def has_labels(self) -> bool:
        """Whether the answer is one of some labels, and not a number."""
        return self.kind != QUANTITY

    @property
    def is_once(self) -> bool:
        """Whether there is one answer for each unit, and not one for each of its intervals."""
        return self.when.at != INTERVAL

    @property
    def base(self) -> tuple[str, ...]:
        """Feature classes that have to be collected whatever a model sees."""
        return ("PacketCounters",) if self.when.at == PACKETS else ()

    @property
    def moment(self) -> str:
        """When it is answered, in words."""
        if self.when.at == SECONDS:
            return f"once, {self.when.after:g} seconds after the start of a {self.unit}"
        if self.when.at == PACKETS:
            return f"once, in the interval of packet {self.when.after:g} of a {self.unit}"
        return f"once, at the end of a {self.unit}" if self.is_once else f"for each interval of a {self.unit}"

    @property
    def label_column(self) -> str:
        """The column of label files and datasets with what is right."""
        return self.column or f"{LABEL_PREFIX}{self.name}"

    def ordered(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Labels in the target's order, each once; without one, numbers by value and words by alphabet."""
        there = set(labels)
        if self.labels:
            return tuple(one for one in self.labels if one in there)
        return tuple(sorted(there, key=float if self.kind == ORDINAL else str))

    def read(self, text: str, where: str) -> str | float:
        """What a label file says: a label, or a number, which may have its unit behind it.

        Raises:
            UsageError: it is not one of the target's labels, or not a number.
        """
        if self.labels and text not in self.labels:
            hint = did_you_mean(text, self.labels)
            raise UsageError(f'{where}: "{text}" is not one of {", ".join(self.labels)}{hint}')
        if self.kind == CLASSES or self.labels:
            return text
        try:
            number = float(text.strip().removesuffix(self.measured_in or " "))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            what = "a number" + (f" of {self.measured_in}" if self.measured_in else "")
            more = "; give the order of the target's labels in its definition" if self.kind == ORDINAL else ""
            inside = re.findall(r"\d+(?:\.\d+)?", text)
            if self.measured_in and len(inside) == 1:
                more = f"; write {inside[0]}"
            raise UsageError(f'{where}: "{text}" is not {what}{more}')
        if self.least is not None and number < self.least:
            raise UsageError(f'{where}: "{text}" is less than {self.least:g}, the least that {self.name} can be')
        return f"{number:.15g}" if self.kind == ORDINAL else number

    def shown(self, label: str) -> str:
        """A label for people, with its unit: the resolution 720 as 720p."""
        return f"{label}{self.measured_in}"

    def as_json(self) -> dict[str, Any]:
        """What differs from a target with this name and kind and nothing else, as JSON values."""
        plain = Target(self.name, self.kind)
        return {
            name: value.as_json() if isinstance(value, When) else list(value) if isinstance(value, tuple) else value
            for name, value in self._asdict().items()
            if name in ("name", "kind") or value != getattr(plain, name)
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> Target:  # Any: JSON values of others
        """The same from JSON values.

        Raises:
            UsageError: what is wrong, at which key.
        """
        if not isinstance(content, Mapping):
            raise UsageError(f"{where}: must be an object with the name and the kind of a target")
        for key in content:
            if key not in cls._fields:
                hint = did_you_mean(str(key), cls._fields) or f"; there are {', '.join(cls._fields)}"
                raise UsageError(f'{where}: no such key "{key}"{hint}')
        for key in ("name", "kind"):
            if key not in content:
                raise UsageError(f"{where}: {key}: is missing")
        for key, value in content.items():
            fits, what = _FORMS[key]
            if not fits(value):
                raise UsageError(f"{where}: {key}: {value!r} is not {what}")
        given: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in content.items()}
        if "when" in given:
            given["when"] = When.from_json(given["when"])
        target = cls(**given)
        target._check(where)
        return target

    def _check(self, where: str) -> None:
        """See that the keys go together."""
        if self.kind == QUANTITY and self.labels:
            raise UsageError(f"{where}: labels: a quantity has none; give measured_in, or another kind")
        if len(set(self.labels)) < len(self.labels) or len(self.labels) == 1:
            raise UsageError(f"{where}: labels: must be two or more, each once")
        told = UNITS[self.unit].told
        if self.when.at not in told:
            raise UsageError(f"{where}: when: {self.when.at} does not apply to a {self.unit}; use {', '.join(told)}")
        if not self.groups:
            raise UsageError(f"{where}: groups: must name a column, such as file or session")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one.strip() == one != "" for one in value)


def _one_of(known: Collection[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in known


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_FORMS: dict[str, tuple[Callable[[object], bool], str]] = {
    "name": (_is_name, "a name: a letter, then letters, digits, - and _"),
    "kind": (_one_of(KINDS), f"one of {', '.join(KINDS)}"),
    "unit": (_one_of(UNITS), f"one of {', '.join(UNITS)}"),
    "labels": (_is_texts, "a list of texts"),
    "measured_in": (lambda value: isinstance(value, str), "a text, such as s or Mbit/s"),
    "groups": (_is_texts, "a list of names of columns"),
    "when": (lambda value: When.from_json(value) is not None,
             'interval, end, {"seconds": number} or {"packets": whole number}'),
    "column": (lambda value: isinstance(value, str), "the name of a column"),
    "least": (lambda value: value is None or _is_number(value), "a number, or null"),
    "sizes_vary": (lambda value: isinstance(value, bool), "true or false"),
}  # fmt: skip
"""For each key, a check of its value, and what the value must be, in words."""
