"""The end of a run: what the status board, the aggregator and the readers of traces know becomes one summary.

It is `summary.json` beside the records, as `replay` writes it. In a terminal, its findings are lines on standard error;
elsewhere, as in the journal, errors and warnings are an event each, with their level, and one more event has the
numbers and the place of the file. A run lasts as long as the daemon: what was counted before a reload is part of it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trafficrefinery.engine.trace_clock import Times
from trafficrefinery.errors import OutputError, TraceError
from trafficrefinery.records import summary
from trafficrefinery.records.summary import ERROR, NOTE, WARNING, Finding, Reading, Summary, effects
from trafficrefinery.system.wording import one_line

from . import logs

if TYPE_CHECKING:
    from trafficrefinery.capture.traces.discovery import LeftOut
    from trafficrefinery.capture.traces.reader import ReadTrace, TraceReader
    from trafficrefinery.config import Config

    from .run_totals import Totals


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


def summary_of(
    config: Config, totals: Totals, reported: Sequence[Reported], left_out: Sequence[LeftOut], *, live: bool
) -> Summary:
    """What there is to know at the end of a run.

    Args:
        config: the last one.
        totals: since the start of the daemon.
        reported: by workers that read traces.
        left_out: traces that were named and not read.
        live: packets came from interfaces.
    """
    most = max(reported, key=lambda one: len(one.traces), default=Reported())
    damage = dict.fromkeys(one for reader in reported for one in reader.damage)
    return summary.make(
        effects.RUN if live else effects.RUN_FILE, config,
        Reading(most.traces, most.times, tuple(left_out), totals.numbers["duplicates"]),
        damage=[TraceError(*one) for one in damage], counted=totals.counted, services=totals.services,
        models=config.inference.models, more=_findings(totals.numbers), extra={"records": totals.numbers["records"]},
    )  # fmt: skip


def _findings(numbers: Mapping[str, int]) -> list[Finding]:
    """What only a daemon has: losses on the way to it and inside it."""
    drops, rows = numbers["kernel_drops"], numbers["dropped_rows"]
    found = [
        Finding("kernel_drops", WARNING, drops, drops + numbers["received"],
                "{} [packet was|packets were] dropped by the kernel, and [is|are] in no record",
                "give Capture more Workers or a larger RingSize"),
        Finding("dropped_rows", ERROR, rows, rows + numbers["records"],
                "{} [record is|records are] missing, as too much waited to be written", "raise Daemon.MaxWaiting"),
        Finding("sink_drops", ERROR, numbers["sink_drops"], 0,
                "{} [record was|records were] not taken by a sink, and given up"),
        Finding("restarts", WARNING, numbers["restarts"], 0,
                "{} [process was|processes were] restarted, and what was in [it|them] is missing",
                "look for the reason in the log"),
        Finding("incomplete_intervals", WARNING, numbers["incomplete_intervals"], numbers["intervals"],
                "{} [interval is|intervals are] not free of losses",
                "`loss_free` is false there, in the records of intervals"),
        Finding("infinite_values", NOTE, numbers["infinite_values"], 0,
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
