"""Many traces, each a task with a folder of its own for the result: what is done is not done again."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trafficrefinery import replaying
from trafficrefinery.config import Config, parse_config
from trafficrefinery.dataset.labels import is_trace
from trafficrefinery.dataset.tables import sha256_of, sources_digest
from trafficrefinery.errors import OutputError, TrafficRefineryError, UsageError
from trafficrefinery.inference import load_bundle
from trafficrefinery.inference.bundle import check
from trafficrefinery.sinks.files import PARTIAL, make_directory
from trafficrefinery.tasks import Failure, Tasks
from trafficrefinery.worker import Plan

if TYPE_CHECKING:
    from trafficrefinery.profiling.profile import Options as ProfileOptions

DONE = "done.json"
"""Written last, with what the result depends on, and a summary of it."""
_MAGIC = "*?["


class Settings(NamedTuple):
    """How each trace is worked on.

    Args:
        content: of the configuration.
        file: of the configuration, for messages.
        options: of a replay, or of a profile.
    """

    content: dict[str, Any]
    file: str
    options: Any  # replaying.Options or ProfileOptions

    @classmethod
    def of(cls, config: Config, options: replaying.Options | ProfileOptions) -> Settings:
        """Settings that can be used, whatever the trace, and from any working directory.

        Raises:
            FeatureError, BundleError: classes or models cannot be used, or do not fit.
        """
        plan = Plan.of(config)
        for model in options.models or config.inference.models:
            check(load_bundle(model), plan)
        absolute = options._replace(models=tuple(model.absolute() for model in options.models))
        return cls(config.to_dict(), os.path.abspath(config.file), absolute)  # noqa: PTH100 (need not exist)

    @property
    def config(self) -> Config:
        return parse_config(self.content, self.file)

    @property
    def digest(self) -> str:
        """Of all that a result depends on but the trace: sources, configuration, options, models."""
        config = self.config
        bundles = self.options.models or config.inference.models
        models = [sha256_of(path) for bundle in bundles for path in sorted(bundle.iterdir())]
        told = json.dumps([sources_digest(config.feature_paths), self.content, repr(self.options), models])
        return hashlib.sha256(told.encode()).hexdigest()


Work = Callable[[str, Path, Settings], dict[str, Any]]
"""Called with a trace and the folder of its result; returns a summary as JSON values."""


class Done(NamedTuple):
    """What became of a trace.

    Args:
        outcome: the summary of its result, or why there is none.
        reused: it was there from an earlier run.
    """

    trace: str
    folder: Path
    outcome: dict[str, Any] | Failure
    reused: bool


class _Task(NamedTuple):
    work: Work
    trace: str
    folder: Path
    settings: Settings
    key: str


def are_many(arguments: Sequence[str]) -> bool:
    """Whether a directory or a pattern is among what may be traces."""
    return any(Path(one).is_dir() or _is_pattern(one) for one in arguments)


def _is_pattern(argument: str) -> bool:
    return any(character in argument for character in _MAGIC) and not os.path.lexists(argument)


def find_traces(arguments: Sequence[str]) -> list[str]:
    """Absolute paths of traces, each once: files, those in directories, and those of patterns such as `x/**/*.pcap`.

    Raises:
        UsageError: there are none in a directory, or of a pattern, or a file does not exist.
    """
    found: dict[str, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            some = sorted(one for one in path.iterdir() if is_trace(one) and one.is_file())
            if not some:
                raise UsageError(f"{argument}: has no traces; their names end in .pcap, .pcapng or .cap (.gz, .zst)")
        elif _is_pattern(argument):
            some = sorted(one for one in map(Path, glob.glob(argument, recursive=True)) if one.is_file())  # noqa: PTH207
            if not some:
                raise UsageError(f"{argument}: no file has such a name")
        elif path.is_file():
            some = [path]
        else:
            raise UsageError(f"{argument}: no such file; each trace is read for itself, and must be a file")
        found |= dict.fromkeys(str(one.absolute()) for one in some)
    return list(found)


def each_trace(tasks: Tasks, traces: Sequence[str], out: Path, work: Work, settings: Settings) -> Iterator[Done]:
    """Do some work for each trace, in `OUT/NAME` with the trace's name; yields what became of them, as it comes.

    Args:
        traces: as `find_traces` gives them; those of several directories keep the names of these below `out`.

    Raises:
        UsageError: `settings` cannot be used.
        OutputError: `out` cannot be written to.
        TrafficRefineryError: nothing can run any more, see `tasks`.
    """
    make_directory(out)
    common = os.path.commonpath([Path(trace).parent for trace in traces])
    digest = settings.digest
    waiting = []
    for trace in traces:
        folder = out.absolute() / os.path.relpath(trace, common)
        status = Path(trace).stat()
        told = json.dumps([trace, status.st_size, status.st_mtime_ns, digest])
        key = hashlib.sha256(told.encode()).hexdigest()
        outcome = _outcome_of(folder, key)
        if outcome is None:
            waiting.append(_Task(work, trace, folder, settings, key))
        else:
            yield Done(trace, folder, outcome, reused=True)
    for number, outcome in tasks.run(_do, waiting):
        yield Done(waiting[number].trace, waiting[number].folder, outcome, reused=False)


def _outcome_of(folder: Path, key: str) -> dict[str, Any] | None:
    try:
        told = json.loads((folder / DONE).read_bytes())
    except (OSError, ValueError):
        return None
    outcome: dict[str, Any] = told["outcome"]
    return outcome if told["key"] == key else None


def _do(task: _Task) -> dict[str, Any]:
    """Body of a task."""
    make_directory(task.folder)
    done = task.folder / DONE
    done.unlink(missing_ok=True)
    try:
        outcome = task.work(task.trace, task.folder, task.settings)
    except TrafficRefineryError:
        with contextlib.suppress(OSError):  # what is in it stays
            task.folder.rmdir()
        raise
    partial = done.with_name(DONE + PARTIAL)
    try:
        partial.write_text(json.dumps({"key": task.key, "outcome": outcome}, indent=1) + "\n")
        partial.replace(done)
    except OSError as error:
        raise OutputError(f"{done}: cannot be written: {error.strerror}") from error
    return outcome


def replay_one(trace: str, folder: Path, settings: Settings) -> dict[str, Any]:
    """Replay a trace; see `replaying.replay_to_directory`."""
    options: replaying.Options = settings.options
    if options.write_pcap is not None:
        options = options._replace(write_pcap=options.write_pcap / folder.name)
    result = replaying.replay_to_directory(settings.config, [trace], folder, options)
    services = {name: total for name, total in result.aggregator.totals.items() if total.packets}
    return {
        "packets": result.counters["packets"], "attributed": result.counters["attributed"],
        "flows": sum(total.flows for total in services.values()),
        "records": sum(total.records for total in services.values()),
        "sessions": sum(result.sessions.values()), "services": list(services),
        "damage": [str(error) for error in result.damage],
    }  # fmt: skip


def profile_one(trace: str, folder: Path, settings: Settings) -> dict[str, Any]:
    """Profile a trace; see `profiling.profile.profile`."""
    from trafficrefinery.profiling.profile import profile  # which takes long to import
    from trafficrefinery.profiling.writing import write_costs

    costs = profile(settings.config, [trace], folder, settings.options)
    write_costs(costs, folder)
    records = costs["storage"]["all_classes"]["bytes_per_record"]
    return {
        "packets": costs["trace"]["packets"], "flows": costs["trace"]["flows"],
        "state_bytes": max(one["state_bytes"] for one in costs["steps"].values()),
        "ns_per_packet": costs["end_to_end"]["measured_ns"], "record_bytes": records["jsonl"],
        "damage": costs["trace"]["damage"],
    }  # fmt: skip
