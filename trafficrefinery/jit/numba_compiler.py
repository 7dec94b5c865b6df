"""Numba: compile flags, and the instructions that Python does not have. Imported when something must be compiled."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
import numba.core.event
import numba.np.arrayobj
from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from . import machine_code
from .cache import MODE
from .compile_time import CompilerError, Compiling, compiling
from .numba_pipeline import Pipeline

numba.core.event.Listener.register(Compiling)
numba.core.event.register("numba:run_pass", compiling)

# No fastmath: compiled and interpreted must agree. Numpy's error model: x / 0 is inf, never an exception. Nothing is
# called by Python's own calling convention, see `machine_code`; without the wrappers for it, it compiles faster.
# Numba's own cache is not used: it keeps the same code once more, in pickles without a digest.
_FLAGS: dict[str, Any] = {
    "error_model": "numpy",
    "boundscheck": MODE == "boundscheck",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
_njit: Any = numba.njit  # its types leave out options that it has


def dispatcher(function: Callable[..., Any], *, inlined: bool = False, checked: bool = False) -> Any:
    """Numba's object for a function that it compiles when it is called.

    Args:
        checked: a wrong index raises in every mode.
    """
    flags = {**_FLAGS, "boundscheck": True} if checked else _FLAGS
    return _njit(**flags, forceinline=inlined, pipeline_class=Pipeline)(function)


def compiled(function: Callable[..., Any], types: Any, place: str, *, checked: bool = False) -> machine_code.Code:
    """Compile a function for arguments of some types, and keep it in a file where it can be.

    Raises:
        CompilerError: it cannot be compiled.
    """
    made = dispatcher(function, checked=checked)
    try:
        made.compile(types)
    except numba.core.errors.NumbaError as error:
        raise CompilerError(str(error)) from error
    (found,) = made.overloads.values()
    symbol, returns = found.fndesc.llvm_func_name, _format(found.signature.return_type)
    codegen = cpu_target.target_context.codegen()
    module = found.library.linked()
    module.link_in(llvm.parse_assembly(_entry(found.fndesc, codegen._create_empty_module(machine_code.ENTRY))))  # noqa: SLF001
    code: bytes = codegen._tm.emit_object(module)  # noqa: SLF001
    needed = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    # Else it holds addresses of this process, or needs Numba to run.
    if not found.library.has_dynamic_globals and all(map(machine_code.is_offered, needed)):
        machine_code.store(place, code, symbol, returns)
    return machine_code.loaded(code, symbol, returns)


def _entry(described: Any, module: Any) -> str:
    """A function that calls another with arguments from memory: Python passes one pointer faster than 20 numbers."""
    kind = cpu_target.target_context.call_conv.get_function_type(described.restype, described.argtypes)
    callee = ir.Function(module, kind, described.llvm_func_name)
    word = ir.IntType(64)
    entry = ir.Function(
        module, ir.FunctionType(kind.return_type, [*kind.args[:2], word.as_pointer()]), machine_code.ENTRY
    )
    builder = ir.IRBuilder(entry.append_basic_block())
    result, raised, values = entry.args
    arguments = [
        builder.load(builder.bitcast(builder.gep(values, [word(i)]), member.as_pointer()))
        for i, member in enumerate(kind.args[2:])
    ]
    builder.ret(builder.call(callee, [result, raised, *arguments]))
    return str(module)


def types_of(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Numba's types of what a function is called with."""
    return tuple(map(numba.typeof, arguments))


def _format(returned: Any) -> str:
    """Of `struct`: what a function returns."""
    formats = {
        numba.types.int64: "q", numba.types.uint64: "Q", numba.types.float64: "d", numba.types.boolean: "?",
        numba.types.none: "",
    }  # fmt: skip
    if isinstance(returned, numba.types.Tuple | numba.types.UniTuple):
        return "".join(map(_format, returned.types))
    if returned not in formats:
        raise CompilerError(f"a kernel returns numbers of 64 bits, truths, and tuples of them; not {returned}")
    return formats[returned]


