"""Session features: found in files as feature classes are, and what they give."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from trafficrefinery.api import state_dtype
from trafficrefinery.api.outputs import Column, wrong
from trafficrefinery.api.sessions import GROUPS, SessionFeature
from trafficrefinery.config.paths import features_dir
from trafficrefinery.engine.feature_fields import output_fields
from trafficrefinery.engine.registry import check_place, class_names, load_file
from trafficrefinery.errors import FeatureError


class SessionField(NamedTuple):
    """One figure of a session and interval.

    Args:
        name: `group.field`, as the column is called.
        kind: int or float.
        doc: unit and meaning, from the comments behind its fields.
        column: as declared; says where its value lies.
    """

    name: str
    kind: str
    doc: str
    column: Column


def session_fields(cls: type[SessionFeature]) -> list[SessionField]:
    """What a class gives of each session and interval."""
    found = []
    for field in output_fields(cls):
        if field.kind not in ("int", "float"):
            raise wrong(*field.column.fields[-1], f"{field.kind} cannot be a figure of a session; use int or float")
        found.append(SessionField(f"{cls.group}.{field.name}", field.kind, field.doc, field.column))
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
