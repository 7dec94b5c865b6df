"""The decorators and instructions of `jit` for compiled code.

What they make stands for a compiled function. Its machine code comes from the cache where that has it; else Numba is
imported, which learns from `_numba_type_` what each of these stands for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from . import machine_code

F = TypeVar("F", bound=Callable[..., Any])


def _code(
    function: Callable[..., Any], kinds: Any, types: Callable[[], Any], *, checked: bool = False
) -> machine_code.Code:
    """A function's machine code for arguments of some kinds, whose types the compiler would ask for."""
    place = machine_code.place_of(function, (kinds, "checked") if checked else kinds)
    code = machine_code.stored(place)
    if code is None:
        from . import numba_compiler

        code = numba_compiler.compiled(function, types(), place, checked=checked)
    return code


class _Kernel:
    """An entry point that Python calls; for each kind of arguments there is code of its own."""

    def __init__(self, function: Callable[..., Any], *, checked: bool = False) -> None:
        functools.update_wrapper(self, function)
        self._function, self._checked = function, checked
        self._callers: dict[Any, Callable[[list[Any]], Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        call, values = self._flattened(arguments)
        return call(values)

    def bound(self, *arguments: Any) -> Callable[[], Any]:
        """See `bound`."""
        call, values = self._flattened(arguments)
        return lambda _alive=arguments: call(values)  # type: ignore[misc]

    def prepare(self, *arguments: Any) -> None:
        """See `prepare`."""
        self._flattened(arguments)

    def _flattened(self, arguments: tuple[Any, ...]) -> tuple[Callable[[list[Any]], Any], list[Any]]:
        kinds: list[Any] = []
        values: list[Any] = []
        for argument in arguments:
            machine_code.flatten(argument, kinds, values)
        key = tuple(kinds)
        if key not in self._callers:
            self._callers[key] = machine_code.caller(
                _code(self._function, key, lambda: _types_of(arguments), checked=self._checked), key
            )
        return self._callers[key], values


def _types_of(arguments: tuple[Any, ...]) -> Any:
    from . import numba_compiler

    return numba_compiler.types_of(arguments)


class _Helper:
    """A function that only compiled code calls."""

    def __init__(self, function: Callable[..., Any], **options: bool) -> None:
        self._function, self._options = function, options

    @functools.cached_property
    def _dispatcher(self) -> Any:
        from . import numba_compiler

        return numba_compiler.dispatcher(self._function, **self._options)

    @property
    def _numba_type_(self) -> Any:
        return self._dispatcher._numba_type_


class _Instruction:
    """A function of `numba_compiler` that becomes instructions of its caller."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def _numba_type_(self) -> Any:
        from . import numba_compiler

        return numba_compiler.instruction_type(self._name)


def kernel(function: F) -> F:
    """Compile an entry point that Python calls; releases the GIL."""
    made: Any = _Kernel(function)
    compiled: F = made
    return compiled


def bound(function: Any, *arguments: Any) -> Callable[[], Any]:
    """A kernel with all its arguments, to be called often: where the arrays lie is found once, 2 us each."""
    run: Callable[[], Any] = function.bound(*arguments)
    return run


def prepare(function: Any, *arguments: Any) -> None:
    """Compile a kernel for such arguments, or load it from the cache, without calling it."""
    function.prepare(*arguments)


def checked_kernel(function: F) -> F:
    """A kernel that gets arrays which a user's class made: a wrong index raises IndexError in every mode."""
    made: Any = _Kernel(function, checked=True)
    compiled: F = made
    return compiled


def helper(function: F) -> F:
    """Compile a function that only compiled code calls."""
    made: Any = _Helper(function)
    compiled: F = made
    return compiled


def inlined(function: F) -> F:
    """A helper that becomes part of its caller: for what runs once a packet.

    A call costs more than its jump: Numba counts references of array arguments in each function, and only
    drops that where it sees that the array is borrowed.
    """
    made: Any = _Helper(function, inlined=True)
    compiled: F = made
    return compiled


def checked(function: F) -> F:
    """A helper whose indices are checked in every mode: for feature classes. Where it raises, see `attempt`."""
    made: Any = _Helper(function, checked=True)
    compiled: F = made
    return compiled


def checked_inlined(function: F) -> F:
    """A checked helper that becomes part of its caller."""
    made: Any = _Helper(function, checked=True, inlined=True)
    compiled: F = made
    return compiled


def callback(signature: str) -> Callable[[F], int]:
    """Compile a function to be called by address: it is not compiled again with each of its callers."""
    return lambda function: _code(function, signature, lambda: signature).address


def call_from_python(address: int, *arguments: int) -> None:
    """Call the `callback` at an address with integers."""
    machine_code.call(address, arguments)


table_at: Any = _Instruction("table_at")
data_address: Any = _Instruction("data_address")
prefetch_at: Any = _Instruction("prefetch_at")
call_at: Any = _Instruction("call_at")
u16_at: Any = _Instruction("u16_at")
u32_at: Any = _Instruction("u32_at")
u64_at: Any = _Instruction("u64_at")
borrowed: Any = _Instruction("borrowed")


attempt: Any = _Instruction("attempt")


@inlined
def prefetch(array: Any, index: Any) -> None:
    """Ask for the cache line of `array[index]`; any index is harmless."""
    prefetch_at(data_address(array) + index * array.itemsize)


def records(array: np.ndarray) -> np.ndarray:
    """A structured array whose elements have attribute access in the current mode."""
    return array
