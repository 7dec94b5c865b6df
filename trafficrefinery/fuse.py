"""Feature classes and the packet loop, fused into one module that Numba compiles.

The module is written to the cache directory as readable source before it is compiled. Its name carries a hash of all
that it depends on (package and feature sources, parameters, profiles, Numba), because Numba's own cache does not see
edits in other files.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from trafficrefinery import kernel as kernel_module
from trafficrefinery.api import FeatureClass, Packet, Struct, state_dtype
from trafficrefinery.errors import FeatureError
from trafficrefinery.flowcache import SLOTS
from trafficrefinery.jit import CACHE_DIR, COMPILED, CompilerError
from trafficrefinery.origins import refusal, with_origins
from trafficrefinery.outputs import output_dtype
from trafficrefinery.transform import Program, reads_raw

_MARK = "# --- step modules hold what follows"
_LINE = 64  # bytes of a cache line
_LINES_AHEAD = 3  # cache lines to prefetch of each class's state


class Profile(NamedTuple):
    """What some services collect: each distinct list of classes and interval is one profile."""

    classes: tuple[type[FeatureClass], ...]
    interval_ns: int

    def state_dtype(self) -> np.dtype:
        """The state of one flow: the classes' states side by side."""
        return np.dtype([(cls.__name__, state_dtype(cls)) for cls in self.classes], align=True)

    def row_dtype(self) -> np.dtype:
        """One row of output."""
        return np.dtype(
            [("flow", kernel_module.ROW_HEADER), *((cls.__name__, output_dtype(cls)) for cls in self.classes)],
            align=True,
        )


class Step(NamedTuple):
    """A fused step: the compiled entry points and the generated source."""

    process: Callable[..., int]
    sweep: Callable[..., int]
    source: Path
    reads_raw: bool


def fuse(profiles: Sequence[Profile]) -> Step:
    """Generate (or find) the step module of some profiles and load it; compiling happens at the first call.

    Raises:
        FeatureError: a class uses what cannot be compiled.
    """
    module, path, reads_raw = load_step(profiles, kernel_module)
    return Step(
        _refusing(module.process, path), _refusing(module.sweep, path), path, reads_raw
    )


def load_step(profiles: Sequence[Profile], loop_module: ModuleType) -> tuple[ModuleType, Path, bool]:
    """The step module of some profiles around a loop, which stands below a mark in its own module.

    Returns:
        The module, its file, and whether a class reads raw bytes of packets.
    """
    source = _compiled_source if COMPILED else _plain_source
    text, reads_raw = source(profiles, loop_module)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    directory = CACHE_DIR / "steps"
    path = directory / f"step_{digest}.py"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(text)
        draft.replace(path)
    module = _load(path, {"PROFILES": tuple(profiles)} if not COMPILED else {})
    return module, path, reads_raw


def _refusing(entry: Callable[..., int], path: Path) -> Callable[..., int]:
    """An entry point whose compiler's errors are FeatureErrors: they come at the first call."""
    if not COMPILED:
        return entry

    def call(*arguments: Any) -> int:  # as the entry point
        try:
            return entry(*arguments)
        except CompilerError as error:
            raise refusal(error, path) from error

    return call


def _load(path: Path, extra: dict[str, Any]) -> ModuleType:
    name = path.stem
    if name in sys.modules and COMPILED:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: Numba's cache looks the module up by name
    vars(module).update(extra)
    spec.loader.exec_module(module)
    return module


def _compiled_source(profiles: Sequence[Profile], loop_module: ModuleType) -> tuple[str, bool]:
    program = Program()
    names = [[_class_functions(program, cls) for cls in profile.classes] for profile in profiles]
    functions = [with_origins(definition, where) for definition, where in program.functions]
    reads_raw = "raw_byte" in program.used_api
    kernel_source = inspect.getsource(loop_module)
    imports, _, loop = kernel_source.partition(_MARK)
    imports = imports[imports.index("from typing import") :]
    imports = "\n".join(line for line in imports.splitlines() if "trafficrefinery.nostep" not in line)
    text = [
        '"""Generated: the packet loop with the feature classes of one configuration. Edits are lost."""',
        "",
        _without_definitions(imports),
        "import math",
        "from numpy import dtype, float64, int64",
        "from trafficrefinery import api",
        "from trafficrefinery.kernel import *",
        "from trafficrefinery.kernel import _BOOL, _I4, _I8, _U1, _U8",
        "from trafficrefinery.runtime import isfinite, isnan, put_list, raw_byte, seq_diff, seq_lt, sqrt",
        "",
        _tables(profiles),
        "\n\n\n".join([*functions, *_dispatch(profiles, names)]),
        "",
        _MARK + loop.partition("\n")[0],
        loop.partition("\n")[2],
    ]
    return "\n".join(text), reads_raw


def _without_definitions(imports: str) -> str:
    """Only the import statements of the kernel's head; its constants and dtypes are imported from it."""
    tree = ast.parse(imports)
    return "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))


def _class_functions(program: Program, cls: type[FeatureClass]) -> dict[str, str]:
    where = cls.__name__
    for method in ("add_packet", "collect_features"):
        if getattr(cls, method) is getattr(FeatureClass, method):
            raise FeatureError(where, f"the class has no {method}; see `trafficrefinery features new`")
    made = {name: program.method(cls, name, where) for name in ("add_packet", "collect_features", "clear")}
    # A new state is all zeros before its `clear`, as in plain Python.
    key = f"{program.struct_name(cls)}_zero"
    zeroing = program._zeroing(cls, key)
    program.functions.append((zeroing, f"{cls.__name__}: zeros"))
    return {**made, "zero": key}


