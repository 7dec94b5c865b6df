"""Runs a plan: sessions side by side, each of which leaves complete files or none."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from trafficrefinery.errors import OutputError, TrafficRefineryError, UsageError
from trafficrefinery.shm import Shared

from .namespaces import Namespace, command_path
from .network import MOST_CLIENTS, WAN, Network
from .path import CONDITIONS, run_path
from .plan import SessionPlan
from .profiles import Profile
from .recording import Recording
from .servers import host_numbers, make_site, run_servers, start_nginx
from .session import LABELS_SUFFIX, PARTIAL, TRACE_SUFFIX, TRUTH_SUFFIX, Place, run_session

LABELS, PLAN = "labels.csv", "plan.json"
COLUMNS = ("file", "session", "video_id", "resolution", "site", "service", "startup_s", "session_start_s")
_TRIES = 3
_BETWEEN_STARTS_S = 0.35
_READY_WITHIN_S = 60.0
_CONTEXT = multiprocessing.get_context("forkserver")  # what a session needs is loaded once, not by each
_LOADED = ["trafficrefinery.lab.session", "trafficrefinery.lab.servers", "trafficrefinery.lab.path"]

Told = Callable[[int, int, int], None]
"""Called with the sessions that are done, that run, and that there are."""


class Ran(NamedTuple):
    """What came of a run.

    Args:
        reused: sessions that were there before.
        failed: those that could not be recorded, with the reason.
    """

    sessions: int
    reused: int
    failed: list[str]
    labels: Path


class _Running(NamedTuple):
    plan: SessionPlan
    client: int
    process: Any
    told: Connection


def check_system() -> None:
    """That this machine can run the lab.

    Raises:
        UsageError: no root, or a program is missing.
    """
    if os.geteuid() != 0:
        raise UsageError("trafficrefinery lab run: makes network namespaces and needs root; run it with sudo")
    for name, package in (("ip", "iproute2"), ("tc", "iproute2"), ("ethtool", "ethtool"), ("nginx", "nginx")):
        command_path(name, package)
    Namespace().close()


def run(plan: Sequence[SessionPlan], folder: Path, parallel: int, told: Told = lambda *_: None) -> Ran:
    """Record the sessions of a plan into a folder, but those that are there already.

    Raises:
        UsageError: this machine cannot run the lab, or the folder has the sessions of another plan.
        OutputError: the folder cannot be written.
        TrafficRefineryError: servers or network could not be started.
    """
    check_system()
    if not 1 <= parallel <= MOST_CLIENTS:
        raise UsageError(f"--parallel: {parallel} is not between 1 and {MOST_CLIENTS}")
    rows = _prepare(folder, plan)
    missing = [one for one in plan if one.session not in rows]
    if not missing:
        return Ran(len(rows), len(rows), [], folder / LABELS)
    reused = len(rows)
    with _stopped_by_sigterm(), _world(min(parallel, len(missing)), _profiles(plan)) as places:
        placed = [place._replace(folder=folder) for place in places]
        failed = _Runner(missing, placed, rows, folder / LABELS).run(told, len(plan))
    return Ran(len(rows), reused, failed, folder / LABELS)


def _profiles(plan: Sequence[SessionPlan]) -> list[Profile]:
    return list({one.profile.name: one.profile for one in plan}.values())


def _prepare(folder: Path, plan: Sequence[SessionPlan]) -> dict[str, dict[str, str]]:
    """The rows of labels that are there, by session; what was left half-done is removed."""
    # Compared as text, so that a tuple and the list it becomes in JSON are the same.
    ours = {one.session: json.dumps({**one._asdict(), "profile": asdict(one.profile)}) for one in plan}
    known_path = folder / PLAN
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = json.loads(known_path.read_text()) if known_path.exists() else {}
        for session in ours.keys() & known.keys():
            if known[session] != ours[session]:
                raise UsageError(
                    f"{known_path}: has another session {session}; use another folder, or the same --seed, --profiles "
                    "and --duration"
                )
        _replace(known_path, json.dumps({**known, **ours}, indent=0) + "\n")
        rows = read_rows(folder / LABELS)
        complete = {row["file"].removesuffix(TRACE_SUFFIX) for row in rows.values()}
        for path in folder.iterdir():
            stem, dot, rest = path.name.partition(".")
            if dot + rest.removesuffix(PARTIAL) in (TRACE_SUFFIX, LABELS_SUFFIX, TRUTH_SUFFIX) and stem not in complete:
                path.unlink()
    except OSError as error:
        raise OutputError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    return rows


def read_rows(labels: Path) -> dict[str, dict[str, str]]:
    """The rows of labels by session; none where there is no file."""
    if not labels.exists():
        return {}
    with labels.open(newline="") as opened:
        return {row["session"]: row for row in csv.DictReader(opened)}


def write_rows(labels: Path, rows: dict[str, dict[str, str]]) -> None:
    """Write labels anew, ordered by session; they get their name when they are complete."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[session] for session in sorted(rows))
    _replace(labels, text.getvalue())