def instruction_type(name: str) -> Any:
    """What Numba takes for the type of an instruction of this module."""
    return cpu_target.typing_context.resolve_value_type(_INSTRUCTIONS[name])


_INSTRUCTIONS: dict[str, Any] = {}


def _instruction(function: Callable[..., Any]) -> None:
    _INSTRUCTIONS[function.__name__] = intrinsic(function)


def _fill(array: Any, data: Any, shape: Any, strides: Any, itemsize: Any) -> Any:
    """The value of an array that nothing counts references of."""
    populate: Any = numba.np.arrayobj.populate_array
    populate(array, data=data, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
    return array._getvalue()  # noqa: SLF001


# The instructions.


@_instruction
def table_at(typing_context: Any, address: Any, count: Any, dtype: Any) -> Any:
    """The array of `count` elements at an address that `address_of` gave. The owner keeps it alive."""
    array_type = numba.types.Array(dtype.dtype, 1, "C")
    signature = array_type(numba.types.int64, numba.types.int64, dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.return_type)(context, builder)
        size = context.get_abi_sizeof(context.get_data_type(signature.return_type.dtype))
        item_size = context.get_constant(numba.types.intp, size)
        pack: Any = cgutils.pack_array
        data = builder.inttoptr(arguments[0], array.data.type)
        return _fill(array, data, pack(builder, [arguments[1]]), pack(builder, [item_size]), item_size)

    return signature, generate


@_instruction
def data_address(typing_context: Any, array: Any) -> Any:
    """Where the elements of an array lie."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(made.data, ir.IntType(64))

    return numba.types.int64(array), generate


def _widened(builder: Any, number: Any) -> Any:
    return number if number.type == ir.IntType(64) else builder.zext(number, ir.IntType(64))


def _big_endian(name: str, bits: int, returns: Any) -> None:
    """The number of so many bits, most significant byte first, at any address, as one instruction."""

    def number_at(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            number = builder.load(pointer, align=1)
            return _widened(builder, builder.bswap(number) if sys.byteorder == "little" else number)

        return returns(numba.types.int64), generate

    number_at.__name__ = name
    _instruction(number_at)


_big_endian("u16_at", 16, numba.types.int64)
_big_endian("u32_at", 32, numba.types.int64)
_big_endian("u64_at", 64, numba.types.uint64)


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
    """Call the `callback` at an address with a tuple of int64 and float64; what it raises, the caller raises."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        types = signature.args[1].types
        members = [builder.extract_value(values[1], i) for i in range(len(types))]
        kind = context.call_conv.get_function_type(numba.types.none, types)
        callee = builder.inttoptr(values[0], kind.as_pointer())
        status, _ = context.call_conv.call_function(builder, callee, numba.types.none, types, members)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return numba.types.void(numba.types.int64, arguments), generate


@_instruction
def attempt(typing_context: Any, function: Any, arguments: Any, errors: Any) -> Any:
    """Call a helper with a tuple; 1 when it raised, which the int64 at the address `errors` counts, else 0.

    With `boundscheck`, the caller raises what the helper raises.
    """
    called = function.get_call_type(typing_context, arguments.types, {})

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        found = function.dispatcher.get_compile_result(called)
        context.add_linking_libs([found.library])
        members = [builder.extract_value(values[1], i) for i in range(len(called.args))]
        status, _ = context.call_internal_no_propagate(builder, found.fndesc, called, members)
        with cgutils.if_unlikely(builder, status.is_error):
            if MODE == "boundscheck":
                context.call_conv.return_status_propagate(builder, status)
            else:
                count = builder.inttoptr(values[2], ir.IntType(64).as_pointer())
                builder.store(builder.add(builder.load(count), ir.IntType(64)(1)), count)
        return builder.zext(status.is_error, ir.IntType(64))

    return numba.types.int64(function, arguments, numba.types.int64), generate


@_instruction
def borrowed(typing_context: Any, array: Any) -> Any:
    """The same array without a reference count; for the time of one call, whose caller holds the array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        lent = context.make_array(signature.args[0])(context, builder)
        return _fill(lent, held.data, held.shape, held.strides, held.itemsize)

    return array(array), generate
