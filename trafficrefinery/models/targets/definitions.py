"""Targets that a user defines, in a JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trafficrefinery.errors import UsageError
from trafficrefinery.system.files import read_json

from .target import Target

FILE = "targets.json"
"""Beside `labels.csv`."""


def read_targets(path: Path) -> dict[str, Target]:
    """The targets of a file, by name: of one object, or of a list of them.

    Raises:
        UsageError: the file cannot be read, or what is wrong in it.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{path}: is not JSON: {error}") from error
    items = [content] if isinstance(content, Mapping) else content
    if not isinstance(items, list) or not items:
        raise UsageError(f"{path}: must be an object with the name and the kind of a target, or a list of them")
    found: dict[str, Target] = {}
    for number, item in enumerate(items):
        where = f"{path}: [{number}]" if items is content else str(path)
        target = Target.from_json(item, where)
        if target.name in found:
            raise UsageError(f'{where}: name: "{target.name}" is defined twice')
        found[target.name] = target
    return found


def target_in(path: Path) -> Target:
    """The only target of a file.

    Raises:
        UsageError: see `read_targets`; there are several.
    """
    found = read_targets(path)
    if len(found) > 1:
        raise UsageError(f"{path}: defines {', '.join(found)}; keep one target in the file")
    return next(iter(found.values()))
