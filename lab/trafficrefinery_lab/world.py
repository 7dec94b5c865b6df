"""Network and servers of the lab, and the processes in it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.jit.shared_memory import Shared
from trafficrefinery.system.processes import end

from .namespaces import Namespace, command_path
from .network import WAN, Network
from .path import CONDITIONS, run_path
from .profiles import Profile
from .recording import Recording
from .servers import host_numbers, make_site, run_servers, start_nginx
from .session import Place

CONTEXT = multiprocessing.get_context("forkserver")  # what a session needs is loaded once, not by each
_LOADED = ["trafficrefinery_lab.session", "trafficrefinery_lab.servers", "trafficrefinery_lab.path"]
_READY_WITHIN_S = 60.0
_PROGRAMS = {"ip": "iproute2", "tc": "iproute2", "ethtool": "ethtool", "nginx": "nginx"}


def check_system() -> None:
    """That this machine can run the lab.

    Raises:
        UsageError: no root, or a program is missing.
    """
    if os.geteuid() != 0:
        raise UsageError("trafficrefinery lab run: makes network namespaces and needs root; run it with sudo")
    for name, package in _PROGRAMS.items():
        command_path(name, package)
    Namespace().close()


@contextlib.contextmanager
def world(clients: int, profiles: Sequence[Profile]) -> Iterator[list[Place]]:
    """Network and servers, while the block lasts; a place for each client, whose folder is a temporary one.

    Raises:
        TrafficRefineryError: something does not start.
    """
    CONTEXT.set_forkserver_preload(_LOADED)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_stopped_by_sigterm())
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trafficrefinery-lab-")))
        network = Network(clients, host_numbers(profiles))
        stack.callback(network.close)
        with network.router.inside():  # compiles what all of them load
            Recording(WAN).finish()
        conditions = Shared(clients, CONDITIONS)
        stack.callback(conditions.close)
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


def _start(stack: contextlib.ExitStack, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Start a process and wait until it is ready."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    stack.callback(end, process)
    with ours, contextlib.suppress(EOFError):
        if ours.poll(_READY_WITHIN_S):
            ours.recv()
            return
    raise TrafficRefineryError(f"{target.__name__}: does not start; its words are on the standard error")
