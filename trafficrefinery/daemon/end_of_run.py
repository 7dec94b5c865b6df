"""The end of a run: what the status board, the aggregator and the readers of traces know becomes one summary.

It is `summary.json` beside the records, as `replay` writes it. In a terminal, its findings are lines on standard error;
elsewhere, as in the journal, errors and warnings are an event each, with their level, and one more event has the
numbers and the place of the file. A reload ends the run of one configuration, and begins that of the next.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trafficrefinery.engine.trace_clock import Times
from trafficrefinery.errors import OutputError, TraceError
from trafficrefinery.records import summary
from trafficrefinery.records.summary import ERROR, NOTE, WARNING, Finding, Reading, Summary, effects
from trafficrefinery.system.wording import one_line

from . import logs
from .status import Board, counted

if TYPE_CHECKING:
    from trafficrefinery.capture.traces.discovery import LeftOut
    from trafficrefinery.capture.traces.reader import ReadTrace, TraceReader
    from trafficrefinery.records.aggregate import Aggregator


class Reported(NamedTuple):
    """What a worker says of the traces that it has read, and of times; all workers read the same traces.

    Args:
        damage: (file, position, message) of each trace that could not be read to its end.
    """

    traces: Mapping[str, ReadTrace] = {}
    damage: Sequence[tuple[str, int | None, str]] = ()
    times: Times = Times()

    @classmethod
    def of(cls, reader: TraceReader, times: Times) -> Reported:
        """What a reader saw, and a worker decided."""
        return cls(reader.traces, [(one.file, one.position, one.message) for one in reader.damage], times)


def counters_of(board: Board) -> dict[str, int]:
    """The counters of all workers and of the DNS process, by name."""
    total: Counter[str] = Counter()
    for record in (*board.workers, *([board.names] if board.names["pid"] else [])):
        total.update(counted(record))
    return dict(total)


def summary_of(
    board: Board, aggregator: Aggregator, reported: Sequence[Reported], left_out: Sequence[LeftOut], *, live: bool
) -> Summary:
    """What there is to know at the end of a run.

    Args:
        aggregator: with all records.
        reported: by workers that read traces.
        left_out: traces that were named and not read.
        live: packets came from interfaces.
    """
    config = aggregator.plan.config
    most = max(reported, key=lambda one: len(one.traces), default=Reported())
    damage = dict.fromkeys(one for reader in reported for one in reader.damage)
    return summary.make(
        effects.RUN if live else effects.RUN_FILE, config,
        Reading(most.traces, most.times, tuple(left_out), int(board.workers["duplicates_total"].sum())),
        damage=[TraceError(*one) for one in damage], counted=counters_of(board), services=aggregator.totals,
        models=config.inference.models, more=_findings(board, aggregator), extra={"records": aggregator.records},
    )  # fmt: skip


def _findings(board: Board, aggregator: Aggregator) -> list[Finding]:
    """What only a daemon has: losses on the way to it and inside it."""
    workers = board.workers
    drops, received = int(workers["kernel_drops_total"].sum()), int(workers["received_total"].sum())
    rows = int(workers["dropped_rows_total"].sum() + workers["refused_rows_total"].sum())
    restarts = int(workers["restarts_total"].sum() + board.aggregator["restarts_total"])
    dropped = int(board.aggregator["sinks"]["dropped_total"].sum())
    found = [
        Finding("kernel_drops", WARNING, drops, drops + received,
                "{} [packet was|packets were] dropped by the kernel, and [is|are] in no record",
                "give Capture more Workers or a larger RingSize"),
        Finding("dropped_rows", ERROR, rows, rows + aggregator.records,
                "{} [record is|records are] missing, as too much waited to be written", "raise Daemon.MaxWaiting"),
        Finding("sink_drops", ERROR, dropped, 0, "{} [record was|records were] not taken by a sink, and given up"),
        Finding("restarts", WARNING, restarts, 0,
                "{} [process was|processes were] restarted, and what was in [it|them] is missing; numbers of services "
                "are those since then", "look for the reason in the log"),
        Finding("incomplete_intervals", WARNING, int(board.aggregator["incomplete_total"]),
                int(board.aggregator["intervals_total"]), "{} [interval is|intervals are] not free of losses",
                "`loss_free` is false there, in the records of intervals"),
        Finding("infinite_values", NOTE, aggregator.infinite_values, 0,
                "{} infinite [value|values] of features became null"),
    ]  # fmt: skip
    return [finding for finding in found if finding.number]


def report(made: Summary, folder: Path) -> int:
    """Write the summary and print, or log, what is in it; the number of errors: why records are wrong or missing."""
    errors = [finding for finding in made.findings if finding.severity == ERROR]
    try:
        file = summary.write(made.content, folder)
    except OutputError as error:
        logs.error(str(error))
        return len(errors) + 1
    packets, records = made.content["packets"]["total"], made.content["records"]
    if sys.stderr.isatty():
        lines = [f"{finding.severity}: {finding.line}" for finding in made.findings]
        block = (f"{packets:,} packets, {records:,} records", *lines, f"summary: {file}")
        sys.stderr.write("".join(f"{one_line(line)}\n" for line in block))
        return len(errors)
    warnings = [finding for finding in made.findings if finding.severity == WARNING]
    for finding in errors:
        logs.error(finding.line, finding=finding.name)
    for finding in warnings:
        logs.warning(finding.line, finding=finding.name)
    notes = len(made.findings) - len(errors) - len(warnings)
    logs.info(
        "end of the run", packets=packets, records=records, errors=len(errors), warnings=len(warnings), notes=notes,
        summary=file,
    )  # fmt: skip
    return len(errors)
