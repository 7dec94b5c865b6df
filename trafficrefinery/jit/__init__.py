"""Functions of packets and arrays that are compiled, or run as plain Python: see `cache` for the modes.

The only part of the package that knows the compiler, which is imported when something has to be compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cache import COMPILED, MODE, PACKAGE_DIGEST, cache_dir, cache_root, keep, kept
from .compile_time import CompilerError, compiling

if COMPILED or TYPE_CHECKING:
    from .compiled_decorators import (
        attempt,
        borrowed,
        bound,
        call_at,
        call_from_python,
        callback,
        checked,
        checked_inlined,
        checked_kernel,
        data_address,
        helper,
        inlined,
        kernel,
        prefetch,
        prefetch_at,
        prepare,
        records,
        table_at,
        u16_at,
        u32_at,
        u64_at,
    )
    from .machine_code import address_of
else:
    from .plain_decorators import (
        address_of,
        attempt,
        borrowed,
        bound,
        call_at,
        call_from_python,
        callback,
        checked,
        checked_inlined,
        checked_kernel,
        data_address,
        helper,
        inlined,
        kernel,
        prefetch,
        prefetch_at,
        prepare,
        records,
        table_at,
        u16_at,
        u32_at,
        u64_at,
    )

__all__ = [
    "COMPILED", "MODE", "PACKAGE_DIGEST", "CompilerError", "address_of", "attempt", "borrowed", "bound", "cache_dir",
    "cache_root", "call_at", "call_from_python", "callback", "checked", "checked_inlined", "checked_kernel",
    "compiling", "data_address", "helper",
    "inlined", "keep", "kept", "kernel", "prefetch", "prefetch_at", "prepare", "records", "table_at",
    "u16_at", "u32_at", "u64_at",
]  # fmt: skip
