"""Tasks side by side, in processes of this machine or on a Dask cluster: one that fails stops no other."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, Protocol

from trafficrefinery import __version__
from trafficrefinery.errors import ElsewhereError, TrafficRefineryError, UsageError
from trafficrefinery.system.processes import CONTEXT, Process, begin

_CONNECT_S = 10
_one_at_a_time = threading.Lock()
_KILLED = "its process was killed; was there memory enough?"


class Failure(NamedTuple):
    """Why a task has no result."""

    message: str

    def of(self, name: str) -> str:
        """The reason in one line, with the name of what failed."""
        line = " ".join(self.message.split())
        return line if name in line else f"{name}: {line}"


class Tasks(Protocol):
    """Where tasks run."""

    width: int
    """How many run at once."""
    threads: int
    """How many threads each of them may use."""

    def run(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Call a function of a module with each argument.

        Yields the number of an argument, and what the function returned or a `Failure`, as they come. An error of
        this program or of the system is a failure, and so is the end of the process; any other exception is a mistake
        and is raised.

        Raises:
            TrafficRefineryError: nothing can run any more.
        """


def results(jobs: Tasks, function: Callable[[Any], Any], arguments: Sequence[Any], what: str) -> list[Any]:
    """What a function returns for each argument, in their order.

    Args:
        what: cannot be done where a task fails, for the message.

    Raises:
        TrafficRefineryError: a task failed.
    """
    found: dict[int, Any] = {}
    for number, outcome in jobs.run(function, arguments):
        if isinstance(outcome, Failure):
            raise TrafficRefineryError(f"{what}: {outcome.message}")
        found[number] = outcome
    return [found[number] for number in range(len(arguments))]


@contextlib.contextmanager
def tasks(workers: int = 1, cluster: str | None = None) -> Iterator[Tasks]:
    """Run tasks in this process, in several, or on a cluster; what runs at the end of the block is stopped.

    Args:
        cluster: address of a Dask scheduler; its workers see files under the same paths as this process.

    Raises:
        UsageError: no scheduler answers there, or its workers cannot run this program.
    """
    if cluster is not None:
        with connected(cluster) as client:
            yield _OnCluster(client, cluster, len(client.run(_version)))
    elif workers == 1:
        yield Here(_cores())
    else:
        side_by_side = _SideBySide(workers)
        try:
            yield side_by_side
        finally:
            side_by_side.stop()


class _Mistake(NamedTuple):
    """An exception that is no error of this program, as text."""

    message: str
    trace: str


def _attempt(function: Callable[[Any], Any], argument: Any) -> Any:
    """Call a function; what it raises comes back as a value, which passes between processes whatever it holds."""
    with _one_at_a_time:  # a Dask worker may have several threads, and the compiler's progress is of a process
        try:
            return function(argument)
        except (TrafficRefineryError, OSError) as error:
            return Failure(str(error))
        except Exception as error:  # noqa: BLE001 (it is raised where it can be read)
            return _Mistake(f"{type(error).__name__}: {error}", traceback.format_exc())


def _told(outcome: Any) -> Any:
    if isinstance(outcome, _Mistake):
        raise ElsewhereError(*outcome)
    return outcome


class Here:
    """Tasks in this process, one after the other, with some threads each."""

    width = 1

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def run(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for number, argument in enumerate(arguments):
            try:
                outcome = function(argument)
            except (TrafficRefineryError, OSError) as error:
                outcome = Failure(str(error))
            yield number, outcome


HERE: Tasks = Here(1)


def _cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0))


