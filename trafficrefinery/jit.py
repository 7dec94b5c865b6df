"""The only place that imports Numba: compile flags, the cache directory, and the prefetch instruction.

`TRAFFICREFINERY_JIT` selects how the package runs, once per process:

- `on` (default): compiled, array accesses unchecked;
- `boundscheck`: compiled, a wrong index raises IndexError;
- `off`: plain Python, for debuggers and coverage.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

MODE = os.environ.get("TRAFFICREFINERY_JIT", "on")
if MODE not in ("on", "boundscheck", "off"):
    raise SystemExit(f'error: TRAFFICREFINERY_JIT: "{MODE}" is not one of on, boundscheck, off')
COMPILED = MODE != "off"


def _source_digest() -> str:
    """Names the cache directory: Numba's cache does not see edits in *other* files than the caller's.

    Only sources that take part in compiled code count: those that name this module, and `api`.
    """
    digest = hashlib.sha256(MODE.encode())
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        source = path.read_bytes()
        if b"trafficrefinery.jit import" in source or path.name in ("jit.py", "api.py"):
            digest.update(str(path.relative_to(root)).encode() + source)
    return digest.hexdigest()[:16]


def cache_root() -> Path:
    """Where compiled code and generated step modules are kept."""
    configured = os.environ.get("TRAFFICREFINERY_CACHE_DIR")
    if configured:
        return Path(configured)
    base = os.environ.get("CACHE_DIRECTORY") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "trafficrefinery"


_pending: list[BaseException] = []


def raise_pending() -> None:
    """Raise what a callback raised bounds-checked; Numba reports that to `sys.unraisablehook` only."""
    if _pending:
        error = _pending[0]
        _pending.clear()
        raise error


if MODE == "boundscheck":

    def _keep(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, IndexError):
            _pending.append(unraisable.exc_value)
        else:
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = _keep


class Compiling:
    """What compiling took in this process; what comes from the cache takes nothing.

    Attributes:
        seconds: in all.
        begins: called when the compiler starts on something.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.begins: Callable[[], object] = lambda: None
        self._depth = 0  # the passes of the compiler nest
        self._since = 0.0

    def notify(self, event: Any) -> None:
        """Numba's: a pass starts or ends."""
        if event.is_start:
            if self._depth == 0:
                self._since = time.perf_counter()
                self.begins()
            self._depth += 1
        else:
            self._depth -= 1
            if self._depth == 0:
                self.seconds += time.perf_counter() - self._since


compiling = Compiling()


def records(array: np.ndarray) -> np.ndarray:
    """A structured array whose elements have attribute access in the current mode."""
    return array if COMPILED else array.view(np.recarray)


