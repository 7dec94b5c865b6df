"""The daemon's sinks: which ones a configuration asks for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trafficrefinery.config import Config
from trafficrefinery.engine.worker import Plan
from trafficrefinery.records.storage.folder import FolderLock
from trafficrefinery.records.storage.recovery import recover

from .base import DaemonSink, Interval
from .json_lines import RotatingJsonLines
from .needs import check_nats
from .parquet import RotatingParquet
from .standard_output import StandardOutput

__all__ = ["DaemonSink", "Interval", "close_sinks", "open_sinks", "recover"]


def open_sinks(config: Config, plan: Plan, out_folder: Path, state_folder: Path) -> list[DaemonSink]:
    """The sinks of a configuration. Folders are theirs alone until all of them are closed.

    Args:
        out_folder: of files; has to exist when there are such sinks.
        state_folder: what is to be sent waits in its folder `nats`, which is made.

    Raises:
        FolderError: a folder is missing, cannot be written to, or another daemon writes there.
        ConfigError: what a sink needs is not installed, or not there.
    """
    settings, now_ns = config.sinks, time.time_ns()
    check_nats(config)
    opened: list[DaemonSink] = []
    try:
        if settings.json_lines.enabled or settings.parquet.enabled:
            lock = FolderLock(out_folder, "OutFolder")
            if settings.json_lines.enabled:
                opened.append(RotatingJsonLines(out_folder, settings.json_lines, lock.share(), now_ns))
            if settings.parquet.enabled:
                opened.append(RotatingParquet(out_folder, settings.parquet, lock.share(), now_ns, plan))
            lock.release()
        if settings.nats.enabled:
            opened.append(_jetstream(config, state_folder))
        if settings.standard_output.enabled:
            opened.append(StandardOutput())
    except BaseException:
        close_sinks(opened)
        raise
    return opened


def close_sinks(sinks: Sequence[DaemonSink]) -> None:
    """Close all sinks, at the same time: each may wait for some seconds for what it cannot hurry."""
    with ThreadPoolExecutor(max(len(sinks), 1), "close") as closers:
        for closing in [closers.submit(sink.close) for sink in sinks]:
            closing.result()


def _jetstream(config: Config, state_folder: Path) -> DaemonSink:
    from trafficrefinery.records.storage.spool import Spool

    from .jetstream import JetStream

    settings = config.sinks.nats
    spool = Spool(state_folder / "nats", settings.spool_bytes, "Daemon.StateFolder")
    return JetStream(settings, config.sensor, spool)