class _SideBySide:
    """In processes of this machine. One that is killed takes the pool with it, so the others' tasks begin again."""

    def __init__(self, workers: int) -> None:
        self.width, self.threads = workers, max(_cores() // workers, 1)
        self._pool: ProcessPoolExecutor | None = None
        self._others = set(multiprocessing.active_children())

    def run(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        suspects: deque[tuple[int, Any]] = deque()  # each ran when a process was killed
        waiting = deque(enumerate(arguments))
        while waiting:
            flying: dict[Future[Any], tuple[int, Any]] = {}
            try:
                for number, outcome in self._run(function, waiting, flying, self.width):
                    yield number, _told(outcome)
            except BrokenProcessPool:
                suspects += flying.values()
                self.stop()
        for suspect in suspects:
            try:
                for number, outcome in self._run(function, deque([suspect]), {}, 1):
                    yield number, _told(outcome)
            except BrokenProcessPool:
                self.stop()
                yield suspect[0], Failure(_KILLED)

    def _run(
        self, function: Callable[[Any], Any], waiting: deque[tuple[int, Any]],
        flying: dict[Future[Any], tuple[int, Any]], width: int,
    ) -> Iterator[tuple[int, Any]]:  # fmt: skip
        """As many at once as there are processes, so that those in flight are those that run."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.width, CONTEXT, begin)
        while waiting or flying:
            while waiting and len(flying) < width:
                flying[self._pool.submit(_attempt, function, waiting[0][1])] = waiting[0]
                waiting.popleft()
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                outcome = future.result()
                yield flying.pop(future)[0], outcome

    def stop(self) -> None:
        """Kill the processes, whatever they are at: their files are whole, or have partial names."""
        if self._pool is None:
            return
        for process in set(multiprocessing.active_children()) - self._others:
            if isinstance(process, Process):  # and none of joblib's
                process.kill()
        self._pool.shutdown(cancel_futures=True)
        self._pool = None


@contextlib.contextmanager
def connected(cluster: str) -> Iterator[Any]:  # distributed.Client, of an optional package
    """A client of a Dask scheduler.

    Raises:
        UsageError: no scheduler answers there, it has no workers, or these cannot run this program.
    """
    try:
        import distributed
    except ImportError:
        raise UsageError(
            "--cluster: needs the package distributed (Dask), which is not installed; install the extra cluster of "
            "this program"
        ) from None
    try:
        client = distributed.Client(cluster, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        raise UsageError(f"--cluster: {cluster}: no scheduler answers there: {error}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_CONNECT_S)
            versions = client.run(_version)
        except TimeoutError:
            raise UsageError(f"--cluster: {cluster}: has no workers; start some: dask worker {cluster}") from None
        except Exception as error:  # whatever a worker without this package fails with
            raise UsageError(
                f"--cluster: {cluster}: its workers cannot run this: {error}; install trafficrefinery "
                f"{__version__} there"
            ) from error
        for worker, version in versions.items():
            if version != __version__:
                raise UsageError(
                    f"--cluster: {cluster}: worker {worker} has trafficrefinery {version}, and this is {__version__}"
                )
        yield client


def _version() -> str:
    return __version__


class _OnCluster:
    """On the workers of a Dask cluster, which gives a killed worker's tasks to others."""

    threads = 1

    def __init__(self, client: Any, address: str, workers: int) -> None:
        self._client, self._address, self.width = client, address, workers

    def run(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        from distributed import KilledWorker, as_completed

        with warnings.catch_warnings():
            # Data that is sent apart from a task is lost with the worker that holds it, and the task with it.
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            futures = {self._client.submit(_attempt, function, argument, pure=False): number
                       for number, argument in enumerate(arguments)}  # fmt: skip
        try:
            for future in as_completed(futures):
                if future.status == "finished":
                    yield futures[future], _told(future.result())
                elif future.status == "error" and isinstance(future.exception(), KilledWorker):
                    yield futures[future], Failure(f"workers of the cluster died of it: {_KILLED}")
                elif future.status == "error":
                    yield futures[future], Failure(f"the cluster failed at it: {future.exception()}")
                else:
                    raise TrafficRefineryError(
                        f"--cluster: {self._address}: the scheduler is gone; run again, and it goes on"
                    )
        finally:
            self._client.cancel(list(futures))
