"""Labelled traces to one table of session-intervals, by the same way as a replay."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from trafficrefinery.capture.sources import open_traces
from trafficrefinery.config import Config, parse_config
from trafficrefinery.engine.worker import Plan, Settings, Worker
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.models.dataset.intervals import IntervalLabel, intervals_of, with_intervals
from trafficrefinery.models.dataset.labels import RESOLUTIONS, Label, match_traces, read_labels
from trafficrefinery.models.dataset.own_columns import OwnColumns
from trafficrefinery.models.dataset.tables import (
    FIRST_PACKETS,
    write_manifest,
    write_table,
)
from trafficrefinery.models.sessions import SessionView
from trafficrefinery.models.targets.definitions import FILE, read_targets
from trafficrefinery.records import summary
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.records.summary.versions import sources_digest
from trafficrefinery.system.files import sha256_of
from trafficrefinery.system.progress import Progress, silent
from trafficrefinery.system.writing import make_directory

from .job import Job, Result
from .single import replay_here
from .tasks import HERE, Failure, Tasks

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
        traces: in the table.
        reused: traces whose part was there already.
        without_session: labelled sessions that were not found, as `FILE: SESSION`.
        damaged: traces that could not be read to their end, and feature classes that raised.
        failed: traces that are not in the table, and why.
        findings: what else there is to know of the traces.
    """

    rows: int
    traces: int
    reused: int
    without_session: list[str]
    damaged: list[str]
    failed: list[str]
    manifest: Path
    findings: Sequence[summary.Finding] = ()


class _Part(NamedTuple):
    """One trace to be done."""

    trace: Path
    labels: tuple[Label, ...]
    intervals: list[IntervalLabel]  # empty where the labels have the resolution of whole sessions
    sha256: str
    path: Path
    content: dict[str, Any]  # the configuration, and its file
    file: str
    own: OwnColumns


def build(
    config: Config, directory: Path, out: Path, options: BuildOptions = BuildOptions(),  # noqa: B008 (immutable)
    progress: Progress = silent,
) -> Built:  # fmt: skip
    """Build a dataset from the traces and labels in a directory.

    Parts of traces that are done stay in `OUT.parts` until the table is complete, so that the next run goes on from
    there. Of the sessions in a trace, or of those of the label's client, a label is of the one with the most media
    bytes; a label with a client and a start is of the one that starts next to it, and none is of two labels.

    Raises:
        UsageError: labels and traces do not fit, or the configuration collects nothing that makes sessions.
        TrafficRefineryError: no trace can be read, or none has a session.
        OutputError: something cannot be written.
    """
    labels_file = options.labels or directory / "labels.csv"
    targets_file = options.targets or labels_file.with_name(FILE)
    defined = read_targets(targets_file) if options.targets or targets_file.exists() else {}
    labels = read_labels(labels_file, options.resolutions, defined)
    traces = match_traces(directory, labels, labels_file)
    plan = Plan.of(config)
    view = _checked_view(plan, labels, labels_file)
    of_trace = {trace: tuple(label for label in labels if directory / label.file == trace) for trace in traces}
    intervals = {
        trace: intervals_of(trace, some, labels_file, options.resolutions, defined) for trace, some in of_trace.items()
    }
    own = OwnColumns.of(labels, chain(*intervals.values()), defined, str(labels_file))
    schema = own.schema(view.schema)
    parts_folder = out.absolute().with_name(out.name + ".parts")
    sources = sources_digest(config.feature_paths)
    parts = []
    failed: dict[Path, Failure] = {}
    for trace in traces:
        part = _part(trace, (of_trace[trace], intervals[trace], own), parts_folder, config, sources)
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
    return _join(parts, failed, schema, out, config, len(parts) - len(waiting))


def _checked_view(plan: Plan, labels: Sequence[Label], labels_file: Path) -> SessionView:
    view = SessionView(plan)
    file = plan.config.file
    if not view.services:
        raise UsageError(f"{file}: Services: none collects VideoSegments, which make sessions; add it to Collect")
    for label in labels:
        if label.service and label.service not in view.services:
            raise UsageError(
                f'{labels_file}: service: "{label.service}" is not a service with sessions in {file}; '
                f"there are {', '.join(view.services)}"
            )
    return view


def _part(
    trace: Path, labelled: tuple[tuple[Label, ...], list[IntervalLabel], OwnColumns], folder: Path, config: Config,
    sources: str,
) -> _Part:  # fmt: skip
    """A part's name tells all that it depends on."""
    content = config.to_dict()
    labels, intervals, own = labelled
    try:
        sha256 = sha256_of(trace)
    except OSError:
        sha256 = ""  # told when all others are done
    told = [[str(value) for value in label] for label in labels]
    depends = json.dumps([sha256, content, told, intervals, own, sources])
    name = f"{trace.name}-{hashlib.sha256(depends.encode()).hexdigest()[:16]}.parquet"
    return _Part(trace.absolute(), labels, intervals, sha256, folder / name, content, os.path.abspath(config.file), own)  # noqa: PTH100 (need not exist)


