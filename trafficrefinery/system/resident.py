"""Memory that only the start of a process needed, given back to the machine."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
from collections.abc import Iterator
from pathlib import Path

_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def give_back() -> None:
    """Give back free memory of the allocator, and the pages of libraries: what is used again is mapped again.

    Of LLVM, which links compiled code when a process starts, that is 85 MiB. A page that is needed again comes from the
    page cache, with its neighbours.
    """
    gc.collect()
    with contextlib.suppress(AttributeError):  # another C library than that of GNU
        _libc.malloc_trim(0)
    try:
        unwritten = list(_unwritten())
    except OSError:  # /proc is not there
        return
    for first, size_bytes in unwritten:
        _libc.madvise(first, size_bytes, mmap.MADV_DONTNEED)


def _unwritten() -> Iterator[tuple[int, int]]:
    """Address and bytes of mapped files that this process cannot write to and never has, as the linker does.

    Only of those are all pages the file's own, see proc_pid_smaps(5).
    """
    place, is_file = (0, 0), False
    for line in Path("/proc/self/smaps").read_text(errors="replace").splitlines():
        name, *values = line.split(maxsplit=5)
        if not name.endswith(":"):
            first, _, end = name.partition("-")
            place = int(first, 16), int(end, 16) - int(first, 16)
            is_file = values[0][1] == "-" and values[0][3] == "p" and values[-1].startswith("/")
        elif name == "Anonymous:" and is_file and values[0] == "0":
            yield place