def _tables(profiles: Sequence[Profile]) -> str:
    """Dtypes of states and rows, and accessors of their tables."""
    lines = []
    for number, profile in enumerate(profiles):
        for name, dtype in (("state", profile.state_dtype()), ("rows", profile.row_dtype())):
            table = f"{name}{number}"
            lines += [
                f"{table.upper()} = {dtype!r}",
                f"@helper\ndef {table}_of(p):\n    return table_at(p.{table}, p.{table}_count, {table.upper()})",
                "",
            ]
    return "\n".join(lines)


def partition_members(profiles: int) -> list[tuple[str, Any]]:
    """What a partition record holds for a step: its tables and slots."""
    members: list[tuple[str, Any]] = []
    for number in range(profiles):
        for table in (f"state{number}", f"rows{number}"):
            members += [(table, "i8"), (f"{table}_count", "i8")]
        members.append((f"slots{number}", SLOTS))
    return members


def _dispatch(profiles: Sequence[Profile], names: list[list[dict[str, str]]]) -> list[str]:
    """The functions of `nostep` for these profiles."""

    def per_profile(head: str, body: Callable[[int, Profile], list[str]], default: str = "") -> str:
        lines = [f"@helper\ndef {head}:"]
        for number, profile in enumerate(profiles):
            lines.append(f"    if profile == {number}:")
            lines += [f"        {line}" for line in body(number, profile)]
        if default:
            lines.append(f"    {default}")
        return "\n".join(lines)

    def add(number: int, profile: Profile) -> list[str]:
        calls = [
            f"{functions['add_packet']}(s.{cls.__name__}, r{', buffer' if reads_raw(cls.add_packet) else ''})"
            for cls, functions in zip(profile.classes, names[number], strict=True)
        ]
        return [f"s = state{number}_of(p)[slot]", *calls]

    def start(number: int, profile: Profile) -> list[str]:
        calls = []
        for cls, functions in zip(profile.classes, names[number], strict=True):
            calls.append(f"{functions['zero']}(s.{cls.__name__})")
            if cls.clear is not Struct.clear:
                calls.append(f"{functions['clear']}(s.{cls.__name__})")
        return [f"s = state{number}_of(p)[slot]", *calls]

    def ahead(number: int, profile: Profile) -> list[str]:
        dtype = profile.state_dtype()
        offsets: set[int] = set()
        for cls in profile.classes:
            first = dtype.fields[cls.__name__][1]  # type: ignore[index]
            size = min(state_dtype(cls).itemsize, _LINES_AHEAD * _LINE)
            offsets.update(range(first // _LINE, (first + size - 1) // _LINE + 1))
        return [f"prefetch_bytes(state{number}_of(p), slot, {line * _LINE})" for line in sorted(offsets)]

    def collect(number: int, profile: Profile) -> list[str]:
        lines = [f"s = state{number}_of(p)[slot]", f"o = rows{number}_of(p)[row]", "fill_row(o.flow, header)"]
        for cls, functions in zip(profile.classes, names[number], strict=True):
            lines.append(f"{functions['collect_features']}(s.{cls.__name__}, o.{cls.__name__}, interval_s)")
            lines.append(f"{functions['clear']}(s.{cls.__name__})")
        return lines

    return [
        per_profile("add_packet(p, profile, slot, r, buffer)", add),
        per_profile("start_state(p, profile, slot)", start),
        per_profile("prefetch_state(p, profile, slot)", ahead, "return"),
        per_profile("collect_row(p, profile, slot, row, header, interval_s)", collect),
        per_profile("take_state(p, profile)", lambda n, _: [f"return take(p.slots{n})"], "return -1"),
        per_profile(
            "give_state(p, profile, slot)", lambda n, _: [f"give(p.slots{n}, np.int64(slot))"], "return"
        ),
    ]


def _plain_source(profiles: Sequence[Profile], loop_module: ModuleType) -> tuple[str, bool]:
    """The module for plain Python: the classes themselves, on records; breakpoints in them work."""
    kernel_source = inspect.getsource(loop_module)
    imports, _, loop = kernel_source.partition(_MARK)
    imports = imports[imports.index("from typing import") :]
    imports = "\n".join(line for line in imports.splitlines() if "trafficrefinery.nostep" not in line)
    text = [
        '"""Generated: the packet loop for plain Python. PROFILES is set by the loader."""',
        _without_definitions(imports),
        "from trafficrefinery.kernel import *",
        "from trafficrefinery.kernel import _BOOL, _I4, _I8, _U1, _U8",
        "from numpy import dtype",
        "from trafficrefinery.runtime import PlainStates",
        _tables(profiles),
        "_plain = PlainStates(PROFILES, globals())",
        "add_packet = _plain.add_packet",
        "start_state = _plain.start_state",
        "collect_row = lambda *a: _plain.collect_row(fill_row, *a)",
        "take_state = lambda p, profile: take(getattr(p, f'slots{profile}'))",
        "give_state = lambda p, profile, slot: give(getattr(p, f'slots{profile}'), np.int64(slot))",
        "def prefetch_state(p, profile, slot): pass",
        loop.partition("\n")[2],
    ]
    return "\n".join(text), any(_reads_raw(cls) for profile in profiles for cls in profile.classes)


def _reads_raw(cls: type[FeatureClass]) -> bool:
    return any(
        ".raw(" in inspect.getsource(value) for base in cls.__mro__ for value in vars(base).values()
        if inspect.isfunction(value) and base not in (FeatureClass, Struct, Packet)
    )  # fmt: skip
