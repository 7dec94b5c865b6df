"""Labelled traces to one table of session-intervals, by the same way as a replay."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from trafficrefinery.aggregate import Aggregator
from trafficrefinery.capture.file import TraceReader
from trafficrefinery.config import Config, parse_config
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.replaying import replay_here
from trafficrefinery.sessions import SessionView
from trafficrefinery.sinks.files import make_directory
from trafficrefinery.walkthrough import Job, Result
from trafficrefinery.worker import Plan, Settings, Worker

from .intervals import IntervalLabel, check_labelled, read_intervals, with_intervals
from .labels import RESOLUTIONS, Label, match_traces, read_labels
from .tables import FIRST_PACKETS, LABEL_COLUMNS, dataset_schema, sha256_of, sources_digest, write_manifest, write_table

NOTE = b"trafficrefinery"
Told = Callable[[int, int], None]
"""Called with the traces that are done, and those that there are."""


class BuildOptions(NamedTuple):
    """How to build a dataset, see `trafficrefinery dataset build --help`."""

    workers: int = 1
    resolutions: tuple[int, ...] = RESOLUTIONS
    labels: Path | None = None


class Built(NamedTuple):
    """What was built.

    Args:
        reused: traces whose part was there already.
        without_session: traces in which no session was found.
        damaged: traces that could not be read to their end.
    """

    rows: int
    traces: int
    reused: int
    without_session: list[str]
    damaged: list[str]
    manifest: Path


class _Part(NamedTuple):
    """One trace to be done."""

    trace: Path
    label: Label
    intervals: list[IntervalLabel]  # empty where the label has the resolution of the whole session
    sha256: str
    path: Path


def build(
    config: Config, directory: Path, out: Path, options: BuildOptions = BuildOptions(),  # noqa: B008 (immutable)
    told: Told = lambda *_: None,
) -> Built:  # fmt: skip
    """Build a dataset from the traces and labels in a directory.

    Parts of traces that are done stay in `OUT.parts` until the table is complete, so that the next run goes on from
    there. Of several sessions in a trace, the one with the most media bytes is the labelled one.

    Raises:
        UsageError: labels and traces do not fit, or the configuration collects nothing that makes sessions.
        TraceError: a trace cannot be read at all.
        TrafficRefineryError: no trace has a session.
        OutputError: something cannot be written.
    """
    labels_file = options.labels or directory / "labels.csv"
    labels = read_labels(labels_file, options.resolutions)
    traces = match_traces(directory, labels, labels_file)
    intervals = _read_label_files(traces, labels, labels_file, (options.resolutions, config.interval_ns / 1e9))
    plan = Plan.of(config)
    schema = dataset_schema(_checked_view(plan, labels, labels_file).schema)
    parts_folder = out.with_name(out.name + ".parts")
    make_directory(out.parent)
    make_directory(parts_folder)
    sources = sources_digest(config.feature_paths)
    parts = [_part(*each, parts_folder, config, sources) for each in zip(traces, labels, intervals, strict=True)]
    waiting = [part for part in parts if not part.path.exists()]
    told(len(parts) - len(waiting), len(parts))
    if waiting:
        Worker(plan, Aggregator(plan, 1)).warm_up()  # the others find in its cache what the compiler made
        content, file = config.to_dict(), config.file
        work = (joblib.delayed(_replay_part)(content, file, part) for part in waiting)
        done = joblib.Parallel(n_jobs=options.workers, return_as="generator_unordered")(work)
        for number, _ in enumerate(done, len(parts) - len(waiting) + 1):
            told(number, len(parts))
    return _join(parts, schema, out, config, len(parts) - len(waiting))


def _read_label_files(
    traces: Sequence[Path], labels: Sequence[Label], labels_file: Path, valid: tuple[tuple[int, ...], float]
) -> list[list[IntervalLabel]]:
    paths = [check_labelled(trace, label, labels_file) for trace, label in zip(traces, labels, strict=True)]
    return [[] if path is None else read_intervals(path, *valid) for path in paths]


def _checked_view(plan: Plan, labels: Sequence[Label], labels_file: Path) -> SessionView:
    view = SessionView(plan)
    file = plan.config.file
    if not view.services:
        raise UsageError(f"{file}: Services: none collects VideoSegments, which make sessions; add it to Collect")
    for label in labels:
        if label.service and label.service not in view.services:
            raise UsageError(
                f'{labels_file}: service: "{label.service}" is no service with sessions of {file}; '
                f"there are {', '.join(view.services)}"
            )
    return view


def _part(
    trace: Path, label: Label, intervals: list[IntervalLabel], folder: Path, config: Config, sources: str
) -> _Part:
    """A part's name tells all that it depends on."""
    sha256 = sha256_of(trace)
    depends = json.dumps([sha256, config.to_dict(), [str(value) for value in label], intervals, sources])
    name = f"{trace.name}-{hashlib.sha256(depends.encode()).hexdigest()[:16]}.parquet"
    return _Part(trace, label, intervals, sha256, folder / name)


