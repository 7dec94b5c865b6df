"""Runs a plan: sessions side by side, each of which leaves complete files or none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from trafficrefinery.errors import UsageError
from trafficrefinery.system.processes import end
from trafficrefinery.system.progress import Progress, silent

from .folder import LABELS, Rows, prepare, write_rows
from .network import MOST_CLIENTS
from .plan import SessionPlan
from .session import Place, run_session
from .world import CONTEXT, check_system, world

_TRIES = 3
_BETWEEN_STARTS_S = 0.35


class Ran(NamedTuple):
    """What came of a run.

    Args:
        sessions: complete ones in the folder.
        reused: those of them that were there before.
        failed: those that could not be recorded, with the reason.
    """

    sessions: int
    reused: int
    failed: list[str]
    labels: Path


class _Running(NamedTuple):
    plan: SessionPlan
    attempt: int
    process: Any  # multiprocessing has no common type for processes of its contexts
    told: Connection


def run(plan: Sequence[SessionPlan], folder: Path, parallel: int, progress: Progress = silent) -> Ran:
    """Record the sessions of a plan into a folder, but those that are there already.

    Raises:
        UsageError: this machine cannot run the lab, or the folder has the sessions of another plan.
        OutputError: the folder cannot be written.
        TrafficRefineryError: servers or network could not be started.
    """
    check_system()
    if not 1 <= parallel <= MOST_CLIENTS:
        raise UsageError(f"--parallel: {parallel} is not between 1 and {MOST_CLIENTS}")
    rows = prepare(folder, plan)
    missing, reused, failed = [one for one in plan if one.session not in rows], len(rows), []
    if missing:
        profiles = {one.profile.name: one.profile for one in plan}
        with world(min(parallel, len(missing)), list(profiles.values())) as places:
            runner = _Runner(missing, [place._replace(folder=folder) for place in places], rows, folder / LABELS)
            failed = runner.run(progress, len(plan))
    return Ran(len(rows), reused, failed, folder / LABELS)


class _Runner:
    """Gives each free client the next session; a session that fails is tried again at the end."""

    def __init__(self, missing: Sequence[SessionPlan], places: Sequence[Place], rows: Rows, labels: Path) -> None:
        self._waiting = [(one, 1) for one in missing]
        self._places = {place.client: place for place in places}
        self._free = sorted(self._places, reverse=True)
        self._running: dict[int, _Running] = {}
        self._rows, self._labels = rows, labels
        self._next_start_s = 0.0
        self._failed: list[str] = []

    def run(self, progress: Progress, sessions: int) -> list[str]:
        """Until all are done; what failed."""
        try:
            while self._waiting or self._running:
                self._start_next()
                progress(f"sessions, {len(self._running)} running", len(self._rows), sessions)
                self._collect(0.2)
        finally:
            for running in self._running.values():
                end(running.process)
        return self._failed

    def _start_next(self) -> None:
        now_s = time.monotonic()
        if not self._waiting or not self._free or now_s < self._next_start_s:
            return
        self._next_start_s = now_s + _BETWEEN_STARTS_S
        plan, attempt = self._waiting.pop(0)
        client = self._free.pop()
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=run_session, args=(plan, self._places[client], theirs), daemon=True)
        process.start()
        theirs.close()
        self._running[client] = _Running(plan, attempt, process, ours)

    def _collect(self, timeout_s: float) -> None:
        ready = wait([running.told for running in self._running.values()], timeout_s)
        for client in [client for client, running in self._running.items() if running.told in ready]:
            self._take(self._running.pop(client))
            self._free.append(client)

    def _take(self, running: _Running) -> None:
        """The outcome of a session that has ended."""
        try:
            outcome = running.told.recv()
        except EOFError:
            outcome = "its process ended; its words are on the standard error"
        running.told.close()
        running.process.join(10)
        end(running.process)
        if isinstance(outcome, dict):
            self._rows[running.plan.session] = outcome
            write_rows(self._labels, self._rows)
        elif running.attempt < _TRIES:
            self._waiting.append((running.plan, running.attempt + 1))
        else:
            self._failed.append(f"{running.plan.session}: {outcome}")
