"""Feature classes fused to one step: the functions that the packet loop calls for each profile.

The step is written to the cache directory as a readable module before it is compiled. Its name carries a hash of all
that it depends on: its text, the package's compiled sources, Numba. The loop itself (`kernel`) calls the step's
functions by address, so that it is compiled once for all configurations, and a new feature class costs seconds.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.api import FeatureClass, Struct, state_dtype
from trafficrefinery.errors import FeatureError
from trafficrefinery.jit import COMPILED, CompilerError, address_of, keep, kept
from trafficrefinery.packets.parser import ROW_HEADER

from .compile_errors import refusal, with_origins
from .fields import output_dtype, output_fields
from .key import fingerprint
from .transform import ClassFunctions, reads_raw, reads_records

CACHE_LINE_BYTES = 64
SEEN = "packets_seen"
"""In the state, where classes see only the first packets of an interval: how many they have seen."""


class Profile(NamedTuple):
    """What some services collect: each distinct list of classes, interval and number of packets is one profile.

    Args:
        first_packets: of each flow and interval, that the classes see; None: all.
    """

    classes: tuple[type[FeatureClass], ...]
    interval_ns: int
    first_packets: int | None = None

    def state_dtype(self) -> np.dtype:
        """The state of one flow: the classes' states side by side, in whole cache lines.

        The largest begins at a line; the others come from small to large, so that what each of them needs most, which
        comes first in it, shares lines.
        """
        sizes = {
            cls: state_dtype(cls).itemsize for cls in sorted(self.classes, key=lambda cls: state_dtype(cls).itemsize)
        }
        *small, largest = sizes
        offsets, end = [], 0
        for cls in (largest, *small):
            offsets.append(end)
            end += -(-sizes[cls] // 8) * 8
        names = [cls.__name__ for cls in (largest, *small)]
        formats: list[Any] = [state_dtype(cls) for cls in (largest, *small)]
        if self.first_packets is not None:
            names, formats, offsets, end = [*names, SEEN], [*formats, "u4"], [*offsets, end], end + 8
        whole = -(-end // CACHE_LINE_BYTES) * CACHE_LINE_BYTES
        return np.dtype(
            {
                "names": names,
                "formats": formats,
                "offsets": offsets,
                "itemsize": whole if end > CACHE_LINE_BYTES else 1 << (end - 1).bit_length(),
            },
            align=True,
        )

    def row_dtype(self) -> np.dtype:
        """One row of output."""
        return np.dtype(
            [("flow", ROW_HEADER), *((cls.__name__, output_dtype(cls)) for cls in self.classes)], align=True
        )


class ProfileStep(NamedTuple):
    """Addresses of a profile's functions, see `jit.callback`: of int64, but for seconds, which are float64.

    Args:
        start: (state, errors).
        add_packet: (state, PACKET record, buffer, bytes of the buffer, errors).
        collect: (state, row, interval in seconds, errors): fill the row's outputs, clear the state.
        end_flow: (state, an index of `connection.ENDS`, errors).
        errors: address to hand to them: of each class, how many of its calls raised. Such a call ended there, most
            often at an index outside its array; no other class is concerned, and the outputs of a row are then those
            of nothing. It belongs to who called `fuse`.
    """

    start: int
    add_packet: int
    collect: int
    end_flow: int
    errors: int


class Step(NamedTuple):
    """A fused step and the file of its source."""

    profiles: tuple[ProfileStep, ...]
    source: Path
    reads_raw: bool
    errors: tuple[NDArray[np.int64], ...]  # of each profile, what lies at the address of that name


def fuse(profiles: Sequence[Profile], *, blanked: bool = False) -> Step:
    """Generate (or find) the step of some profiles, compile it (or load it from the cache).

    Args:
        blanked: classes see raw bytes without addresses, see `blanking`.

    Raises:
        FeatureError: a class uses what cannot be compiled; FILE:LINE, reason, hint.
    """
    path = _source(profiles, blanked=blanked)
    try:
        module = _load(path, profiles)
    except CompilerError as error:
        raise refusal(error, path) from error
    errors = tuple(np.zeros(len(profile.classes), np.int64) for profile in profiles)
    _errors.extend(errors)
    steps = (
        ProfileStep(**{name: getattr(module, f"{name}{number}") for name in _FUNCTIONS}, errors=address_of(counts))
        for number, counts in enumerate(errors)
    )
    raw = any(reads_raw(cls.add_packet) for profile in profiles for cls in profile.classes)
    return Step(tuple(steps), path, raw, errors)


_FUNCTIONS = ("start", "add_packet", "collect", "end_flow")
_errors: list[NDArray[np.int64]] = []  # addresses of them may be anywhere


def _source(profiles: Sequence[Profile], *, blanked: bool) -> Path:
    """The module of a step. Of classes that are as they were, its text need not be made to know its name."""
    limits = [profile.first_packets for profile in profiles]
    key = fingerprint([profile.classes for profile in profiles], {"blanked": blanked, "first_packets": limits})
    known = f"steps/name_{key}"
    told = kept(known) if COMPILED else None
    found = None if told is None else kept(f"steps/{told[1].decode()}")
    if found is not None:
        return found[0]
    made = compiled_source(profiles, blanked=blanked) if COMPILED else _plain_source(profiles, blanked=blanked)
    path = keep(f"steps/step_{hashlib.sha256(made.encode()).hexdigest()[:16]}.py", made.encode())
    if COMPILED:
        keep(known, path.name.encode())
    return path


def _load(path: Path, profiles: Sequence[Profile]) -> ModuleType:
    name = path.stem
    if name in sys.modules and COMPILED:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    vars(module)["PROFILES"] = tuple(profiles)
    sys.modules[name] = module  # before it runs, so that its functions can be found by its name
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


_INLINED_CALLS = range(1, 9)
_HEAD = '''"""Generated: the feature classes of one configuration. Edits are lost."""

import math

import numpy as np
from numpy import dtype, float64, int64

from trafficrefinery.jit import attempt, callback, checked, checked_inlined, table_at
from trafficrefinery.engine.feature_classes.runtime import isfinite, isnan, put_list, seq_diff, seq_lt, sqrt
from trafficrefinery.packets.tls_records import note_record
from trafficrefinery.packets.parser import PACKET
{raw_byte}

BYTE = dtype("u1")
'''
_RAW_BYTE = {
    False: "from trafficrefinery.engine.feature_classes.runtime import raw_byte",
    True: "from trafficrefinery.packets.blanking import blanked_byte as raw_byte",
}


def compiled_source(profiles: Sequence[Profile], *, blanked: bool = False) -> str:
    """The text of the step module; see `fuse`.

    Raises:
        FeatureError: a class uses what cannot be translated.
    """
    program = ClassFunctions()
    names = [[_class_functions(program, cls) for cls in profile.classes] for profile in profiles]
    head = _HEAD.format(raw_byte=_RAW_BYTE[blanked])
    # A call costs more than its jump: what is called in a few places becomes part of them.
    calls = Counter(
        node.func.id
        for definition, _ in program.functions
        for node in ast.walk(definition)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    parts = [
        head,
        *(
            with_origins(
                definition, where, "checked_inlined" if calls[definition.name] in _INLINED_CALLS else "checked"
            )
            for definition, where in program.functions
        ),
    ]
    for number, profile in enumerate(profiles):
        functions = dict(zip(profile.classes, names[number], strict=True))
        parts += [
            f"STATE{number} = {profile.state_dtype()!r}\nROW{number} = {profile.row_dtype()!r}",
            _function(f"start{number}(state: int64, errors: int64)", _start(number, profile, functions)),
            _function(
                f"add_packet{number}(state: int64, packet: int64, buffer: int64, buffer_bytes: int64, errors: int64)",
                _add(number, profile, functions),
            ),
            _function(
                f"collect{number}(state: int64, row: int64, interval_s: float64, errors: int64)",
                _collect(number, profile, functions),
            ),
            _function(f"end_flow{number}(state: int64, how: int64, errors: int64)", _end(number, functions)),
        ]
    return "\n\n\n".join(parts) + "\n"


def _function(head: str, body: list[str]) -> str:
    types = [argument.split(": ")[1].rstrip(")") for argument in head.split(", ")]
    plain = head.replace(": int64", "").replace(": float64", "")
    return "\n    ".join([f'@callback("void({", ".join(types)})")\ndef {plain}:', *body])


def _class_functions(program: ClassFunctions, cls: type[FeatureClass]) -> dict[str, str]:
    where = cls.__name__
    for method in ("add_packet", "collect_features"):
        if getattr(cls, method) is getattr(FeatureClass, method):
            raise FeatureError(where, f"the class has no {method}; see `trafficrefinery features new`")
    wanted = ["add_packet", "collect_features", "clear"]
    if cls.end_flow is not FeatureClass.end_flow:
        wanted.append("end_flow")
    made = {name: program.method(cls, name, where) for name in wanted}
    return {**made, "zero": program.zeroing(cls)}


Functions = dict[type[FeatureClass], dict[str, str]]


def _none_seen(profile: Profile) -> list[str]:
    return [] if profile.first_packets is None else [f"s.{SEEN} = 0"]


def _start(number: int, profile: Profile, functions: Functions) -> list[str]:
    lines = [f"s = table_at(state, 1, STATE{number})[0]", *_none_seen(profile)]
    for i, (cls, names) in enumerate(functions.items()):
        lines.append(f"{names['zero']}(s.{cls.__name__})")
        if cls.clear is not Struct.clear:
            lines += _cleared(i, cls, names)
    return lines


def _attempted(i: int, function: str, *arguments: str) -> str:
    """A call of the profile's class number `i`."""
    return f"attempt({function}, ({', '.join(arguments)},), errors + {8 * i})"


