"""Session features: found in files as feature classes are, and what they give."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, get_type_hints

from trafficrefinery.api import state_dtype
from trafficrefinery.api.sessions import GROUPS, SessionFeature
from trafficrefinery.config.paths import features_dir
from trafficrefinery.engine.feature_fields import field_comments
from trafficrefinery.engine.registry import check_place, class_names, load_file
from trafficrefinery.errors import FeatureError

_KINDS = {int: "int", float: "float"}


class SessionField(NamedTuple):
    """One figure of a session and interval.

    Args:
        name: `group.field`, as the column is called.
        kind: int or float.
        doc: unit and meaning, from the comment behind the field.
    """

    name: str
    kind: str
    doc: str


def session_output(cls: type[SessionFeature]) -> type:
    """The NamedTuple that a class returns."""
    method = cls.collect_sessions or cls.collect_features
    made = get_type_hints(method).get("return")
    if not (isinstance(made, type) and issubclass(made, tuple) and hasattr(made, "_fields")):
        raise FeatureError(cls.__name__, f"{method.__name__} must be annotated with a NamedTuple class")
    return made


_fields: dict[type, list[SessionField]] = {}


def session_fields(cls: type[SessionFeature]) -> list[SessionField]:
    """What a class gives of each session and interval."""
    if cls not in _fields:
        _fields[cls] = _session_fields(cls)
    return _fields[cls]


def _session_fields(cls: type[SessionFeature]) -> list[SessionField]:
    made = session_output(cls)
    comments = field_comments(made)
    found = []
    for name, hint in get_type_hints(made).items():
        if hint not in _KINDS:
            raise FeatureError(made.__name__, f"field {name}: {hint} cannot be written; use int or float")
        found.append(SessionField(f"{cls.group}.{name}", _KINDS[hint], comments.get(name, "")))
    return found


class SessionRegistry:
    """The session features of `features/sessions`, and those in further directories or files.

    Raises:
        FeatureError: a class is wrong, or two give the same column.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self.classes: list[type[SessionFeature]] = []
        self._files: dict[type[SessionFeature], Path] = {}
        columns: dict[str, str] = {}
        for place in (features_dir() / "sessions", *paths):
            if place != features_dir() / "sessions":
                check_place(place)
            for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
                for name in class_names(path, "SessionFeature"):
                    cls = getattr(load_file(path), name)
                    self._files[cls] = path
                    self.classes.append(cls)
                    for field in _checked(cls, path):
                        if field.name in columns:
                            raise FeatureError(str(path), f"{name} and {columns[field.name]} both give {field.name}")
                        columns[field.name] = name

    def file_of(self, cls: type[SessionFeature]) -> Path:
        """The file that defines a class."""
        return self._files[cls]

    def fields(self) -> list[SessionField]:
        """What all classes give."""
        return [field for cls in self.classes for field in session_fields(cls)]


def _checked(cls: type[SessionFeature], path: Path) -> list[SessionField]:
    if cls.group not in GROUPS:
        raise FeatureError(str(path), f'{cls.__name__}: group "{cls.group}" is not one of {", ".join(GROUPS)}')
    try:
        state_dtype(cls)
    except (TypeError, NameError) as error:
        raise FeatureError(str(path), str(error)) from error
    return session_fields(cls)
