"""Labelled traces to one table of sessions, flows or clients, interval by interval, by the same way as a replay."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from trafficrefinery.capture.sources import open_traces
from trafficrefinery.config import Config, parse_config
from trafficrefinery.config.model import MEDIA
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.models.dataset.label_rows import read_label_rows
from trafficrefinery.models.dataset.labels import RESOLUTIONS, own_targets
from trafficrefinery.models.dataset.session_labels import SessionLabels
from trafficrefinery.models.dataset.tables import FIRST_PACKETS, OPENED_BY, write_manifest, write_table
from trafficrefinery.models.dataset.unit_labels import UnitLabels
from trafficrefinery.models.targets import UNITS
from trafficrefinery.models.targets.definitions import FILE, read_targets
from trafficrefinery.models.units.views import UnitView, Wanted, open_view
from trafficrefinery.records import summary
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.records.inferences import SESSION
from trafficrefinery.records.summary.versions import sources_digest
from trafficrefinery.system.files import sha256_of
from trafficrefinery.system.progress import Progress, silent
from trafficrefinery.system.tasks import HERE, Failure, Tasks
from trafficrefinery.system.writing import make_directory

from .job import Job, Result
from .single import replay_here

NOTE = b"trafficrefinery"
"""Called with the traces that are done, and those that there are."""


class BuildOptions(NamedTuple):
    """How to build a dataset, see `trafficrefinery dataset build --help`."""

    tasks: Tasks = HERE
    resolutions: tuple[int, ...] = RESOLUTIONS
    labels: Path | None = None
    targets: Path | None = None


class Built(NamedTuple):
    """What was built.

    Args:
        unit: what its rows are about.
        traces: in the table.
        reused: traces whose part was there already.
        absent: labels of what was not found, and where they stand.
        damaged: traces that could not be read to their end, and feature classes that raised.
        failed: traces that are not in the table, and why.
        findings: what else there is to know of the traces.
    """

    unit: str
    rows: int
    traces: int
    reused: int
    absent: list[str]
    damaged: list[str]
    failed: list[str]
    manifest: Path
    findings: Sequence[summary.Finding] = ()


Labels = SessionLabels | UnitLabels
"""The labels of one trace."""


class _Part(NamedTuple):
    """One trace to be done."""

    trace: Path
    name: str  # in the directory
    labels: Labels
    sha256: str
    path: Path
    content: dict[str, Any]  # the configuration, and its file
    file: str


def labels_of(config: Config, directory: Path, options: BuildOptions) -> dict[Path, Labels]:
    """The traces in a directory and the labels of each, which are of what the targets of the label file are asked of.

    Raises:
        UsageError: label files or definitions of targets are wrong, or labels and traces do not fit.
    """
    labels_file = options.labels or _labels_in(directory)
    targets_file = options.targets or labels_file.with_name(FILE)
    defined = read_targets(targets_file) if options.targets or targets_file.exists() else {}
    targets = own_targets(read_label_rows(labels_file).columns, defined, labels_file)
    units = {target.unit: name for name, target in targets.items()} or {SESSION: ""}
    if len(units) > 1:
        told = ", ".join(f"{name} is of a {unit}" for unit, name in units.items())
        raise UsageError(
            f"{labels_file}: {told}; a dataset has rows of one of these: give each a label file of its own"
        )
    (unit,) = units
    found: dict[Path, Labels] = {}
    if unit == SESSION:
        found |= SessionLabels.of_traces(directory, labels_file, options.resolutions, defined)
    else:
        found |= UnitLabels.of_traces(directory, labels_file, unit, defined)
    view = _view(Plan.of(config), next(iter(found.values())))
    for labels in found.values():
        labels.check(view, str(labels_file), config.file)
    return found


def _labels_in(directory: Path) -> Path:
    names = [directory / f"labels.{form}" for form in ("csv", "parquet")]
    return next((path for path in names if path.exists()), names[0])


def _view(plan: Plan, labels: Labels) -> UnitView:
    targets = labels.targets if isinstance(labels, UnitLabels) else ()
    return open_view(plan, labels.unit, Wanted.of(targets))


def build(
    config: Config, directory: Path, out: Path, options: BuildOptions = BuildOptions(),  # noqa: B008 (immutable)
    progress: Progress = silent,
) -> Built:  # fmt: skip
    """Build a dataset from the traces and labels in a directory.

    Parts of traces that are done stay in `OUT.parts` until the table is complete, so that the next run goes on from
    there. Which rows a label is of, `SessionLabels.labelled` and `UnitLabels.labelled` say.

    Raises:
        UsageError: labels and traces do not fit, or the configuration collects nothing that makes sessions.
        TrafficRefineryError: no trace can be read, or none has a row with a label.
        OutputError: something cannot be written.
    """
    of_trace = labels_of(config, directory, options)
    plan = Plan.of(config)
    parts_folder = out.absolute().with_name(out.name + ".parts")
    sources = sources_digest(config.feature_paths)
    parts = []
    failed: dict[Path, Failure] = {}
    for trace, labels in of_trace.items():
        part = _part(trace, os.path.relpath(trace, directory), labels, parts_folder, config, sources)
        parts.append(part)
        if not part.sha256:
            failed[part.trace] = Failure("cannot be read")
    make_directory(out.parent)
    make_directory(parts_folder)
    waiting = [part for part in parts if not part.path.exists() and part.trace not in failed]
    progress("traces", len(parts) - len(waiting), len(parts))
    if waiting:
        Worker(plan, Aggregator(plan, 1)).warm_up()  # the others find in its cache what the compiler made
    for number, (index, outcome) in enumerate(options.tasks.run(_replay_part, waiting), len(parts) - len(waiting) + 1):
        if isinstance(outcome, Failure):
            failed[waiting[index].trace] = outcome
        progress("traces", number, len(parts))
    if len(failed) == len(parts):
        raise TrafficRefineryError("; ".join(failure.of(str(trace)) for trace, failure in failed.items()))
    return _join(parts, failed, out, config, len(parts) - len(waiting))


def _part(trace: Path, name: str, labels: Labels, folder: Path, config: Config, sources: str) -> _Part:
    """A part's file name tells all that it depends on."""
    content = config.to_dict()
    try:
        sha256 = sha256_of(trace)
    except OSError:
        sha256 = ""  # told when all others are done
    depends = json.dumps([sha256, content, labels.told(), sources])
    file = f"{trace.name}-{hashlib.sha256(depends.encode()).hexdigest()[:16]}.parquet"
    return _Part(trace.absolute(), name, labels, sha256, folder / file, content, os.path.abspath(config.file))  # noqa: PTH100 (need not exist)


