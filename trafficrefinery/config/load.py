"""From a file or a dictionary to a checked `Config`, and from whatever is wrong with it to one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from trafficrefinery.errors import ConfigError
from trafficrefinery.system.files import read_given

from . import legacy
from .messages import first_error
from .model import Config
from .text import Location, key_path, quoted
from .units import format_duration

_TOKEN = re.compile(
    r'"(?:[^"\\\n]|\\.)*"?'  # a string, perhaps one that is not closed
    r"|//[^\n]*"
    r"|/\*.*?\*/"
    r"|(?P<unclosed>/\*)",
    re.DOTALL,
)
_HALF_CHARACTER = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # what is between stands for a byte of a file's name
_TRAILING_COMMA = re.compile(r'"(?:[^"\\\n]|\\.)*"?|(?P<comma>,)(?=\s*[}\]])', re.DOTALL)


def load_config(path: str | Path) -> Config:
    """Read a configuration file, new or of the original system: JSON, in which comments and trailing commas may stand.

    Paths in it are relative to its folder; to the working directory when it comes through a pipe.

    Raises:
        ConfigError: the file, the key in it, and what is wrong and allowed.
    """
    file, path = str(path), Path(path)
    try:
        text = read_given(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(file, "", f"is not UTF-8 text: byte {error.start} is wrong") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(file, "", f"cannot be read: {reason}") from None
    return _build(_parse_json(text, file), file, Path() if path.is_fifo() else path.parent)


def parse_config(data: Mapping[str, Any], file: str = "<config>") -> Config:  # Any: JSON values
    """A configuration made in Python, with the keys of a file; paths are relative to the working directory.

    Raises:
        ConfigError: the key, and what is wrong and allowed; `file` is what it names as the file.
    """
    return _build(data, file, Path())


def _build(data: object, file: str, base: Path) -> Config:
    if not isinstance(data, Mapping):
        raise ConfigError(file, "", f"must be an object {{...}}, not {quoted(data)}")
    _check_characters(data, file)
    translated, notes = legacy.translate(data, file)
    try:
        config = Config.model_validate(translated, context={"base": base})
    except ValidationError as error:
        raise first_error(error, Config, file) from None
    config = _resolved(config)
    config._file, config._ignored = file, tuple(notes)  # noqa: SLF001 (set here once, read-only for all others)
    _check_names(config)
    _check_collects(config)
    _check_prefixes(config)
    _check_intervals(config)
    return config


def _resolved(config: Config) -> Config:
    """What a part cannot know of the whole: the default interval, and where each feature class stands."""
    services = []
    for i, service in enumerate(config.services):
        interval_ns = service.interval_ns if "interval_ns" in service.model_fields_set else config.interval_ns
        collect = tuple(replace(item, key_path=f"Services[{i}].Collect[{j}]") for j, item in enumerate(service.collect))
        services.append(service.model_copy(update={"interval_ns": interval_ns, "collect": collect}))
    return config.model_copy(update={"services": tuple(services)})


def _check_names(config: Config) -> None:
    seen: dict[str, int] = {}
    for i, service in enumerate(config.services):
        if service.name in seen:
            message = f"{quoted(service.name)} is the name of Services[{seen[service.name]}] too; names must differ"
            raise config.error(f"Services[{i}].Name", message)
        seen[service.name] = i


def _check_collects(config: Config) -> None:
    for service in config.services:
        seen: set[str] = set()
        for item in service.collect:
            if item.name in seen:
                raise config.error(
                    item.key_path, f"{quoted(item.name)} is collected already; once a service is allowed"
                )
            seen.add(item.name)


def _check_prefixes(config: Config) -> None:
    owner: dict[object, str] = {}
    for i, service in enumerate(config.services):
        for j, prefix in enumerate(service.filter.prefixes):
            if owner.setdefault(prefix, service.name) != service.name:
                message = f"{quoted(str(prefix))} is in service {quoted(owner[prefix])} too; a prefix has one service"
                raise config.error(f"Services[{i}].Filter.Prefixes[{j}]", message)


def _check_intervals(config: Config) -> None:
    """Ends of long intervals are ends of short ones too."""
    shortest = min(config.services, key=lambda service: service.interval_ns)
    for i, service in enumerate(config.services):
        if service.interval_ns % shortest.interval_ns:
            raise config.error(
                f"Services[{i}].Interval",
                f"{quoted(format_duration(service.interval_ns))} is not a multiple of the shortest interval, "
                f"{quoted(format_duration(shortest.interval_ns))} of service {quoted(shortest.name)}",
            )


def _parse_json(text: str, file: str) -> object:
    repeated: list[tuple[dict[str, Any], str]] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated.append((made, next(key for key in made if keys.count(key) > 1)))
        return made

    def no_constant(name: str) -> NoReturn:
        raise ConfigError(file, "", f"{name} is not a JSON number")

    try:
        plain = without_comments(text)
        data: object = json.loads(plain, object_pairs_hook=collect, parse_constant=no_constant)
    except UnclosedCommentError as error:
        line, column = text.count("\n", 0, error.at) + 1, error.at - text.rfind("\n", 0, error.at)
        raise ConfigError(file, f"line {line} column {column}", f"{error}; end it with */") from None
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg[0].lower()}{error.msg[1:]}"
        raise ConfigError(file, f"line {error.lineno} column {error.colno}", message) from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, nesting of thousands of levels
        raise ConfigError(file, "", f"cannot be read: {error}") from None
    if repeated:
        where, key = repeated[-1]  # the outermost: what an inner one is in may have been overwritten
        raise ConfigError(file, key_path((*_location(data, where), key)), "is a duplicate key; remove one")
    return data


def _location(data: object, wanted: object) -> Location:
    """Where in `data` the very object `wanted` is."""
    for location, value in _within(data):
        if value is wanted:
            return location
    raise LookupError


def _within(data: object) -> Iterator[tuple[Location, object]]:
    """A value and all in it, each with where it is; outer ones first."""
    found: list[tuple[Location, object]] = [((), data)]
    for location, value in found:
        yield location, value
        if isinstance(value, Mapping):
            found += [((*location, key), child) for key, child in value.items()]
        elif isinstance(value, list):
            found += [((*location, index), child) for index, child in enumerate(value)]


def _check_characters(data: object, file: str) -> None:
    """Refuse half of a surrogate pair, which JSON can write: no name of a file and no expression has it."""
    for location, value in _within(data):
        for text in value if isinstance(value, Mapping) else (value,):
            half = _HALF_CHARACTER.search(text) if isinstance(text, str) else None
            if half is not None:
                message = f"{quoted(text)} has {quoted(half[0])} in it, which is half a character"
                raise ConfigError(file, key_path(location), message)


class UnclosedCommentError(ValueError):
    """A `/*` without a `*/`; `at` is its place in the text."""

    def __init__(self, at: int) -> None:
        super().__init__("the comment is not closed")
        self.at = at


def without_comments(text: str) -> str:
    """The same text with spaces in place of comments and of commas before a closing bracket.

    Raises:
        UnclosedCommentError: a comment has no end.
    """

    def blanked(match: re.Match[str]) -> str:
        found = match[0]
        if found.startswith('"'):
            return found
        if match["unclosed"]:
            raise UnclosedCommentError(match.start())
        return re.sub(r"[^\n]", " ", found)

    plain = _TOKEN.sub(blanked, text)

    def without_comma(match: re.Match[str]) -> str:
        if not match["comma"]:
            return match[0]
        at = match.start() - 1
        while at >= 0 and plain[at].isspace():
            at -= 1
        return "," if at < 0 or plain[at] in "[{,:" else " "  # of nothing it is an error

    return _TRAILING_COMMA.sub(without_comma, plain)
