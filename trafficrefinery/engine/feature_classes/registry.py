"""Feature classes by name: found in files, checked, and given their parameters."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from trafficrefinery.api import FeatureClass, Struct, declared_parameters, state_dtype
from trafficrefinery.api.parameters import MAX_ROW_BYTES, MAX_STATE_BYTES, parameters_schema, size_text
from trafficrefinery.config.paths import features_dir
from trafficrefinery.errors import ConfigError, FeatureError, did_you_mean
from trafficrefinery.system.files import owner_fault, read_bytes, write_fault

from .fields import output_dtype

C = TypeVar("C", bound=Struct)


class ClassFiles(Generic[C]):
    """Classes of one kind by name: of the built-in directory, of further directories, and classes passed in.

    A file is loaded when its class is asked for: the file of class `PacketCounters` is any `*.py` that defines it. A
    class replaces one of the same name in a directory before its own.

    Args:
        base: what the classes derive from.
        built_in: the built-in directory.
        paths: further directories, or single files.
        classes: classes that were defined elsewhere, such as in a notebook; they come first.
    """

    def __init__(self, base: type[C], built_in: Path, paths: Iterable[Path], classes: Iterable[type[C]] = ()) -> None:
        self._base = base
        self._classes = {cls.__name__: cls for cls in classes}
        for name, cls in self._classes.items():
            self.check(cls, name)
        self._given = frozenset(self._classes)
        self._files: dict[str, Path] = {}
        for place in (built_in, *paths):
            if place != built_in:
                check_place(place)
            for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
                self._files |= dict.fromkeys(class_names(path, base.__name__), path)

    def names(self) -> list[str]:
        """All class names, sorted."""
        return sorted({*self._classes, *self._files})

    def file_of(self, name: str) -> Path | None:
        """The file that defines a class, None for one that was passed in."""
        return None if name in self._given else self._files.get(name)

    def get(self, name: str) -> type[C]:
        """The class of that name; KeyError when there is none, FeatureError when its file is wrong."""
        if name not in self._classes:
            module = load_file(self._files[name])
            found = getattr(module, name, None)
            if not (isinstance(found, type) and issubclass(found, self._base)):
                raise FeatureError(str(self._files[name]), f"{name} does not derive from {self._base.__name__}")
            self.check(found, str(self._files[name]))
            self._classes[name] = found
        return self._classes[name]

    def found(self, name: str | None = None) -> list[tuple[type[C], Path | None]]:
        """All classes with their files, sorted by name, or those of a name; raises as `get` does."""
        return [(self.get(one), self.file_of(one)) for one in self.names() if name in (None, one)]

    def check(self, cls: type[C], where: str) -> None:
        """Raise FeatureError when what a class declares is wrong."""
        check_declarations(cls, where)


class Registry(ClassFiles[FeatureClass]):
    """The feature classes of the built-in directory, of further directories, and classes passed in."""

    def __init__(self, paths: Iterable[Path] = (), classes: Iterable[type[FeatureClass]] = ()) -> None:
        super().__init__(FeatureClass, features_dir(), paths, classes)

    def collect(self, items: Sequence[Any], file: str) -> tuple[type[FeatureClass], ...]:
        """The classes of a `Collect` list (`CollectItem`s) with their parameters.

        Raises:
            ConfigError: no such class or parameter, or a value of the wrong type.
        """
        found = []
        for item in items:
            if item.name not in self._classes and item.name not in self._files:
                hint = did_you_mean(item.name, self.names()) or f"; there are {', '.join(self.names())}"
                raise ConfigError(file, item.key_path, f'no feature class "{item.name}"{hint}')
            found.append(specialise(self.get(item.name), item.params, file, item.key_path))
        _check_total(found, file, items)
        return tuple(found)

    def schemas(self) -> dict[str, Any]:  # Any: JSON values
        """Class name → the JSON schema of its parameters."""
        return {name: parameters_schema(declared_parameters(self.get(name))) for name in self.names()}


def _check_total(classes: Sequence[type[FeatureClass]], file: str, items: Sequence[Any]) -> None:
    """Raise ConfigError when the classes of a service are too large together."""
    key = str(items[0].key_path).rpartition("[")[0] if items else ""
    for what, most, sizes in (
        ("the states of one flow", MAX_STATE_BYTES, [state_dtype(cls).itemsize for cls in classes]),
        ("the outputs of one flow and interval", MAX_ROW_BYTES, [output_dtype(cls).itemsize for cls in classes]),
    ):
        if sum(sizes) > most:
            largest = classes[sizes.index(max(sizes))].__name__
            raise ConfigError(
                file, key, f"{what} take {size_text(sum(sizes))} together, {size_text(max(sizes))} of them for "
                f"{largest}; the most is {size_text(most)}",
            )  # fmt: skip


def class_names(path: Path, base: str) -> list[str]:
    """Names of the classes in a file that derive from `base`, without running it."""
    import ast

    try:
        tree = ast.parse(_source(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", 1)
        raise FeatureError(f"{path}:{line}", f"not a Python file: {getattr(error, 'msg', error)}") from error
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(parent).endswith(base) for parent in node.bases)
    ]


def check_place(place: Path) -> None:
    """Raise FeatureError when a directory or file of classes is not there, or is not ours alone: it is code."""
    if not place.exists():
        raise FeatureError(str(place), "no such directory or file; FeaturePaths names where features lie")
    for path in (place, *(sorted(place.glob("*.py")) if place.is_dir() else ())):
        fault = write_fault(path) if path == place else owner_fault(path.stat())
        if fault:
            raise FeatureError(str(path), f"{fault}; what is there is run: make it yours alone")


def _source(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise FeatureError(str(path), f"cannot be read: {error.strerror}") from error


def load_file(path: Path) -> ModuleType:
    """The module of a feature file; it is in `sys.modules` before it runs, so that its classes can be found.

    Python's own importing would leave compiled files beside it, and trust those that it finds.
    """
    path = path.resolve()
    source = _source(path)
    name = f"trafficrefinery_feature_{path.stem}_{hashlib.sha256(source + bytes(path)).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(source, path, "exec"), vars(module))
    except Exception as error:  # whatever the user's file raises
        del sys.modules[name]
        line = line_in(error, path)
        raise FeatureError(f"{path}:{line}", f"{type(error).__name__}: {error}") from error
    return module


def line_in(error: BaseException, path: Path) -> int:
    """The line of a file in which an error arose; 1 where none is known."""
    trace, line = error.__traceback__, 1
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def check_declarations(cls: type[Struct], where: str) -> None:
    """Raise FeatureError when state or outputs cannot be laid out, or a parameter has a value that it cannot have."""
    for name, declared in declared_parameters(cls).items():
        try:
            declared.checked(declared.default)
        except ValueError as error:
            raise FeatureError(where, f"{cls.__name__}.{name} {error}") from None
    try:
        state_dtype(cls)
        if issubclass(cls, FeatureClass):
            output_dtype(cls)
    except (TypeError, NameError) as error:
        raise FeatureError(where, str(error)) from error


def specialise(cls: type[C], params: Mapping[str, Any], file: str = "<config>", key: str = "") -> type[C]:
    """The class with some parameters set; the class itself when there are none to set.

    Raises:
        ConfigError: no such parameter, a value that it cannot have, or a state that is too large with it.
    """
    known = declared_parameters(cls)
    changed: dict[str, Any] = {}
    key = f"{key}.{cls.__name__}" if key else cls.__name__
    for name, value in params.items():
        if name not in known:
            hint = did_you_mean(name, known) or (f"; there are {', '.join(known)}" if known else "; it has none")
            raise ConfigError(file, key, f'no parameter "{name}"{hint}')
        try:
            checked = known[name].checked(value)
        except ValueError as error:
            raise ConfigError(file, f"{key}.{name}", str(error)) from None
        if checked != known[name].default:
            changed[name] = checked
    if not changed:
        return cls
    made = type(cls.__name__, (cls,), {**changed, "__module__": cls.__module__, "__doc__": cls.__doc__})
    try:
        check_declarations(made, file)
    except FeatureError as error:
        raise ConfigError(file, key, error.message) from error
    return made
