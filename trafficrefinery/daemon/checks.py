"""What is looked at before a configuration runs: by `config check`, at the start of the daemon, and at each reload."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trafficrefinery.capture.bpf.filters import compile_filter
from trafficrefinery.capture.interfaces import find_link
from trafficrefinery.capture.rings.sockets import link_type_of
from trafficrefinery.capture.rings.xdp_sockets import why_not_here
from trafficrefinery.config import Config, format_duration
from trafficrefinery.config.daemon import split_listen
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import UsageError
from trafficrefinery.records.privacy import Anonymiser
from trafficrefinery.records.sinks.opening import check_sinks

if TYPE_CHECKING:
    from trafficrefinery.models.inference import Bundle

_ETHERNET = 1


class Warned(NamedTuple):
    """Something that is not wrong in itself, but hinders `run` here and now."""

    key: str
    message: str


def refuse(config: Config, *, live: bool = True) -> None:
    """See that `run` can work with a configuration; of its models, see `load_models_of`.

    Args:
        live: packets come from interfaces.

    Raises:
        UsageError and its kinds: what hinders it, wherever it would be run; but for what only the compiler finds.
    """
    Plan.of(config)
    Anonymiser.of(config.privacy.key_file, config.file)
    check_sinks(config)
    _check_grace(config)
    usable_cpus(config)
    if live and config.capture.filter:
        _check_filter(config)


def load_models_of(config: Config) -> list[Bundle]:
    """The models of a configuration, loaded with all checks; without any it takes neither the compiler nor tables.

    Raises:
        UsageError, BundleError: they, or parameters of session features, cannot be used, or do not fit.
    """
    plan = Plan.of(config)
    if config.sessions.parameters:
        from trafficrefinery.models.sessions import SessionRegistry

        SessionRegistry.of(plan)
    if not config.inference.models:
        return []
    from trafficrefinery.models.stream import load_models  # which takes long to import

    return load_models(Plan.of(config), config.inference.models)


def usable_cpus(config: Config) -> tuple[int, ...]:
    """The cores that workers are pinned to: those configured, else all but the first, which is left to the others.

    Raises:
        ConfigError: a core that this process may not run on.
    """
    allowed = sorted(os.sched_getaffinity(0))
    for index, cpu in enumerate(config.capture.cpus or ()):
        if cpu not in allowed:
            raise config.error(f"Capture.Cpus[{index}]", f"there is no core {cpu} to run on; allowed are {allowed}")
    return tuple(config.capture.cpus or allowed[1:] or allowed)


def _check_grace(config: Config) -> None:
    shortest_ns = min(service.interval_ns for service in config.services)
    if config.grace_ns > shortest_ns:
        raise config.error(
            "Grace",
            f"{format_duration(config.grace_ns)} is longer than the shortest interval, {format_duration(shortest_ns)}: "
            "an interval would still be open when the next one has ended; set it to that at most",
        )


def _check_filter(config: Config) -> None:
    """Compile the expression for each kind of link that it will run on; `vlan` alone needs the interface itself."""
    link_types = set()
    for name in config.capture.interfaces:
        try:
            link_types.add(link_type_of(name))
        except UsageError:  # it is not there: see `warnings`
            link_types.add(_ETHERNET)
    for link_type in sorted(link_types or {_ETHERNET}):
        try:
            compile_filter(config.capture.filter, link_type)
        except UsageError as error:
            raise config.error("Capture.Filter", str(error).removeprefix("Capture.Filter: ")) from None


def warnings(config: Config) -> list[Warned]:
    """What hinders `run` on this machine as it is now."""
    found = []
    for index, name in enumerate(config.capture.interfaces):
        try:
            find_link(name)
        except UsageError as error:
            message = str(error).removeprefix("Capture.Interfaces: ")
            found.append(Warned(f"Capture.Interfaces[{index}]", message))
    why_not = why_not_here() if config.capture.source == "afxdp" else None
    if why_not is not None:
        found.append(Warned(*why_not.split(": ", 1)))
    for key, folder in (("OutFolder", config.out_folder), ("Daemon.StateFolder", config.daemon.state_folder)):
        why = "" if folder is None else _why_not_writable(folder)
        if why:
            found.append(Warned(key, f"{folder}: {why}"))
    for index, path in enumerate(config.feature_paths):
        if path.is_dir() and not any(path.glob("*.py")):
            found.append(Warned(f"FeaturePaths[{index}]", f"{path}: has no file of a feature class"))
    if config.metrics.listen is not None:
        host, port = split_listen(config.metrics.listen)
        try:
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError as error:
            why = (error.strerror or str(error)).partition(" (while attempting")[0]
            hint = "; is the daemon running already?" if error.errno == errno.EADDRINUSE else ""
            found.append(Warned("Metrics.Listen", f"{config.metrics.listen}: cannot be listened on ({why}){hint}"))
    return found


def given_otherwise(config: Config) -> list[tuple[str, str]]:
    """Keys without which `run` starts only with an option, and that option."""
    found = [("OutFolder", "--out DIR")] if config.out_folder is None else []
    return found if config.capture.interfaces else [*found, ("Capture.Interfaces", "--interface NAME or --file PCAP")]


def _why_not_writable(folder: Path) -> str:
    """Empty for a folder that is there, or can be made, and can be written to."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"cannot be made: {there} is a file" if there != folder.absolute() else "is a file; name a directory"
    if os.access(there, os.W_OK | os.X_OK):
        try:
            with tempfile.TemporaryFile(dir=there):  # access(2) lets root write to where nobody can, such as /proc
                return ""
        except OSError as error:
            return f"cannot be written to: {error.strerror} ({there})"
    return f"cannot be written to by the user who runs this ({there})"
