"""What pydantic found wrong, in one line of the words that the user writes: key, what is wrong, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trafficrefinery.errors import ConfigError, did_you_mean

from . import legacy
from .sinks import Sinks, sink_class
from .text import key_path, quoted

_KINDS = {
    "string_type": "a string",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "model_type": "an object {...}",
    "path_type": "a path",
}


def first_error(error: ValidationError, model: type[BaseModel], file: str) -> ConfigError:
    """An unknown key, if there is one, is the reason of what else is wrong; otherwise the first in the file."""
    details = error.errors(include_url=False)
    chosen = min(details, key=lambda detail: detail["type"] != "extra_forbidden")
    return ConfigError(file, key_path(chosen["loc"]), _message(chosen, model))


def unknown_key(key: object, allowed: Iterable[str], also_known: Iterable[str] = ()) -> str:
    allowed = tuple(allowed)
    near = did_you_mean(str(key), (*allowed, *also_known))
    return f"unknown key{near or '; allowed are ' + ', '.join(allowed)}"


def _unknown(detail: ErrorDetails, model: type[BaseModel]) -> str:
    *path, key = detail["loc"]
    section = ".".join(str(part) for part in path if isinstance(part, str))
    return unknown_key(key, _keys_at(model, path), legacy.KEYS.get(section, ()))


def _not_a_choice(detail: ErrorDetails) -> str:
    value, choices = detail["input"], re.findall(r"'([^']*)'", detail["ctx"]["expected"])
    near = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"must be one of {', '.join(map(quoted, choices))}, not {quoted(value)}{near}"


_MESSAGES: dict[str, Callable[[ErrorDetails], str]] = {
    "missing": lambda _: "is missing",
    "value_error": lambda detail: str(detail["ctx"]["error"]),
    "literal_error": _not_a_choice,
    "greater_than_equal": lambda detail: f"must be at least {detail['ctx']['ge']}, not {detail['input']}",
    "less_than_equal": lambda detail: f"must be at most {detail['ctx']['le']}, not {detail['input']}",
    "too_short": lambda _: "must not be empty",
    "string_too_short": lambda _: "must not be empty",
}


def _message(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown(detail, model)
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}, not {quoted(detail['input'])}"
    if kind in _MESSAGES:
        return _MESSAGES[kind](detail)
    return " ".join(detail["msg"].split())


def _keys_at(model: type[BaseModel], path: Iterable[int | str]) -> list[str]:
    """The keys of the section that a location leads to."""
    for part in path:
        if isinstance(part, str):
            model = _section_at(model, part)
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_at(model: type[BaseModel], key: str) -> type[BaseModel]:
    if issubclass(model, Sinks):
        settings: type[BaseModel] = sink_class(key).Settings
        return settings
    field = next(field for field in model.model_fields.values() if field.alias == key)
    section: type[BaseModel] = next(filter(_is_section, _types_in(field.annotation)))
    return section


def _is_section(kind: Any) -> bool:  # Any: whatever stands in an annotation
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _types_in(annotation: Any) -> list[Any]:
    return [annotation, *(inner for argument in get_args(annotation) for inner in _types_in(argument))]