if COMPILED or TYPE_CHECKING:
    import numba
    import numba.core.event
    import numba.np.arrayobj
    from llvmlite import ir
    from numba.core import cgutils
    from numba.extending import intrinsic

    VERSION = f"numba {numba.__version__}"
    CompilerError: type[Exception] = numba.core.errors.NumbaError
    CACHE_DIR = cache_root() / f"{_source_digest()}-{numba.__version__}"
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    _config: Any = numba.config  # sets its attributes when it is imported
    _config.CACHE_DIR = str(CACHE_DIR)
    numba.core.event.Listener.register(Compiling)
    numba.core.event.register("numba:run_pass", compiling)
    # No fastmath: compiled and interpreted must agree. Numpy's error model: x / 0 is inf, never an exception.
    _FLAGS: dict[str, Any] = {
        "cache": True,
        "nogil": True,
        "error_model": "numpy",
        "boundscheck": MODE == "boundscheck",
    }
    _njit: Any = numba.njit  # its types leave out options that it has

    def _instruction(function: Callable[..., Any]) -> Callable[..., Any]:
        """`numba.extending.intrinsic`, without the types that it says and its callers do not see."""
        made: Callable[..., Any] = intrinsic(function)
        return made

    def kernel(function: F) -> F:
        """Compile an entry point that Python calls; releases the GIL."""
        compiled: F = _njit(**_FLAGS)(function)
        return compiled

    def helper(function: F) -> F:
        """Compile a function that only compiled code calls; without the wrappers for Python it compiles faster."""
        compiled: F = _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_FLAGS)(function)
        return compiled

    def inlined(function: F) -> F:
        """A helper that becomes part of its caller: for what runs once a packet.

        A call costs more than its jump: Numba counts references of array arguments in each function, and only
        drops that where it sees that the array is borrowed.
        """
        options: dict[str, Any] = {**_FLAGS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": True}
        compiled: F = _njit(**options)(function)
        return compiled

    @_instruction
    def table_at(typing_context: Any, address: Any, count: Any, dtype: Any) -> Any:
        """The array of `count` elements at an address that `address_of` gave. The owner keeps it alive."""
        array_type = numba.types.Array(dtype.dtype, 1, "C")
        signature = array_type(numba.types.int64, numba.types.int64, dtype)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = context.make_array(signature.return_type)(context, builder)
            size = context.get_abi_sizeof(context.get_data_type(signature.return_type.dtype))
            item_size = context.get_constant(numba.types.intp, size)
            populate: Any = numba.np.arrayobj.populate_array
            pack: Any = cgutils.pack_array
            populate(
                array,
                data=builder.inttoptr(arguments[0], array.data.type),
                shape=pack(builder, [arguments[1]]),
                strides=pack(builder, [item_size]),
                itemsize=item_size,
                meminfo=None,
            )
            return array._getvalue()  # noqa: SLF001 (Numba has no public name for it)

        return signature, generate

    @_instruction
    def data_address(typing_context: Any, array: Any) -> Any:
        """Where the elements of an array lie."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            made = context.make_array(signature.args[0])(context, builder, arguments[0])
            return builder.ptrtoint(made.data, ir.IntType(64))

        return numba.types.int64(array), generate

    @_instruction
    def prefetch_at(typing_context: Any, address: Any) -> Any:
        """Ask for the cache line at an address."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            byte_pointer, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
            function = builder.module.declare_intrinsic(
                "llvm.prefetch", [byte_pointer], ir.FunctionType(ir.VoidType(), [byte_pointer, i32, i32, i32])
            )
            pointer = builder.inttoptr(arguments[0], byte_pointer)
            # rw=1 (the line will be written), locality=3 (keep in all levels), cache type=1 (data).
            builder.call(function, [pointer, i32(1), i32(3), i32(1)])
            return context.get_dummy_value()

        return numba.types.void(numba.types.int64), generate

    @_instruction
    def call_at(typing_context: Any, address: Any, arguments: Any) -> Any:
        """Call the `callback` at an address with a tuple of int64 and float64."""

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            members = [builder.extract_value(values[1], i) for i in range(len(signature.args[1]))]
            kind = ir.FunctionType(ir.VoidType(), [member.type for member in members])
            builder.call(builder.inttoptr(values[0], kind.as_pointer()), members)
            return context.get_dummy_value()

        return numba.types.void(numba.types.int64, arguments), generate

    def callback(signature: str) -> Callable[[F], int]:
        """Compile a function to be called by address: it is not compiled again with each of its callers."""
        options: dict[str, Any] = {key: value for key, value in _FLAGS.items() if key != "nogil"}

        def compile_it(function: F) -> int:
            compiled = numba.cfunc(signature, **options)(function)
            _callbacks.append(compiled)
            return int(compiled.address or 0)

        return compile_it

    _callbacks: list[Any] = []  # they live as long as the process

    def call_from_python(address: int, *arguments: int) -> None:
        """Call the `callback` at an address with integers."""
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arguments))(address)(*arguments)

    @_instruction
    def borrowed(typing_context: Any, array: Any) -> Any:
        """The same array without a reference count; for the time of one call, whose caller holds the array."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            held = context.make_array(signature.args[0])(context, builder, arguments[0])
            lent = context.make_array(signature.args[0])(context, builder)
            populate: Any = numba.np.arrayobj.populate_array
            populate(lent, data=held.data, shape=held.shape, strides=held.strides, itemsize=held.itemsize, meminfo=None)
            return lent._getvalue()  # noqa: SLF001

        return array(array), generate

    @inlined
    def prefetch(array: Any, index: Any) -> None:
        """Ask for the cache line of `array[index]`; any index is harmless."""
        prefetch_at(data_address(array) + index * array.itemsize)

    def address_of(array: np.ndarray) -> int:
        """Where an array lies, to be kept in a record: compiled functions take one record, not many arrays.

        Numba passes an array as seven values and counts its references at every call, atomically.
        """
        return int(array.ctypes.data)

else:
    VERSION = "interpreted"

    class CompilerError(Exception):
        """Never raised here: nothing is compiled."""

    CACHE_DIR = cache_root() / f"{_source_digest()}-off"

    def kernel(function: F) -> F:
        return function

    def helper(function: F) -> F:
        return function

    def inlined(function: F) -> F:
        return function

    def prefetch(array: Any, index: Any) -> None:
        return None

    def prefetch_at(address: Any) -> None:
        return None

    def table_at(address: int, count: int, dtype: Any) -> Any:
        memory = (ctypes.c_uint8 * (int(count) * dtype.itemsize)).from_address(int(address)) if count else b""
        return records(np.frombuffer(memory, dtype))

    def borrowed(array: Any) -> Any:
        return array

    def data_address(array: np.ndarray) -> int:
        return int(array.ctypes.data)

    address_of = data_address
    _callbacks: list[Any] = [None]

    def callback(signature: str) -> Callable[[F], int]:
        def number_it(function: F) -> int:
            _callbacks.append(function)
            return len(_callbacks) - 1

        return number_it

    def call_at(address: int, arguments: tuple[Any, ...]) -> None:
        _callbacks[int(address)](*arguments)

    def call_from_python(address: int, *arguments: int) -> None:
        call_at(address, arguments)

    # Wrap-around of hashes and division by zero are meant; compiled code says nothing about them either.
    np.seterr(all="ignore")
