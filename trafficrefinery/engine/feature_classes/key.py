"""What the text of a step depends on, known without making it: from the classes as they are in memory.

An edit of a class, of a helper function or of a constant that it uses changes the fingerprint, wherever it stands.
Comments do not, unless they move a line: the text says where each of its lines is from.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from trafficrefinery import api
from trafficrefinery.api import ArrayField, FeatureClass, Struct, parameters, state_fields
from trafficrefinery.jit import PACKAGE_DIGEST

from .fields import output_fields


def fingerprint(lists: Iterable[Iterable[type[FeatureClass]]], options: dict[str, object]) -> str:
    """Of the classes of some profiles, what they are fused with, this package, Python and NumPy; 16 hex digits."""
    walk = _Walk()
    walk.say(PACKAGE_DIGEST, sys.version, np.__version__, options)
    for classes in lists:
        walk.say("profile")
        for cls in classes:
            walk.add(cls)
    return walk.hexdigest()


def lasting_name(filename: str) -> str:
    """A notebook's cell is in no file, and its name has the number of the kernel's process: without that, the step is
    the same in the next session and comes from the cache."""
    return filename if Path(filename).exists() else f"<{Path(filename).name.strip('<>')}>"


class _Walk:
    """Everything that can be reached from some classes, each once, in an order that is always the same."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._seen: dict[int, int] = {}

    def hexdigest(self) -> str:
        return self._digest.hexdigest()[:16]

    def say(self, *words: object) -> None:
        self._digest.update(repr(words).encode())

    def add(self, value: Any) -> None:
        if isinstance(value, ArrayField):
            self.say("array", value.size)
            self.add(value.element)
        elif isinstance(value, bool | int | float | str | bytes | tuple | np.dtype | None):
            self.say(type(value).__name__, value)
        elif id(value) in self._seen:
            self.say("again", self._seen[id(value)])
        elif isinstance(value, FunctionType):
            self._seen[id(value)] = len(self._seen)
            self._add_function(value)
        elif isinstance(value, type) and issubclass(value, Struct):
            self._seen[id(value)] = len(self._seen)
            self._add_class(value)
        else:
            self.say(type(value).__name__)  # nothing that can be compiled

    def _add_class(self, cls: type[Struct]) -> None:
        self.say(cls.__module__, cls.__qualname__, parameters(cls))
        for name, kind in state_fields(cls).items():
            self.say(name)
            self.add(kind)
        if issubclass(cls, FeatureClass):
            self.say([(field.name, field.kind, field.size, field.column.path) for field in output_fields(cls)])
        for base in cls.__mro__:
            if base.__module__ != api.__name__:  # which is part of the package
                for name, function in vars(base).items():
                    if isinstance(function, FunctionType):
                        self.say(name)
                        self.add(function)

    def _add_function(self, function: FunctionType) -> None:
        self.say(function.__module__, function.__qualname__, function.__annotations__)
        names = self._add_code(function.__code__)
        for annotation in function.__annotations__.values():
            names += re.findall(r"\w+", str(annotation))
        known = function.__globals__
        if function.__closure__:
            cells = zip(function.__code__.co_freevars, function.__closure__, strict=True)
            known = {**known, **{name: cell.cell_contents for name, cell in cells}}
            names += function.__code__.co_freevars
        for name in names:
            if name in known:
                self.say(name)
                self.add(known[name])

    def _add_code(self, code: CodeType) -> list[str]:
        """Say what a function does; returns the names that it looks up."""
        self.say(lasting_name(code.co_filename), code.co_code, code.co_linetable, code.co_firstlineno)
        self.say(code.co_names, code.co_varnames, code.co_freevars)
        names = [*code.co_names]
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                names += self._add_code(constant)
            else:
                self.say(constant)
        return names