def _replay_part(content: dict[str, Any], file: str, part: _Part) -> None:
    """Write the session-intervals of one trace."""
    plan = Plan.of(parse_config(content, file))
    view, result = SessionView(plan), Result(Aggregator(plan, 1))
    job = Job(plan, (str(part.trace),), Settings())
    with TraceReader(job.paths) as reader:
        made = [view.add(batch) for batch in replay_here(job, reader, result)]
    whole = pa.concat_tables([view.schema.empty_table(), *(batch.table for batch in made if batch is not None)])
    table, sessions = _labelled(whole, part.label, part.intervals)
    notes = {
        "sessions": sessions, "intervals": len(table), "packets": result.counters["packets"],
        "damage": [str(error) for error in result.damage],
    }  # fmt: skip
    table = table.cast(dataset_schema(view.schema))
    write_table(table.replace_schema_metadata({NOTE: json.dumps(notes)}), part.path)


def _labelled(table: pa.Table, label: Label, intervals: list[IntervalLabel]) -> tuple[pa.Table, int]:
    """The intervals of the labelled session with its labels; and how many sessions there were."""
    frame = pl.DataFrame(table)
    if label.service:
        frame = frame.filter(pl.col("service") == label.service)
    of_session = frame.group_by("session_id", maintain_order=True).agg(pl.col("application.segment_bytes").sum())
    if len(of_session):
        largest = of_session.sort("application.segment_bytes", descending=True, maintain_order=True)["session_id"][0]
        frame = frame.filter(pl.col("session_id") == largest)
    chosen = with_intervals(frame, intervals).to_arrow() if intervals else frame.to_arrow()
    given: dict[str, Any] = {name: None if value in ("", None) or value != value else value
                             for name, value in label._asdict().items() if name not in chosen.column_names}  # fmt: skip
    columns = [
        chosen[name].cast(kind) if name in chosen.column_names and name not in table.schema.names
        else pa.array([given.get(name)] * len(chosen), kind)
        for name, (kind, _) in LABEL_COLUMNS.items()
    ]  # fmt: skip
    features = [chosen[field.name].cast(field.type) for field in table.schema]
    return pa.table([*columns, *features], names=[*LABEL_COLUMNS, *table.schema.names]), len(of_session)


def _told_of(config: Config) -> dict[bytes, str]:
    """What models must know of the configuration, where its services agree in it."""
    limit, *others = {service.first_packets for service in config.services}
    return {} if limit is None or others else {FIRST_PACKETS: str(limit)}


def _join(parts: Sequence[_Part], schema: pa.Schema, out: Path, config: Config, reused: int) -> Built:
    tables = [pq.read_table(part.path) for part in parts]
    notes = [json.loads(table.schema.metadata[NOTE]) for table in tables]
    without = [part.label.file for part, table in zip(parts, tables, strict=True) if not len(table)]
    if len(without) == len(parts):
        raise TrafficRefineryError(
            f"{parts[0].trace.parent}: no trace has a video session of a service in {config.file}; "
            "`trafficrefinery names` lists the names in a trace, and the service of each"
        )
    whole = pa.concat_tables([table.cast(schema) for table in tables])
    write_table(whole.replace_schema_metadata(_told_of(config)), out)
    manifest = write_manifest(out, {
        "made_by": "dataset build", "rows": len(whole), "interval_s": config.interval_ns / 1e9,
        "sources_sha256": sources_digest(config.feature_paths), "configuration": config.to_dict(),
        "resolutions": sorted(whole["resolution"].unique().drop_null().to_pylist()),
        "traces": [{"file": part.label.file, "sha256": part.sha256, **note}
                   for part, note in zip(parts, notes, strict=True)],
    })  # fmt: skip
    for part in parts:
        part.path.unlink()
    parts[0].path.parent.rmdir() if not any(parts[0].path.parent.iterdir()) else None
    damaged = [error for note in notes for error in note["damage"]]
    return Built(len(whole), len(parts), reused, without, damaged, manifest)
