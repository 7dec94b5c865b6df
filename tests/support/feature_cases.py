"""Feature classes for tests: all that are built in, the scaffold, and small ones written down as text."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from trafficrefinery.api import parameters
from trafficrefinery.cli.ui.scaffold import file_name, scaffold
from trafficrefinery.engine.feature_classes.registry import Registry, load_file, specialise

BUILTIN = Registry().names()

_HEAD = """\
from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import (
    DOWN, UP, Array, FeatureClass, Histogram, Moments, MomentsOutput, Packet, Struct, array, inf, int32, isnan, named,
    nan, seq_diff, sqrt, uint8, uint16, uint32, uint64, up_to, when,
)


class CaseOutput(NamedTuple):
    n: int  # packets
    x: float  # 1


"""
_TAIL = """
    def collect_features(self, interval_s: float) -> CaseOutput:
        return CaseOutput(n=self.n, x=self.n / interval_s)
"""


@cache
def builtin(name: str) -> Any:
    return Registry().get(name)


def with_options(cls: Any) -> Any:
    """The class with every parameter that is False set to true."""
    return specialise(cls, {name: True for name, value in parameters(cls).items() if value is False})


def write_scaffold(folder: Path, name: str = "BurstSizes") -> Path:
    path = folder / file_name(name)
    path.write_text(scaffold(name))
    return path


def write_case(folder: Path, body: str, before: str = "", doc: str = "", collect: str = _TAIL) -> Path:
    """A file with the class `Case`, whose state begins with `n: uint64`; `body` is indented by four."""
    path = folder / "case.py"
    documentation = f'    """Counts.\n\n{doc}    """\n\n' if doc else ""
    path.write_text(f"{_HEAD}{before}class Case(FeatureClass):\n{documentation}    n: uint64\n{body}{collect}")
    return path


def load_case(path: Path, name: str = "Case") -> Any:
    return getattr(load_file(path), name)


def line_of(path: Path, marker: str = "# HERE") -> int:
    """The number of the line that bears a marker."""
    (found,) = [number for number, line in enumerate(path.read_text().splitlines(), 1) if marker in line]
    return found
