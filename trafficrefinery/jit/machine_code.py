"""Machine code from the cache: loaded and called without the compiler, whose start alone takes longer than all else.

A compiled function is called as Numba does: a status is returned; before the arguments come two places, one for the
result and one for where an exception is described. An array is passed as seven numbers, or more when it has more
dimensions, the first two of which are 0: nothing that Numba counts references of.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import pickle
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .cache import keep, kept
from .lazy import Late

if TYPE_CHECKING:
    import llvmlite.binding as llvm
else:
    llvm = Late("llvmlite.binding")  # 40 MiB, which a process that runs no compiled code does without


class Code(NamedTuple):
    """A compiled function.

    Args:
        address: of the function.
        entry: of one that calls it, see `numba_compiler`: of three places, for the result, for where an exception is
            described, and of the arguments, 8 bytes each.
        returns: what it returns, as `struct` says it; nothing for None.
    """

    address: int
    entry: int
    returns: str


ENTRY = "entry"


@functools.cache
def _machine() -> Any:
    if not llvm.address_of_symbol(_NEVER_CALLED):
        llvm.add_symbol(_NEVER_CALLED, ctypes.cast(_PROCESS.abort, ctypes.c_void_p).value)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(jit=True)


@functools.cache
def _environment() -> str:
    """What machine code depends on beside its source: the processor, and what the compiler is told."""
    told = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    return f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()} {told}"


def place_of(function: Callable[..., Any], kinds: Any) -> str:
    """The name in the cache of a function's code for arguments of some kinds. An edit of the function's file changes
    it."""
    code = function.__code__
    source = Path(code.co_filename)
    key = hashlib.sha256(source.read_bytes() if source.exists() else code.co_code)
    key.update(f"{kinds!r} {_environment()}".encode())
    return f"objects/{function.__module__}.{function.__qualname__}-{key.hexdigest()[:16]}.o"


def store(name: str, machine_code: bytes, symbol: str, returns: str) -> None:
    """Keep an object file, with what is to be known of the function in it."""
    head = {"symbol": symbol, "returns": returns}
    keep(name, json.dumps(head).encode() + b"\n" + machine_code)


def stored(name: str) -> Code | None:
    """The function in a file that `store` wrote; None when there is none, or it is damaged."""
    found = kept(name)
    if found is None:
        return None
    first, _, machine_code = found[1].partition(b"\n")
    head = json.loads(first)
    return loaded(machine_code, head["symbol"], head["returns"])


def loaded(machine_code: bytes, symbol: str, returns: str) -> Code:
    """The function in an object file, from now on in this process."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(machine_code))
    engine.finalize_object()
    _engines.append(engine)
    return Code(engine.get_function_address(symbol), engine.get_function_address(ENTRY), returns)


_engines: list[Any] = []  # one for each object, whose names may be those of another; they live as long as the process

_PROCESS = ctypes.CDLL(None)
_NEVER_CALLED = "NRT_MemInfo_call_dtor"
"""Numba's, which ends what an array's memory is held by. Code that is only lent arrays names it all the same."""


def is_offered(symbol: str) -> bool:
    """Whether a process without Numba has a function of that name. LLVM ends a process that lacks one."""
    return symbol == _NEVER_CALLED or hasattr(_PROCESS, symbol)


class _Exception(ctypes.Structure):
    """Numba's description of an exception: pickled (type, arguments, place)."""

    _fields_ = (("data", ctypes.c_void_p), ("data_bytes", ctypes.c_int32))


_POINTER_BYTES = 8
_FORMATS: dict[type, str] = {
    int: "q", np.int64: "q", np.uint64: "Q", bool: "q", np.bool_: "q", float: "d", np.float64: "d",
}  # fmt: skip
_LAYOUT = 0x0501
"""NumPy's flags that code may depend on: contiguous, aligned, writeable."""


def address_of(array: np.ndarray) -> int:
    """Where an array lies, to be kept in a record: compiled functions take one record, not many arrays.

    Numba passes an array as seven values and counts its references at every call, atomically.
    """
    try:
        # As bytes, since NumPy would describe each field of a record to who asks for its memory: 15 us of a call.
        plain = array if array.dtype.names is None else array.view(np.uint8)
        return ctypes.addressof(ctypes.c_char.from_buffer(plain))  # type: ignore[arg-type]  # NumPy says so from 3.12 on
    except (TypeError, ValueError):  # read only, empty, or with gaps: slower
        return int(array.ctypes.data)


def flatten(argument: Any, kinds: list[Any], values: list[Any]) -> None:
    """Add an argument to the numbers that are passed, and to their kinds.

    Raises:
        TypeError: it is neither an array nor a number nor a tuple of them.
    """
    kind = type(argument)
    if kind is int:
        kinds.append(int)
        values.append(argument)
    elif kind is np.ndarray:
        kinds.append((argument.dtype, argument.ndim, argument.flags.num & _LAYOUT))
        values += (0, 0, argument.size, argument.itemsize, address_of(argument), *argument.shape, *argument.strides)
    elif isinstance(argument, tuple):
        kinds.append((kind.__qualname__, len(argument)))
        for member in argument:
            flatten(member, kinds, values)
    elif kind in _FORMATS:
        kinds.append(kind)
        values.append(argument.item() if isinstance(argument, np.generic) else argument)
    else:
        raise TypeError(f"a kernel takes arrays, numbers, and tuples of them; not {kind.__name__}")


def caller(code: Code, kinds: Sequence[Any]) -> Callable[[Sequence[Any]], Any]:
    """Call a function with the numbers of `flatten`; raises what the function raises. The GIL is released meanwhile."""
    form = "@"
    for kind in kinds:
        if isinstance(kind, type):
            form += _FORMATS[kind]
        elif isinstance(kind[0], np.dtype):
            form += f"{5 + 2 * kind[1]}q"
    pack, returns = struct.Struct(form).pack, struct.Struct(code.returns)
    result_bytes = -(-returns.size // _POINTER_BYTES) * _POINTER_BYTES or _POINTER_BYTES  # None is a null pointer
    places = ctypes.c_char * (result_bytes + _POINTER_BYTES)
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(code.entry)

    def call(values: Sequence[Any]) -> Any:
        result = places()
        if function(result, ctypes.byref(result, result_bytes), pack(*values)) != 0:
            raise _raised(result.raw[result_bytes:])
        found = returns.unpack_from(result)
        return found if len(found) > 1 else found[0] if found else None

    return call


def call(address: int, arguments: Sequence[int]) -> None:
    """Call the function at an address with integers; it returns nothing."""
    types = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * len(arguments)]
    places = (ctypes.c_char * (2 * _POINTER_BYTES))()
    if ctypes.CFUNCTYPE(ctypes.c_int32, *types)(address)(places, ctypes.byref(places, _POINTER_BYTES), *arguments) != 0:
        raise _raised(places.raw[_POINTER_BYTES:])


def _raised(place: bytes) -> Exception:
    """The exception that is described where a pointer says."""
    described = _Exception.from_address(int.from_bytes(place, sys.byteorder))
    kind, arguments, _ = pickle.loads(ctypes.string_at(described.data, described.data_bytes))
    made: Exception = kind(*arguments)
    return made
