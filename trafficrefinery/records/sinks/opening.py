"""Which sinks a configuration asks for; opened and closed together."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from trafficrefinery.config import Config
from trafficrefinery.config.sinks import sink_class
from trafficrefinery.errors import FolderError

from .base import Place, Sink


def check_sinks(config: Config) -> None:
    """What the sinks of a configuration need has to be there.

    Raises:
        ConfigError: it names the key.
    """
    for key, settings in config.sinks.enabled.items():
        sink_class(key).check(settings, config, f"Sinks.{key}")


def open_sinks(config: Config, place: Place) -> list[Sink]:
    """The sinks of a configuration, in its order. Folders are theirs alone until all of them are closed.

    Raises:
        FolderError: a folder is missing, cannot be written to, or another daemon writes there.
        ConfigError: what a sink needs is not installed, or not there.
    """
    check_sinks(config)
    opened: list[Sink] = []
    try:
        for key, settings in config.sinks.enabled.items():
            try:
                opened.append(sink_class(key)(settings, place))
            except OSError as error:
                raise FolderError(f"Sinks.{key}: cannot be opened: {error.strerror or error}") from error
    except BaseException:
        close_sinks(opened)
        raise
    finally:
        place.release()
    return opened


def close_sinks(sinks: Sequence[Sink]) -> None:
    """Close all sinks, at the same time: each may wait for some seconds for what it cannot hurry."""
    with ThreadPoolExecutor(max(len(sinks), 1), "close") as closers:
        for closing in [closers.submit(sink.close) for sink in sinks]:
            closing.result()