def _replace(path: Path, content: str) -> None:
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(content)
    partial.replace(path)


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM interrupts as Ctrl-C does, so that nothing is left behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _world(clients: int, profiles: Sequence[Profile]) -> Iterator[list[Place]]:
    """Network and servers; a place for each client. The folder of a place is still to be named."""
    _CONTEXT.set_forkserver_preload(_LOADED)
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trafficrefinery-lab-")))
        network = Network(clients, host_numbers(profiles))
        stack.callback(network.close)
        with network.router.inside():  # compiles what all of them load
            Recording(WAN).finish()
        conditions = Shared(clients, CONDITIONS)
        site = make_site(work, profiles)
        log = stack.enter_context((work / "nginx.log").open("wb"))
        nginx = start_nginx(network.servers, work, site, log)
        stack.callback(nginx.wait)
        stack.callback(nginx.terminate)
        _start(stack, run_path, (network.path.path, conditions))
        _start(stack, run_servers, (network.servers.path, site))
        yield [
            Place(number, client.path, network.router.path, conditions, site.certificate.certificate, work)
            for number, client in enumerate(network.clients)
        ]


def _start(stack: contextlib.ExitStack, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Start a process and wait until it is ready."""
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    stack.callback(_end, process)
    try:
        if ours.poll(_READY_WITHIN_S):
            ours.recv()
            return
    except EOFError:
        pass
    finally:
        ours.close()
    raise TrafficRefineryError(f"{target.__name__}: does not start; its words are on the standard error")


def _end(process: Any) -> None:
    process.terminate()
    process.join(5)
    if process.is_alive():
        process.kill()
        process.join()


class _Runner:
    """Gives each free client the next session; a session that fails is tried again at the end."""

    def __init__(
        self, missing: Sequence[SessionPlan], places: Sequence[Place], rows: dict[str, dict[str, str]], labels: Path
    ) -> None:
        self._waiting = [(one, 1) for one in missing]
        self._places = {place.client: place for place in places}
        self._free = sorted(self._places, reverse=True)
        self._running: dict[int, tuple[_Running, int]] = {}
        self._rows, self._labels = rows, labels
        self._next_start_s = 0.0
        self.failed: list[str] = []

    def run(self, told: Told, sessions: int) -> list[str]:
        """Until all are done; what failed."""
        try:
            while self._waiting or self._running:
                self._start_next()
                told(len(self._rows), len(self._running), sessions)
                self._collect(0.2)
        finally:
            for running, _ in self._running.values():
                _end(running.process)
        told(len(self._rows), 0, sessions)
        return self.failed

    def _start_next(self) -> None:
        now_s = time.monotonic()
        if not self._waiting or not self._free or now_s < self._next_start_s:
            return
        self._next_start_s = now_s + _BETWEEN_STARTS_S
        plan, attempt = self._waiting.pop(0)
        client = self._free.pop()
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=run_session, args=(plan, self._places[client], theirs), daemon=True)
        process.start()
        theirs.close()
        self._running[client] = _Running(plan, client, process, ours), attempt

    def _collect(self, timeout_s: float) -> None:
        of = {running.told: client for client, (running, _) in self._running.items()}
        for ready in wait(list(of), timeout_s):
            running, attempt = self._running.pop(of[ready])  # type: ignore[index]  # only connections were waited for
            try:
                outcome = running.told.recv()
            except EOFError:
                outcome = "its process ended; its words are on the standard error"
            running.told.close()
            _end_softly(running.process)
            self._free.append(running.client)
            if isinstance(outcome, dict):
                self._rows[running.plan.session] = outcome
                write_rows(self._labels, self._rows)
            elif attempt < _TRIES:
                self._waiting.append((running.plan, attempt + 1))
            else:
                self.failed.append(f"{running.plan.session}: {outcome}")


def _end_softly(process: Any) -> None:
    process.join(10)
    _end(process)
