"""Whether the daemon's processes are at work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trafficrefinery.daemon.status import READY, STARTING, Board

_STATES = {STARTING: "starting"}


def processes(board: Board) -> Iterator[tuple[str, Any]]:
    """Name and record of each process that was started; workers count from 0."""
    yield "supervisor", board.supervisor
    if board.names["pid"]:  # a configuration without domains needs none
        yield "names", board.names
    yield "aggregator", board.aggregator
    if board.inference["pid"]:  # without models there is none
        yield "inference", board.inference
    for number, worker in enumerate(board.workers):
        yield f"worker{number}", worker


def heartbeat_age_s(record: Any, now_ns: int) -> float:
    """Seconds since a process's last sign of life; `now_ns` is of CLOCK_MONOTONIC."""
    return max(now_ns - int(record["beat_ns"]), 0) / 1e9


def not_ready(board: Board, hang_timeout_ns: int, now_ns: int) -> list[str]:
    """Why the daemon is not ready, a reason for each process that is not; `now_ns` is of CLOCK_MONOTONIC."""
    reasons = []
    for name, record in processes(board):
        if name == "supervisor":
            continue
        if record["state"] != READY:
            reasons.append(f"{name}: {_STATES.get(int(record['state']), 'stopped')}")
        elif heartbeat_age_s(record, now_ns) > hang_timeout_ns / 1e9:
            reasons.append(f"{name}: no sign of life for {heartbeat_age_s(record, now_ns):.1f} s")
    return reasons


class Usage(NamedTuple):
    """What a process takes, as the kernel counts it."""

    cpu_ticks: int
    resident_pages: int


def usage_of(pid: int) -> Usage | None:
    """From /proc/PID/stat (proc(5)); None when there is no such process, or it may not be seen."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything; state, field 3, is first
    return Usage(int(fields[14 - 3]) + int(fields[15 - 3]), int(fields[24 - 3]))