def _cleared(i: int, cls: type[FeatureClass], names: dict[str, str]) -> list[str]:
    state = f"s.{cls.__name__}"
    if names["clear"] == names["zero"]:
        return [f"{names['zero']}({state})"]
    return [f"if {_attempted(i, names['clear'], state)}:", f"    {names['zero']}({state})"]


def _add(number: int, profile: Profile, functions: Functions) -> list[str]:
    lines = [f"s = table_at(state, 1, STATE{number})[0]"]
    if profile.first_packets is not None:
        lines += [f"if s.{SEEN} >= {profile.first_packets}:", "    return", f"s.{SEEN} += 1"]
    lines += [
        "r = table_at(packet, 1, PACKET)[0]",
        "raw = table_at(buffer, buffer_bytes, BYTE)",
    ]
    if any(reads_records(cls.add_packet) for cls in functions):
        lines.append("note_record(r, raw)")
    for i, (cls, names) in enumerate(functions.items()):
        raw = ("raw",) if reads_raw(cls.add_packet) else ()
        lines.append(_attempted(i, names["add_packet"], f"s.{cls.__name__}", "r", *raw))
    return lines


def _collect(number: int, profile: Profile, functions: Functions) -> list[str]:
    lines = [f"s = table_at(state, 1, STATE{number})[0]", f"o = table_at(row, 1, ROW{number})[0]"]
    lines += _none_seen(profile)
    for i, (cls, names) in enumerate(functions.items()):
        outputs = f"o.{cls.__name__}"
        call = _attempted(i, names["collect_features"], f"s.{cls.__name__}", outputs, "interval_s")
        nothing = [f"    {outputs}.{field.name}{_NOTHING.get(field.kind, '.n = 0')}" for field in output_fields(cls)]
        lines += [f"if {call}:", *(nothing or ["    pass"]), *_cleared(i, cls, names)]
    return lines


def _end(number: int, functions: Functions) -> list[str]:
    lines = [f"s = table_at(state, 1, STATE{number})[0]"]
    for i, (cls, names) in enumerate(functions.items()):
        if "end_flow" in names:
            lines.append(_attempted(i, names["end_flow"], f"s.{cls.__name__}", "how"))
    return lines if len(lines) > 1 else ["pass"]


_NOTHING = {"float": " = np.nan", "int": " = 0", "bool": " = 0"}
"""What an output of a call that raised is; a list is empty."""


def _plain_source(profiles: Sequence[Profile], *, blanked: bool) -> str:
    """The module for plain Python: the classes themselves, on records; breakpoints in them work."""
    lines = [
        '"""Generated: PROFILES, which the loader sets, for plain Python."""\n',
        "from trafficrefinery.engine.feature_classes.runtime import plain_step\n",
    ]
    lines += [
        f"start{number}, add_packet{number}, collect{number}, end_flow{number} = "
        f"plain_step(PROFILES[{number}], {blanked})"
        for number in range(len(profiles))
    ]
    return "\n".join(lines) + "\n"
