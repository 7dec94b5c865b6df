"""Child processes: each begins with an interpreter of its own, leaves Ctrl-C to its parent, and ends with it."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.resource_tracker
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from typing import Any

from trafficrefinery.errors import ElsewhereError

CONTEXT = multiprocessing.get_context("spawn")
"""Of pipes, processes and pools: no threads or locks are inherited."""
Process = SpawnProcess
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_END_WITHIN_S = 5.0


def end_with_parent() -> None:
    """The calling process is killed when its parent ends, however that ends (prctl(2), PR_SET_PDEATHSIG)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it ended before it was asked for
        os._exit(1)


def begin() -> None:
    """First in a child: it ends with its parent, which is the one to be interrupted."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def start(body: Callable[..., None], *arguments: Any, name: str | None = None) -> Process:
    """Start a process that runs a function of a module.

    Raises:
        OSError: no memory, or no descriptors.
    """
    process = CONTEXT.Process(target=_run, args=(body, arguments), name=name, daemon=True)
    with _interrupts_held():
        process.start()
    return process


def _run(body: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    begin()
    body(*arguments)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits; a process that starts meanwhile never gets it, not even before `begin`."""
    multiprocessing.resource_tracker.ensure_running()  # it would let signals in when the first process starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns, called in a child whose memory is given back: for large libraries.

    Raises:
        ElsewhereError: the function raised, or its process ended.
    """
    code = f"from {__name__} import _answer; _answer()"
    given = pickle.dumps((sys.path, function, arguments))
    done = subprocess.run([sys.executable, "-c", code], input=given, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise ElsewhereError(f"{function.__name__} in a process of its own ended ({done.returncode})", "")
    value, error = pickle.loads(done.stdout)  # of a process of our own
    if error is not None:
        raise ElsewhereError(*error)
    return value


def _answer() -> None:
    end_with_parent()
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what is printed meanwhile is no part of the answer
        value, error = None, None
        try:
            sys.path[:], function, arguments = pickle.load(sys.stdin.buffer)
            value = function(*arguments)
        except Exception as raised:  # noqa: BLE001 (it is raised where it can be read)
            error = f"{type(raised).__name__}: {raised}", traceback.format_exc()
        pickle.dump((value, error), out)


def end(process: BaseProcess) -> None:
    """End a process, whatever it is at."""
    process.terminate()
    process.join(_END_WITHIN_S)
    if process.is_alive():
        process.kill()
        process.join()
