"""Tables for compiled code: zeroed memory between two guards, where an access beyond an end stops the process.

Large tables are reserved as address space, in huge pages, populated ahead of use, and given back after.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import address_of, records

HUGE_PAGE = 2 << 20
GUARD_BYTES = 64 << 10  # at least: a stray index is rarely off by one
_PROT_NONE = 0
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_MAP_NORESERVE = 0x4000  # Python 3.11 does not name it
# mmap.madvise() holds the interpreter lock; through ctypes another thread can populate while the kernel runs.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


def whole_pages(count: int, dtype: Any) -> int:
    """The number of elements, at least `count`, that ends where a page does: both guards then lie at the very ends."""
    step = mmap.PAGESIZE // math.gcd(np.dtype(dtype).itemsize, mmap.PAGESIZE)
    return max(1, -(-count // step)) * step


def table(shape: int | tuple[int, ...], dtype: Any) -> Any:
    """A zeroed array for compiled code to read and write, between guards; its memory goes with the last view of it."""
    return Reserved(int(np.prod(shape)), np.dtype(dtype), huge_from=2 * HUGE_PAGE).array.reshape(shape)


def table_of(values: Sequence[Any] | np.ndarray, dtype: Any) -> Any:
    """A table with these values."""
    made = table(len(values), dtype)
    made[:] = values
    return made


class Reserved:
    """A zeroed array of address space between guards; pages exist from the first touch, or from `populate`.

    The last element ends where the guard behind it begins; the first one begins behind the other guard, too, when the
    array is as long as some whole pages (see `whole_pages`). Otherwise less than a page before it is unused. A guard is
    at least one element wide.

    Args:
        huge_from: how many bytes an array has at least for which huge pages are asked: their first touch takes longer.

    Raises:
        OSError: there is no address space, or there are no mappings left (vm.max_map_count).
    """

    def __init__(self, count: int, dtype: np.dtype, huge_from: int = HUGE_PAGE) -> None:
        self.dtype, self._count = dtype, max(count, 0)
        used_bytes = self._count * dtype.itemsize
        self._bytes = -(-used_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._lead = self._bytes - used_bytes  # bytes that are unused, before the first element
        guard_bytes = -(-max(dtype.itemsize, GUARD_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
        is_huge = self._bytes >= huge_from
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        # Held by the array that lies in it, and by nothing else.
        whole = mmap.mmap(-1, self._bytes + 2 * guard_bytes + is_huge * HUGE_PAGE, flags=flags)
        raw = np.frombuffer(whole, np.uint8)
        first = raw.ctypes.data
        alignment = HUGE_PAGE if is_huge else mmap.PAGESIZE  # huge pages need their own alignment
        self._address = -(-(first + guard_bytes) // alignment) * alignment
        _forbid(first, self._address - first)
        _forbid(self._address + self._bytes, first + len(raw) - self._address - self._bytes)
        if is_huge:
            _libc.madvise(self._address, self._bytes, mmap.MADV_HUGEPAGE)
        start = self._address - first + self._lead
        self.array = records(raw[start : start + used_bytes].view(dtype))
        self._lock = threading.Lock()
        self._populated = 0

    def _offset(self, element: int) -> int:
        """Where an element begins, in bytes; of one outside of the array, the nearer end."""
        return self._lead + min(max(element, 0), self._count) * self.dtype.itemsize

    def populate(self, count: int, first: int = 0) -> None:
        """Make the pages of the elements from `first` up to `count` exist; cheap when they were populated before."""
        wanted = min(-(-self._offset(count) // HUGE_PAGE) * HUGE_PAGE, self._bytes)
        with self._lock:
            start = max(self._populated, self._offset(first) // HUGE_PAGE * HUGE_PAGE)
            if wanted > start:
                _libc.madvise(self._address + start, wanted - start, _MADV_POPULATE_WRITE)
                self._populated = wanted

    @property
    def resident_bytes(self) -> int:
        """Of its pages, those that exist."""
        pages = np.zeros(self._bytes // mmap.PAGESIZE, np.uint8)
        _libc.mincore(self._address, self._bytes, pages.ctypes.data)
        return int((pages & 1).sum()) * mmap.PAGESIZE

    def release(self, first: int, count: int) -> None:
        """Give back the pages that lie wholly in `count` elements from `first` on; they read as zeros afterwards."""
        start = -(-self._offset(first) // mmap.PAGESIZE) * mmap.PAGESIZE
        end = self._offset(first + count) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            _libc.madvise(self._address + start, end - start, mmap.MADV_DONTNEED)

    def release_behind(self, count: int) -> None:
        """Give back what was populated behind the first `count` elements."""
        kept = -(-self._offset(count) // HUGE_PAGE) * HUGE_PAGE
        with self._lock:
            if kept < self._populated:
                _libc.madvise(self._address + kept, self._populated - kept, mmap.MADV_DONTNEED)
                self._populated = kept


class Recycled:
    """Tables of one size, each used again, as it was left, when no view of it is left: new pages cost more than rows.

    Args:
        most_free: tables that are kept for the next use.
    """

    def __init__(self, count: int, dtype: np.dtype, most_free: int = 4) -> None:
        self._count, self._dtype, self._most_free = count, dtype, most_free
        self._free: list[Reserved] = []

    def take(self) -> Any:
        """A table that nobody else has."""
        reserved = self._free.pop() if self._free else Reserved(self._count, self._dtype, 2 * HUGE_PAGE)
        return records(np.asarray(_Lease(reserved, self._give)).view(self._dtype))

    def _give(self, reserved: Reserved) -> None:
        if len(self._free) < self._most_free:
            self._free.append(reserved)


class _Lease:
    """What all views of a table have in common: it goes with the last of them."""

    def __init__(self, reserved: Reserved, give_back: Callable[[Reserved], None]) -> None:
        self._reserved, self._give_back = reserved, give_back
        data = address_of(reserved.array), False
        self.__array_interface__ = {"data": data, "shape": (reserved.array.nbytes,), "typestr": "|u1", "version": 3}

    def __del__(self) -> None:
        self._give_back(self._reserved)


def _forbid(address: int, length_bytes: int) -> None:
    if _libc.mprotect(address, length_bytes, _PROT_NONE):
        number = ctypes.get_errno()
        raise OSError(number, f"no guard can be set ({os.strerror(number)}); raise vm.max_map_count")


class Populator:
    """A thread that calls some functions when it is woken, until it is closed."""

    def __init__(self, tasks: Sequence[Callable[[], None]]) -> None:
        self._tasks = tasks
        self._wanted = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="populate", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Ask for one more round."""
        self._wanted.set()

    def close(self) -> None:
        """End the thread and wait for it."""
        self._closed = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closed:
                return
            for task in self._tasks:
                task()
