"""What every process below the supervisor does first, and its signs of life."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.system.resident import give_back

from . import logs, privileges
from .status import READY, STARTING

_PR_SET_NAME = 15
_LEFT_TO_SUPERVISOR = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def begin(
    name: str, record: Any, cpus: Sequence[int] = (), kept: tuple[privileges.Capability, ...] = privileges.FILES
) -> None:
    """Set this process up: it leaves signals to its parent, and runs where and as what it should.

    Args:
        name: as `ps` and logs show it.
        record: of this process in `status.Board`.
        cpus: to run on; none: wherever.
        kept: capabilities that it needs, of those that the supervisor has.
    """
    ctypes.CDLL(None).prctl(_PR_SET_NAME, f"tr-{name}".encode()[:15], 0, 0, 0)
    for number in _LEFT_TO_SUPERVISOR:
        signal.signal(number, signal.SIG_IGN)
    logs.set_up(name)
    privileges.keep_only(kept)
    record["pid"], record["state"] = os.getpid(), STARTING
    beat(record)
    run_on(cpus)


def run_on(cpus: Sequence[int], realtime_priority: int = 0) -> None:
    """Run on these cores only (none: wherever), with a priority of SCHED_FIFO (0: none)."""
    if cpus:
        os.sched_setaffinity(0, cpus)
    if realtime_priority:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(realtime_priority))
        except PermissionError:
            logs.warning(
                "no real-time priority: it needs LimitRTPRIO in the systemd unit, or CAP_SYS_NICE",
                priority=realtime_priority,
            )


def beat(record: Any) -> None:
    """A sign of life."""
    record["beat_ns"] = time.monotonic_ns()


def ready(record: Any) -> None:
    """All is compiled and loaded. First the sign of life: without one for as long as that took, a process hangs."""
    give_back()
    beat(record)
    record["state"] = READY


def used_cpu_ns() -> int:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)


def run(body: Callable[..., None], *arguments: Any) -> None:
    """Target of a `Process`: run a body. What ends it is one line in the log, and its exit status tells of which kind.

    The process ends without taking the interpreter down, which takes half a second of CPU with compiled code loaded.
    """
    status = 0
    try:
        body(*arguments)
    except TrafficRefineryError as error:
        logs.error(str(error))
        status = error.exit_code
    except Exception as error:  # noqa: BLE001 (the log has to name any)
        logs.bug(error)
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
