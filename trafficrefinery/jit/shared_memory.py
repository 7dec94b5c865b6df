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


class Inherited:
    """A file descriptor that child processes get as an argument of their `Process`.

    Attributes:
        close: gives the descriptor back, as happens when nobody has this object any more.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.close: Callable[[], object] = weakref.finalize(self, os.close, fd)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _inherited_fd, (multiprocessing.reduction.DupFd(self._fd),)


def _inherited_fd(fd: Any) -> Inherited:
    return Inherited(fd.detach())


class Shared(Inherited):
    """A zeroed array in shared memory; child processes get it as an argument of their `Process`.

    One process writes each element; aligned numbers of up to 8 bytes are read whole, without locks.

    The memory goes with the last array on it.

    Args:
        huge: in reserved huge pages, if there are enough of them; `count` then fills whole ones.
    """

    def __init__(self, count: int, dtype: np.dtype, *, huge: bool = False) -> None:
        fd = os.memfd_create("trafficrefinery", os.MFD_CLOEXEC | (os.MFD_HUGETLB if huge else 0))
        try:
            os.ftruncate(fd, max(count * dtype.itemsize, 1))
            self._map(fd, count, dtype)
        except OSError:
            os.close(fd)
            if not huge:
                raise
            self.__init__(count, dtype)  # type: ignore[misc]

    def _map(self, fd: int, count: int, dtype: np.dtype) -> None:
        self._memory = mmap.mmap(fd, max(count * dtype.itemsize, 1))
        self._count, self._dtype = count, dtype
        self.array: NDArray[Any] = records(np.frombuffer(self._memory, dtype, count))
        super().__init__(fd)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        form = self._dtype.str if self._dtype.names is None else self._dtype.descr
        return _inherited, (multiprocessing.reduction.DupFd(self._fd), self._count, form)

    def give_back(self, start_bytes: int, length_bytes: int) -> None:
        """Free whole pages, which read as zeros afterwards."""
        self._memory.madvise(mmap.MADV_REMOVE, start_bytes, length_bytes)


def _inherited(fd: Any, count: int, form: Any) -> Shared:
    shared = Shared.__new__(Shared)
    shared._map(fd.detach(), count, np.dtype(form))  # noqa: SLF001 (it is its own constructor)
    return shared
