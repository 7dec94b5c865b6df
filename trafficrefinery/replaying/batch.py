"""Many traces, each a task with a folder of its own for the result: what is done is not done again."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trafficrefinery.capture.traces.discovery import (
    Found,
    LeftOut,
    each_once,
    files_below,
    look_at,
    pieces,
    traces_among,
)
from trafficrefinery.config import Config, parse_config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.records import summary
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.records.summary.versions import sources_digest
from trafficrefinery.system.files import read_json, sha256_of
from trafficrefinery.system.tasks import Failure, Tasks
from trafficrefinery.system.writing import make_directory, write_file

from . import single

DONE = "done.json"
"""Written last, with what the result depends on, and a summary of it."""
_MAGIC = "*?["


class TraceSettings(NamedTuple):
    """How each trace is worked on.

    Args:
        content: of the configuration.
        file: of the configuration, for messages.
        options: of a replay, or of a profile.
        out: where the folders of results are.
    """

    content: dict[str, Any]
    file: str
    options: Any  # of the work: `single.ReplayOptions`, or those of a profile
    out: Path

    @classmethod
    def of(cls, config: Config, options: Any, out: Path) -> TraceSettings:
        """Settings that can be used, whatever the trace, and from any working directory.

        Raises:
            UsageError, FeatureError, BundleError: options, classes or models cannot be used, or do not fit.
        """
        plan = Plan.of(config)
        if isinstance(options, single.ReplayOptions):
            single.check(plan, options)
        models = options.models or config.inference.models
        if models:
            from trafficrefinery.models.stream import load_models  # which takes long to import

            load_models(plan, models)
        absolute = options._replace(models=tuple(model.absolute() for model in options.models))
        return cls(config.to_dict(), os.path.abspath(config.file), absolute, out.absolute())  # noqa: PTH100 (need not exist)

    @property
    def config(self) -> Config:
        return parse_config(self.content, self.file)

    @property
    def places(self) -> list[Path]:
        """Directories that hold results, in which no traces are looked for."""
        packets: Path | None = getattr(self.options, "write_pcap", None)
        return [self.out] if packets is None else [self.out, packets]

    @property
    def digest(self) -> str:
        """Of all that a result depends on but the trace: sources, configuration, options, models."""
        config = self.config
        bundles = self.options.models or config.inference.models
        files = [path for bundle in bundles for path in sorted(bundle.iterdir())]
        files += [] if config.privacy.key_file is None else [Path(config.privacy.key_file)]
        read = [sha256_of(path) for path in files]
        told = json.dumps([sources_digest(config.feature_paths), self.content, repr(self.options), read])
        return hashlib.sha256(told.encode()).hexdigest()


Work = Callable[[str, Path, TraceSettings], dict[str, Any]]
"""Called with a trace and the folder of its result; returns a summary as JSON values."""


class Done(NamedTuple):
    """What became of a trace.

    Args:
        trace: its path.
        name: of the trace, and of the folder with its result.
        outcome: the summary of its result, or why there is none.
        reused: it was there from an earlier run.
    """

    trace: str
    name: str
    outcome: dict[str, Any] | Failure
    reused: bool


class _Task(NamedTuple):
    work: Work
    trace: str
    folder: Path
    settings: TraceSettings
    key: str


def are_many(arguments: Sequence[str]) -> bool:
    """Whether a directory or a pattern is among what may be traces."""
    return any(Path(one).is_dir() or _is_pattern(one) for one in arguments)


def _is_pattern(argument: str) -> bool:
    return any(character in argument for character in _MAGIC) and not os.path.lexists(argument)


class GivenTraces(NamedTuple):
    """The traces that arguments mean.

    Args:
        names: absolute path of each, and what it is called below the place of the results; in the order of time.
        left_out: files that are not read, and why.
    """

    names: dict[str, str]
    left_out: list[LeftOut]


def find_traces(arguments: Sequence[str], without: Sequence[Path] = ()) -> GivenTraces:
    """The traces that are to be worked on, each for itself, ordered by the times of their first packets.

    Args:
        arguments: files, which keep their names; directories and patterns such as `x/**/*.pcap`, whose traces keep
            their place below them. What is a trace in a directory or of a pattern is told by its content.
        without: directories of results, which are not looked into.

    Raises:
        UsageError: there are none in a directory, or of a pattern; a file does not exist; two have one name.
    """
    left_out: list[LeftOut] = []
    found: list[tuple[Found, str]] = []
    for argument in arguments:
        base, some = _traces_of(argument, without, left_out)
        found += [(one, os.path.relpath(one.path, base)) for one in some]
    found.sort(key=lambda one: (one[0].first_ns is None, one[0].first_ns or 0, one[1]))
    kept, twice = each_once([os.path.abspath(one.path) for one, _ in found])  # noqa: PTH100 (without `..`)
    left_out += twice
    wanted = set(kept)
    names: dict[str, str] = {}
    for one, name in found:
        path = os.path.abspath(one.path)  # noqa: PTH100
        if path in wanted:
            names.setdefault(path, name)
    _see_that_names_differ(list(names.values()))
    return GivenTraces(names, left_out)


def _traces_of(argument: str, without: Sequence[Path], left_out: list[LeftOut]) -> tuple[Path, list[Found]]:
    """The traces of one argument, and the directory that their names are relative to."""
    path, before = Path(argument), len(left_out)
    if path.is_dir():
        base, some = path, list(traces_among(files_below(path, without, left_out), left_out))
        if not some:
            others = left_out[before:]
            seen = f"; left out: {others[0].file} {others[0].why}" if others else ""
            more = f", and {len(others) - 1} more" if len(others) > 1 else ""
            raise UsageError(f"{argument}: has no traces, neither in it nor below it{seen}{more}")
    elif _is_pattern(argument):
        fixed = itertools.takewhile(lambda part: not any(one in part for one in _MAGIC), path.parts)
        base = Path(*fixed)
        files = sorted(one for one in map(Path, glob.glob(argument, recursive=True)) if one.is_file())  # noqa: PTH207
        some = list(traces_among(files, left_out))
        if not some:
            raise UsageError(f"{argument}: {'no file of that name is a trace' if files else 'no file has such a name'}")
    elif path.is_file():
        base, some = path.parent, [Found(path, look_at(path)[0])]
    else:
        raise UsageError(f"{argument}: no such file; each trace is processed separately, and must be a file")
    return base, some


def _see_that_names_differ(names: Sequence[str]) -> None:
    """No result may be in the place of another, or inside it."""
    taken = set(names)
    for name in names:
        inside = [str(parent) for parent in Path(name).parents if str(parent) in taken]
        if names.count(name) > 1 or inside:
            raise UsageError(
                f"{inside[0] if inside else name}: two traces have this name; give the directory above them, as "
                "'DIRECTORY/**/*.pcap'"
            )
        if name == summary.FILE:
            raise UsageError(f"{name}: a trace cannot have the name of the summary; rename it")


def each_trace(tasks: Tasks, traces: Mapping[str, str], work: Work, settings: TraceSettings) -> Iterator[Done]:
    """Do some work for each trace, in a folder with its name; yields what became of them, as it comes.

    Args:
        traces: as `find_traces` gives them.

    Raises:
        OutputError: the place of the results cannot be written to.
        TrafficRefineryError: nothing can run any more, see `tasks`.
    """
    make_directory(settings.out)
    digest = settings.digest
    waiting = []
    for trace, name in traces.items():
        folder, status = settings.out / name, Path(trace).stat()
        told = json.dumps([trace, status.st_size, status.st_mtime_ns, digest])
        key = hashlib.sha256(told.encode()).hexdigest()
        outcome = _outcome_of(folder, key)
        if outcome is None:
            waiting.append(_Task(work, trace, folder, settings, key))
        else:
            yield Done(trace, name, outcome, reused=True)
    if waiting and tasks.width > 1:
        plan = Plan.of(settings.config)
        Worker(plan, Aggregator(plan, 1)).warm_up()  # the others find in its cache what the compiler made
    for number, outcome in tasks.run(_do, waiting):
        trace = waiting[number].trace
        yield Done(trace, traces[trace], outcome, reused=False)


def summary_of(
    command: str, found: Sequence[Done], left_out: Sequence[LeftOut], settings: TraceSettings
) -> summary.Summary:
    """What there is to know of all traces together; each has a summary of its own beside its result."""
    parts = [summary.TraceFindings.from_json(done.outcome) for done in found if not isinstance(done.outcome, Failure)]
    config = settings.config
    traces = [
        {"file": done.trace, "name": done.name, "reused": done.reused,
         "failure": done.outcome.of(done.name) if isinstance(done.outcome, Failure) else None,
         "damage": [] if isinstance(done.outcome, Failure) else done.outcome["damage"]}
        for done in found
    ]  # fmt: skip
    return summary.make_many(
        command, config, traces, left_out, models=settings.options.models or config.inference.models,
        more=[*_pieces([done.trace for done in found]), *summary.findings_of_all(parts)],
    )  # fmt: skip


def _pieces(traces: Sequence[str]) -> list[summary.Finding]:
    """Rotated files of one capture: a flow that goes on in the next file ends at the border."""
    items = tuple(f"{shlex.quote(stem)}*" for stem in pieces(traces))
    if not items:
        return []
    message = (
        "{} [capture|captures] in pieces, each of which was processed separately, so that flows end where a piece ends"
    )
    remedy = "to take the pieces of one as one, name them as files and not as a directory or a pattern in quotes"
    return [summary.Finding("pieces", summary.WARNING, len(items), 0, message, remedy, items)]


def _outcome_of(folder: Path, key: str) -> dict[str, Any] | None:
    try:
        told = read_json(folder / DONE)
        outcome: dict[str, Any] = told["outcome"]
        return outcome if told["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
    write_file(done, json.dumps({"key": task.key, "outcome": outcome}, indent=1) + "\n")
    return outcome


def replay_one(trace: str, folder: Path, settings: TraceSettings) -> dict[str, Any]:
    """Replay a trace; see `single.replay_to_directory`."""
    options: single.ReplayOptions = settings.options
    if options.write_pcap is not None:
        options = options._replace(write_pcap=options.write_pcap / folder.relative_to(settings.out))
    result = single.replay_to_directory(settings.config, [trace], folder, options)
    services = {name: total for name, total in result.aggregator.totals.items() if total.packets}
    return {
        "packets": result.counters["packets"], "attributed": result.counters["attributed"],
        "flows": sum(total.flows for total in services.values()),
        "records": sum(total.records for total in services.values()),
        "sessions": sum(result.sessions.values()), "services": list(services),
        "damage": [str(error) for error in result.failures],
        **summary.TraceFindings.as_json(result.summary),
    }  # fmt: skip
