"""The decorators and instructions of `jit` for plain Python."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    return function


helper = inlined = checked = checked_inlined = checked_kernel = kernel


def bound(function: Any, *arguments: Any) -> Callable[[], Any]:
    return functools.partial(function, *arguments)


def prepare(function: Any, *arguments: Any) -> None:
    return None


def records(array: np.ndarray) -> np.ndarray:
    return array.view(np.recarray)


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


def u16_at(address: int) -> np.int64:
    return np.int64(int.from_bytes(ctypes.string_at(int(address), 2), "big"))


def u32_at(address: int) -> np.int64:
    return np.int64(int.from_bytes(ctypes.string_at(int(address), 4), "big"))


def u64_at(address: int) -> np.uint64:
    return np.uint64(int.from_bytes(ctypes.string_at(int(address), 8), "big"))


address_of = data_address
_callbacks: list[Any] = [None]


def callback(signature: str) -> Callable[[F], int]:
    def number_it(function: F) -> int:
        _callbacks.append(function)
        return len(_callbacks) - 1

    return number_it


def call_at(address: int, arguments: tuple[Any, ...]) -> None:
    _callbacks[int(address)](*arguments)


def attempt(function: Callable[..., Any], arguments: tuple[Any, ...], errors: int) -> int:
    function(*arguments)
    return 0


def call_from_python(address: int, *arguments: int) -> None:
    call_at(address, arguments)


# Wrap-around of hashes and division by zero are meant; compiled code says nothing about them either.
np.seterr(all="ignore")