def _replay_part(part: _Part) -> None:
    """Write the session-intervals of one trace."""
    plan = Plan.of(parse_config(part.content, part.file))
    view, result = SessionView(plan), Result(Aggregator(plan, 1))
    job = Job(plan, (str(part.trace),), Settings())
    with open_traces(plan.config, job.paths) as reader:
        made = [view.add(batch) for batch in replay_here(job, reader, result)]
    made_summary = summary.make(
        "dataset build", plan.config, result.reading, damage=result.damage, counted=result.counters,
        services=result.aggregator.totals,
    )  # fmt: skip
    whole = pa.concat_tables([view.schema.empty_table(), *(batch.table for batch in made if batch is not None)])
    tables = [
        _labelled(whole, session, label, part)
        for session, label in zip(_sessions_of(pl.DataFrame(whole), part.labels), part.labels, strict=True)
    ]
    notes = {
        "sessions": len(whole["session_id"].unique()), "intervals": sum(map(len, tables)),
        "packets": result.counters["packets"], "damage": [str(error) for error in result.failures],
        **summary.TraceFindings.as_json(made_summary),
        "without_session": [f"{label.file}: {label.session}" for label, table in zip(part.labels, tables, strict=True)
                            if not len(table)],
    }  # fmt: skip
    table = pa.concat_tables(tables).cast(part.own.schema(view.schema))
    write_table(table.replace_schema_metadata({NOTE: json.dumps(notes)}), part.path)


def _labelled(table: pa.Table, session: str | None, label: Label, part: _Part) -> pa.Table:
    """The intervals of the labelled session with its labels."""
    frame = pl.DataFrame(table).filter(pl.col("session_id") == (session or ""))
    chosen = with_intervals(frame, part.intervals).to_arrow() if part.intervals else frame.to_arrow()
    given: dict[str, Any] = {name: None if value in ("", None) or value != value else value
                             for name, value in {**label._asdict(), **dict(label.groups), **dict(label.own)}.items()
                             if name not in chosen.column_names}  # fmt: skip
    fields = part.own.schema(pa.schema([]))
    columns = [
        chosen[field.name].cast(field.type)
        if field.name in chosen.column_names and field.name not in table.schema.names
        else pa.array([given.get(field.name)] * len(chosen), field.type)
        for field in fields
    ]  # fmt: skip
    features = [chosen[field.name].cast(field.type) for field in table.schema]
    return pa.table([*columns, *features], names=[*fields.names, *table.schema.names])


def _sessions_of(frame: pl.DataFrame, labels: Sequence[Label]) -> list[str | None]:
    """The session that each label means, which is that of no other; None where there is none."""
    sessions = frame.group_by("session_id", maintain_order=True).agg(
        pl.col("service", "client_ip", "session_start").first(),
        pl.col("application.segment_bytes").sum().alias("bytes"),
    )
    fits = []
    for number, label in enumerate(labels):
        by_start = label.client_ip and not math.isnan(label.session_start_s)
        for one in sessions.iter_rows(named=True):
            if label.service in ("", one["service"]) and label.client_ip in ("", one["client_ip"]):
                rank = abs(one["session_start"] - label.session_start_s) if by_start else -one["bytes"]
                fits.append((rank, number, one["session_id"]))
    found: dict[int, str] = {}
    for _, number, session in sorted(fits):
        if number not in found and session not in found.values():
            found[number] = session
    return [found.get(number) for number in range(len(labels))]


def _told_of(config: Config) -> dict[bytes, str]:
    """What models must know of the configuration, where its services agree in it."""
    limit, *others = {service.first_packets for service in config.services}
    return {} if limit is None or others else {FIRST_PACKETS: str(limit)}


def _join(
    parts: Sequence[_Part], failed: Mapping[Path, Failure], schema: pa.Schema, out: Path, config: Config, reused: int
) -> Built:
    done = [part for part in parts if part.trace not in failed]
    tables = [pq.read_table(part.path) for part in done]
    notes = [json.loads(table.schema.metadata[NOTE]) for table in tables]
    if not any(len(table) for table in tables):
        raise TrafficRefineryError(
            f"{parts[0].trace.parent}: no trace has a video session of a service in {config.file}; "
            "`trafficrefinery names` lists the names in a trace, and the service of each"
        )
    whole = pa.concat_tables([table.cast(schema) for table in tables])
    write_table(whole.replace_schema_metadata(_told_of(config)), out)
    traces = [
        {"file": str(part.trace), "name": part.labels[0].file, "damage": note["damage"],
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
        "resolutions": sorted(whole["resolution"].unique().drop_null().to_pylist()),
        "targets": [target.as_json() for target in parts[0].own.targets],
        "traces": [{"file": part.labels[0].file, "sha256": part.sha256, **note}
                   for part, note in zip(done, notes, strict=True)],
        "failed": {part.labels[0].file: failed[part.trace].of(str(part.trace)) for part in parts
                   if part.trace in failed},
        "summary": found.content,
    })  # fmt: skip
    if not failed:
        shutil.rmtree(done[0].path.parent)
    together = {name: [one for note in notes for one in note[name]] for name in ("damage", "without_session")}
    return Built(
        len(whole), len(done), reused, together["without_session"], together["damage"],
        [failure.of(str(trace)) for trace, failure in failed.items()], manifest, found.findings,
    )  # fmt: skip
