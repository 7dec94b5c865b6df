"""Session features: found in files as feature classes are, and what they give."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from trafficrefinery.api import FeatureClass
from trafficrefinery.api.outputs import Column, wrong
from trafficrefinery.api.sessions import GROUPS, SessionFeature
from trafficrefinery.config import Config
from trafficrefinery.config.paths import features_dir
from trafficrefinery.engine.feature_classes.fields import output_fields
from trafficrefinery.engine.feature_classes.registry import ClassFiles, Registry, specialise
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import FeatureError, did_you_mean

from .provenance import FEATURE_CLASS, SESSION_FEATURE, Provenance, UsedCode


class SessionField(NamedTuple):
    """One figure of a session and interval.

    Args:
        name: `group.field`, as the column is called.
        kind: int or float.
        doc: unit and meaning, from the comments behind its fields.
        column: as declared; says where its value lies.
        made_by: the code behind it, as far as a registry tells.
    """

    name: str
    kind: str
    doc: str
    column: Column
    made_by: Provenance | None = None


def source_file(cls: type[SessionFeature]) -> str:
    """The file of a session feature, as its code names it."""
    found: str = (cls.collect_sessions or cls.collect_features).__code__.co_filename
    return found


def session_fields(cls: type[SessionFeature]) -> list[SessionField]:
    """What a class gives of each session and interval."""
    found = []
    for field in output_fields(cls):
        if field.kind not in ("int", "float"):
            raise wrong(*field.column.fields[-1], f"{field.kind} cannot be a figure of a session; use int or float")
        found.append(SessionField(f"{cls.group}.{field.name}", field.kind, field.doc, field.column))
    return found


Used = Mapping[str, Sequence[type[FeatureClass]]]


class SessionRegistry(ClassFiles[SessionFeature]):
    """The session features of `features/sessions`, and those in further directories or files.

    Args:
        paths: further directories, or single files.
        used: the feature classes that are collected, by name: with their parameters, several where services set
            other ones; none where only their names are known.
        config: sets parameters, in `Sessions.Parameters`.

    Raises:
        FeatureError: a class is wrong or needs a feature class that there is not, or two give the same column.
        ConfigError: there is no such class or parameter, or it cannot have that value.
    """

    def __init__(
        self, paths: Iterable[Path] = (), used: Used = MappingProxyType({}), config: Config | None = None
    ) -> None:
        paths = list(paths)
        super().__init__(SessionFeature, features_dir() / "sessions", paths)
        flow_classes = Registry(paths) if paths else None
        if config is not None:
            self._set_parameters(config)
        self.classes = [self.get(name) for name in self._files]
        self._fields: dict[str, SessionField] = {}
        for cls in self.classes:
            name, path = cls.__name__, self._files[cls.__name__]
            code = UsedCode.of(SESSION_FEATURE, cls, path)
            code += _needed_code(cls, path, flow_classes, used)
            made_by = Provenance(name, tuple(cls.needs), code)
            for field in session_fields(cls):
                other = self._fields.get(field.name)
                if other is not None and other.made_by is not None:
                    raise FeatureError(
                        str(path), f"{name} and {other.made_by.feature} both give {field.name}; rename one"
                    )
                self._fields[field.name] = field._replace(made_by=made_by)

    def check(self, cls: type[SessionFeature], where: str) -> None:
        """Raise FeatureError when group, state or outputs are wrong."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", cls.group):
            what = f'group "{cls.group}" cannot begin the name of a column; write {", ".join(GROUPS)}, or another word'
            raise FeatureError(where, f"{cls.__name__}: {what} in lower case")
        super().check(cls, where)
        session_fields(cls)

    @classmethod
    def of(cls, plan: Plan, services: Collection[str] = ()) -> SessionRegistry:
        """The session features of a configuration, as some services have them; none: all services."""
        return cls(plan.config.feature_paths, plan.classes_of(services), plan.config)

    def _set_parameters(self, config: Config) -> None:
        for name, params in config.sessions.parameters.items():
            if name not in self._files:
                hint = did_you_mean(name, self.names()) or f"; there are {', '.join(self.names())}"
                raise config.error("Sessions.Parameters", f'no session feature "{name}"{hint}')
            self._classes[name] = specialise(self.get(name), params, config.file, "Sessions.Parameters")

    @property
    def made_by(self) -> dict[str, Provenance]:
        """What each column is made by."""
        return {field.name: field.made_by for field in self._fields.values() if field.made_by is not None}

    def fields(self) -> list[SessionField]:
        """What all classes give."""
        return list(self._fields.values())


def _needed_code(
    cls: type[SessionFeature], path: Path, flow_classes: Registry | None, used: Used
) -> tuple[UsedCode, ...]:
    """The user's own feature classes among those that a session feature needs, and those with other parameters."""
    code: tuple[UsedCode, ...] = ()
    known = flow_classes.names() if flow_classes is not None else []
    for name in cls.needs:
        given = used.get(name, ())
        if flow_classes is not None and name in known:
            found, file = given or (flow_classes.get(name),), flow_classes.file_of(name)
        elif flow_classes is None or name in used:
            found, file = given, None
        else:
            hint = did_you_mean(name, known) or "; name its file in FeaturePaths as well"
            raise FeatureError(str(path), f'{cls.__name__}.needs: no feature class "{name}"{hint}')
        for one in found:
            code += UsedCode.of(FEATURE_CLASS, one, file, always=len(found) > 1)
    return code