def _replay_part(part: _Part) -> None:
    """Write the labelled rows of one trace."""
    plan = Plan.of(parse_config(part.content, part.file))
    view, result = _view(plan, part.labels), Result(Aggregator(plan, 1))
    job = Job(plan, (str(part.trace),), Settings())
    with open_traces(plan.config, job.paths) as reader:
        made = [view.add(batch) for batch in replay_here(job, reader, result)]
    made.append(view.finish())
    made_summary = summary.make(
        "dataset build", plan.config, result.reading, damage=result.damage, counted=result.counters,
        services=result.aggregator.totals,
    )  # fmt: skip
    whole = pa.concat_tables([view.schema.empty_table(), *(table for table in made if table is not None)])
    table, absent = part.labels.labelled(whole)
    notes = {
        UNITS[part.labels.unit].many: len(whole[UNITS[part.labels.unit].id].unique()), "intervals": len(table),
        "packets": result.counters["packets"], "damage": [str(error) for error in result.failures],
        **summary.TraceFindings.as_json(made_summary), "absent": absent,
    }  # fmt: skip
    metadata = {**(table.schema.metadata or {}), NOTE: json.dumps(notes)}
    write_table(table.replace_schema_metadata(metadata), part.path)


def _told_of(config: Config) -> dict[bytes, str]:
    """What models must know of the configuration, where its services agree in it."""
    limit, *others = {service.first_packets for service in config.services}
    told = {} if limit is None or others else {FIRST_PACKETS: str(limit)}
    opened_by = config.sessions.opened_by
    return told if opened_by == MEDIA else {**told, OPENED_BY: opened_by}


def _join(parts: Sequence[_Part], failed: Mapping[Path, Failure], out: Path, config: Config, reused: int) -> Built:
    labels, unit = parts[0].labels, parts[0].labels.unit
    targets = labels.targets if isinstance(labels, UnitLabels) else labels.own.targets
    done = [part for part in parts if part.trace not in failed]
    tables = [pq.read_table(part.path) for part in done]
    notes = [json.loads(table.schema.metadata[NOTE]) for table in tables]
    if not any(len(table) for table in tables):
        what = "video session" if unit == SESSION else f"{unit} with a label, and"
        raise TrafficRefineryError(
            f"{parts[0].trace.parent}: no trace has a {what} of a service in {config.file}; "
            "`trafficrefinery names` lists the names in a trace, and the service of each"
        )
    schema = labels.schema(_view(Plan.of(config), labels).schema)
    whole = pa.concat_tables([table.cast(schema) for table in tables])
    write_table(whole.replace_schema_metadata({**(schema.metadata or {}), **_told_of(config)}), out)
    traces = [
        {"file": str(part.trace), "name": part.name, "damage": note["damage"],
         "failure": None} for part, note in zip(done, notes, strict=True)
    ]  # fmt: skip
    traces += [
        {"file": str(trace), "name": trace.name, "damage": [], "failure": failure.of(str(trace))}
        for trace, failure in failed.items()
    ]
    more = summary.findings_of_all([summary.TraceFindings.from_json(note) for note in notes])
    for note in notes:
        del note["findings"], note["counted"]
    found = summary.make_many("dataset build", config, traces, (), more=more)
    manifest = write_manifest(out, {
        "made_by": "dataset build", "rows": len(whole), "interval_s": config.interval_ns / 1e9,
        "sources_sha256": sources_digest(config.feature_paths), "configuration": config.to_dict(),
        **({"resolutions": sorted(whole["resolution"].unique().drop_null().to_pylist())} if unit == SESSION else {}),
        "targets": [target.as_json() for target in targets],
        "traces": [{"file": part.name, "sha256": part.sha256, **note}
                   for part, note in zip(done, notes, strict=True)],
        "failed": {part.name: failed[part.trace].of(str(part.trace)) for part in parts
                   if part.trace in failed},
        "summary": found.content,
    })  # fmt: skip
    if not failed:
        shutil.rmtree(done[0].path.parent)
    together = {name: [one for note in notes for one in note[name]] for name in ("damage", "absent")}
    return Built(
        unit, len(whole), len(done), reused, together["absent"], together["damage"],
        [failure.of(str(trace)) for trace, failure in failed.items()], manifest, found.findings,
    )  # fmt: skip
