"""Which sinks a configuration asks for; opened and closed together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trafficrefinery.config import Config
from trafficrefinery.config.sinks import sink_class
from trafficrefinery.errors import FolderError, OutputError
from trafficrefinery.records.storage.folder import SPOOL
from trafficrefinery.system.writing import PARTIAL, output_error

from .base import Interval, Place, Sink
from .json_lines import JsonLinesSink

_POLL_S = 0.05


def check_sinks(config: Config) -> None:
    """What the sinks of a configuration need has to be there.

    Raises:
        ConfigError: it names the key.
    """
    for key, settings in config.sinks.enabled.items():
        sink_class(key).check(settings, config, f"Sinks.{key}")


def open_sinks(config: Config, place: Place) -> list[Sink]:
    """The daemon's sinks of a configuration, in its order. Folders are theirs alone until all of them are closed.

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
        for closing in [closers.submit(sink.attempt, sink.close) for sink in sinks]:
            closing.result()


def file_sink(key: str, place: Place) -> Sink:
    """A sink into files that do not rotate, with its defaults.

    Raises:
        OutputError: a file cannot be written.
    """
    with _refused(key):
        sink: Sink = sink_class(key)(sink_class(key).Settings(), place)
        return sink


class ReplaySinks:
    """The sinks of a replay: files that do not rotate, and any others. What one of them refuses is raised.

    Args:
        key: of the sink into files. What it has no place for, as Parquet for the summaries of intervals, is JSON lines.
        others: keys of sinks that get the records too, with the settings of the configuration.

    Raises:
        OutputError: a file cannot be written.
        ConfigError, FolderError: see `open_sinks`.
    """

    def __init__(self, config: Config, place: Place, key: str, others: Sequence[str] = ()) -> None:
        self._sinks: list[Sink] = []
        made = [(key, sink_class(key).Settings(), place)]
        made += [(other, config.sinks.section(other), place) for other in others if other != key]
        if "JSONLines" not in (key, *others):
            left = (kind for kind, file in (place.files or {}).items() if file.schema is None)
            made.append(("JSONLines", JsonLinesSink.Settings(), place.only(*left)))
        try:
            for name, settings, where in made:
                sink_class(name).check(settings, config, f"Sinks.{name}")
                with _refused(name):
                    self._sinks.append(sink_class(name)(settings, where))
        except BaseException:
            self.abandon()
            raise

    def write(self, interval: Interval) -> None:
        """Hand an interval to all of them.

        Raises:
            OutputError: one of them cannot take it.
        """
        for sink in self._sinks:
            sink.write(interval)
            raise_refused(sink)

    def close(self) -> None:
        """Wait for what is on its way, as long as it moves, and give the files their names.

        Raises:
            OutputError: not all of it is where it belongs.
        """
        for sink in self._sinks:
            while sink.waiting_bytes and not sink.failing:
                time.sleep(_POLL_S)
            sink.close()
            raise_refused(sink)
            if sink.waiting_bytes:
                raise OutputError(f"{sink.name}: {sink.waiting_bytes:,} bytes could not be sent")

    def abandon(self) -> Path | None:
        """Keep what is whole, under partial names; where the records are, if they are in a file."""
        left = [sink.abandon() for sink in self._sinks]
        return next((path for path in left if path is not None), None)


@contextlib.contextmanager
def _refused(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _output_error(error, name) from error


def raise_refused(sink: Sink) -> None:
    """What a sink refused, for a run that is to end by it.

    Raises:
        OutputError: the sink failed, or has dropped records.
    """
    error = sink.error
    if isinstance(error, OSError):
        raise _output_error(error, sink.name) from error
    if error is not None:
        raise error
    if sink.dropped_total:
        raise OutputError(f"{sink.name}: {sink.dropped_total:,} records were not taken")


def _output_error(error: OSError, name: str) -> OutputError:
    return output_error(error, str(error.filename or name).removesuffix(PARTIAL).removesuffix(SPOOL))
