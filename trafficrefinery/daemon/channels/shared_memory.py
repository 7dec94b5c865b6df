"""Memory that processes share: a file descriptor without a name, inherited, so that nothing is left behind."""

from __future__ import annotations

import mmap
import multiprocessing.reduction
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import records


class Shared:
    """A zeroed array in shared memory; child processes get it as an argument of their `Process`.

    One process writes each element; aligned numbers of up to 8 bytes are read whole, without locks.

    Attributes:
        close: gives the descriptor back, as happens when nobody has this object any more; the memory goes with the last
            array on it.
    """

    def __init__(self, count: int, dtype: np.dtype) -> None:
        fd = os.memfd_create("trafficrefinery", os.MFD_CLOEXEC)
        os.ftruncate(fd, max(count * dtype.itemsize, 1))
        self._map(fd, count, dtype)

    def _map(self, fd: int, count: int, dtype: np.dtype) -> None:
        self._fd, self._count, self._dtype = fd, count, dtype
        self._memory = mmap.mmap(fd, max(count * dtype.itemsize, 1))
        self.array: NDArray[Any] = records(np.frombuffer(self._memory, dtype, count))
        self.close: Callable[[], object] = weakref.finalize(self, os.close, fd)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _inherited, (multiprocessing.reduction.DupFd(self._fd), self._count, self._dtype.descr)

    def give_back(self, start_bytes: int, length_bytes: int) -> None:
        """Free whole pages, which read as zeros afterwards."""
        self._memory.madvise(mmap.MADV_REMOVE, start_bytes, length_bytes)


def _inherited(fd: Any, count: int, descr: Any) -> Shared:
    shared = Shared.__new__(Shared)
    shared._map(fd.detach(), count, np.dtype(descr))  # noqa: SLF001 (it is its own constructor)
    return shared
