"""What is checked before a configuration runs: at the start of the daemon, and at each reload."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trafficrefinery.capture.interfaces import TAKING_TAGS, receive_offloads
from trafficrefinery.config import Config, load_config
from trafficrefinery.config.daemon import Capture
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import ConfigError, OutputError, UsageError
from trafficrefinery.records.summary import effects
from trafficrefinery.system import processes
from trafficrefinery.system.writing import make_directory

from . import checks, logs
from .workers import ring_size

if TYPE_CHECKING:
    from .channels.sessions import Models


class RunOptions(NamedTuple):
    """The command line of `trafficrefinery run`."""

    config: Path
    out: Path | None = None
    interfaces: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    speed: float | None = None


class Prepared(NamedTuple):
    """A configuration that can run, its folders, and what there is to know of its models."""

    plan: Plan
    out_folder: Path
    state_folder: Path
    models: Models | None


def prepare(options: RunOptions) -> Prepared:
    """Load a configuration with its feature classes and check what only the daemon needs.

    Raises:
        UsageError and its kinds: what hinders it.
    """
    if options.speed is not None and not options.traces:
        raise UsageError("--speed requires --file")
    if options.interfaces and options.traces:
        raise UsageError("--interface: packets come from --file; give one of the two")
    config = load_config(options.config)
    if options.interfaces:
        given = {**config.capture.model_dump(by_alias=True, mode="json"), "Interfaces": options.interfaces}
        config = config.model_copy(update={"capture": Capture.model_validate(given)})
    checks.refuse(config, live=not options.traces)
    plan = Plan.of(config)
    out = options.out or config.out_folder
    if out is None:
        raise ConfigError(config.file, "OutFolder", "is missing; set it, or give --out DIR")
    prepared = Prepared(plan, out, _state_folder(config), _models(config))
    for folder in (prepared.out_folder, prepared.state_folder):
        try:
            make_directory(folder)
        except OutputError as error:
            raise UsageError(str(error)) from error
    return prepared


def _models(config: Config) -> Models | None:
    """What there is to know of models. They are loaded apart: only the inference worker keeps them in memory."""
    if not (config.inference.models or config.sessions.parameters):
        return None
    found: Models | str | None = processes.apart(_load_models, config)
    if isinstance(found, str):
        raise UsageError(found)
    return found


def _load_models(config: Config) -> Models | str | None:
    """The same, or why they cannot be used."""
    from trafficrefinery.models.inference import Predictor
    from trafficrefinery.models.units.views import wanted_by

    from .channels.sessions import Models
    from .status import Answers

    try:
        bundles = checks.load_models_of(config)
        return Models(Answers.of(Predictor(bundles).labels_of), wanted_by(bundles)) if bundles else None
    except UsageError as error:
        return str(error)


def _state_folder(config: Config) -> Path:
    if config.daemon.state_folder is not None:
        return config.daemon.state_folder
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "trafficrefinery"


def refuse_unloadable(new: Prepared, old: Prepared) -> None:
    """What a reload cannot change.

    Raises:
        ConfigError: it names the key.
    """
    config, before = new.plan.config, old.plan.config
    is_xdp = "afxdp" in (config.capture.source, before.capture.source)
    changed = {
        "OutFolder": new.out_folder != old.out_folder,
        "Daemon.StateFolder": new.state_folder != old.state_folder,
        "Metrics.Listen": config.metrics.listen != before.metrics.listen,
        # Nobody can have an interface's queues twice, or capture beside who takes its packets away.
        "Capture": is_xdp and config.capture != before.capture,
        "Decapsulate": is_xdp and config.decapsulate != before.decapsulate,
    }
    for key, is_changed in changed.items():
        if is_changed:
            raise config.error(key, "has changed, which a reload does not take over; restart the daemon")


def warn_of_small_rings(config: Config, workers: int) -> None:
    """Rings that do not hold the stated rate while a worker that hangs is replaced."""
    small = ring_size.warning(config, workers)
    if small is not None:
        logs.warning(small)


def warn_of_keys(config: Config, *, live: bool) -> None:
    """Keys that are set and change nothing are in the log, so that nobody waits for their effect."""
    for unused in effects.without_effect(config, effects.RUN if live else effects.RUN_FILE):
        logs.warning(f"a key of the configuration has no effect: {unused.why}", key=unused.key)


def warn_of_offloads(config: Config) -> None:
    """A mirror port with receive offloads shows merged frames that were never on the wire."""
    for name in config.capture.interfaces:
        offloads = receive_offloads(name)
        if offloads:
            logs.warning(
                f"receive offloads merge frames that were never on the wire so; turn them off: ethtool -K {name} "
                + " ".join(f"{offload} off" for offload in offloads),
                interface=name,
            )
        taking = receive_offloads(name, TAKING_TAGS) if config.capture.source == "afxdp" else []
        if taking:
            logs.warning(
                f"AF_XDP does not see VLAN tags that the interface takes off; leave them on: ethtool -K {name} "
                + " ".join(f"{offload} off" for offload in taking),
                interface=name,
            )
