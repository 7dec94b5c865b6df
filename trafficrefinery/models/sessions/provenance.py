"""Which code a column of session-intervals is made by, so that a model meets the code that it was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from trafficrefinery.api import Struct, parameters
from trafficrefinery.config.paths import features_dir
from trafficrefinery.engine.feature_classes.fields import options_of
from trafficrefinery.system.files import read_bytes

SESSION_FEATURE, FEATURE_CLASS = "session feature", "feature class"
_KEY = b"made_by"
"""In the metadata of a column."""


class UsedCode(NamedTuple):
    """A class of a user, read from a file of `FeaturePaths`, or a built-in one with other parameters.

    Args:
        kind: `session feature` or `feature class`.
        file: its directory and name, the same wherever that directory lies; empty for a built-in class.
        sha256: of the file's content, in hexadecimal digits.
        parameters: those that differ from their defaults, but for options that only add outputs.
    """

    kind: str
    name: str
    file: str = ""
    sha256: str = ""
    parameters: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, kind: str, used: type[Struct], path: Path | None, *, always: bool = False) -> tuple[UsedCode, ...]:
        """The class as one element; none for a built-in class with its defaults or one in no file, unless `always`."""
        name, defaults = used.__name__, parameters(used.__base__) if used.__base__ else {}
        adding = options_of(used)
        changed = tuple(
            (key, value) for key, value in parameters(used).items()
            if defaults.get(key, value) != value and key not in adding
        )  # fmt: skip
        if path is None or path.resolve().is_relative_to(features_dir().resolve()):
            return (cls(kind, name, parameters=changed),) if changed or always else ()
        path = path.resolve()
        digest = hashlib.sha256(read_bytes(path)).hexdigest()
        return (cls(kind, name, f"{path.parent.name}/{path.name}", digest, changed),)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {**self._asdict(), "parameters": dict(self.parameters)}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> UsedCode:
        """What `as_json` made."""
        return cls(**{**told, "parameters": tuple(told["parameters"].items())})

    def __str__(self) -> str:
        return f"the {self.kind} {self.name}" + (f" of {self.file}" if self.file else "")


class Provenance(NamedTuple):
    """What a column is made by.

    Args:
        feature: name of the session feature.
        needs: the feature classes of flows that it is made from.
        code: those of them that are the user's own, or have other parameters than their defaults.
    """

    feature: str
    needs: tuple[str, ...]
    code: tuple[UsedCode, ...] = ()

    def metadata(self) -> dict[bytes, bytes]:
        """For the column's field in a table."""
        return {_KEY: json.dumps([self.feature, self.needs, [one.as_json() for one in self.code]]).encode()}

    @classmethod
    def of(cls, field: pa.Field) -> Provenance | None:
        """As the column of a table says; None where it does not."""
        told = (field.metadata or {}).get(_KEY)
        if told is None:
            return None
        feature, needs, code = json.loads(told)
        return cls(feature, tuple(needs), tuple(map(UsedCode.from_json, code)))


def needs_as_json(needs: tuple[str, ...], code: tuple[UsedCode, ...]) -> list[Any]:
    """The needs of a model: names of feature classes, and the user's own code with its digest."""
    return [*needs, *(one.as_json() for one in code)]


def needs_from_json(needs: list[Any]) -> tuple[tuple[str, ...], tuple[UsedCode, ...]]:
    """What `needs_as_json` made."""
    code = tuple(UsedCode.from_json(one) for one in needs if isinstance(one, dict))
    return tuple(str(one) for one in needs if not isinstance(one, dict)), code
