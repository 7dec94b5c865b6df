"""Memory for the flow cache: reserved as address space, in huge pages, populated ahead of use, given back after."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import records

HUGE_PAGE = 2 << 20
_MADV_POPULATE_WRITE = 23  # Linux 5.14
# mmap.madvise() holds the interpreter lock; through ctypes another thread can populate while the kernel runs.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class Reserved:
    """A zeroed array of address space; pages exist from the first touch, or from `populate`."""

    def __init__(self, count: int, dtype: np.dtype) -> None:
        self.dtype = dtype
        self._bytes = -(-max(count, 1) * dtype.itemsize // HUGE_PAGE) * HUGE_PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        self._map = mmap.mmap(-1, self._bytes + HUGE_PAGE, flags=flags)
        raw: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        skip = -raw.ctypes.data % HUGE_PAGE  # huge pages need their own alignment
        self._bytes_view = raw[skip : skip + self._bytes]
        self._address = self._bytes_view.ctypes.data
        if hasattr(mmap, "MADV_HUGEPAGE"):
            _libc.madvise(self._address, self._bytes, mmap.MADV_HUGEPAGE)
        self.array = records(self._bytes_view[: count * dtype.itemsize].view(dtype))
        self._lock = threading.Lock()
        self._populated = 0

    def populate(self, count: int, first: int = 0) -> None:
        """Make the pages of the elements from `first` up to `count` exist; cheap when they were populated before."""
        wanted = min(-(-count * self.dtype.itemsize // HUGE_PAGE) * HUGE_PAGE, self._bytes)
        with self._lock:
            start = max(self._populated, max(first, 0) * self.dtype.itemsize // HUGE_PAGE * HUGE_PAGE)
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
        """Give the whole pages of some elements back; they read as zeros afterwards."""
        page = mmap.PAGESIZE
        start = -(-first * self.dtype.itemsize // page) * page
        end = (first + count) * self.dtype.itemsize // page * page
        if end > start:
            _libc.madvise(self._address + start, end - start, mmap.MADV_DONTNEED)

    def release_behind(self, count: int) -> None:
        """Give back what was populated behind the first `count` elements."""
        kept = -(-count * self.dtype.itemsize // HUGE_PAGE) * HUGE_PAGE
        with self._lock:
            if kept < self._populated:
                _libc.madvise(self._address + kept, self._populated - kept, mmap.MADV_DONTNEED)
                self._populated = kept


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
