"""A summary from what a run knows: its reader, its counters, its configuration and its models."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trafficrefinery.capture.traces.discovery import LeftOut
from trafficrefinery.config import Config, format_duration
from trafficrefinery.engine.trace_clock import Times
from trafficrefinery.errors import TraceError, TrafficRefineryError
from trafficrefinery.packets.parser import REASONS

from . import counters, effects
from .findings import ERROR, NOTE, SILENT_SERVICES, WARNING, Finding, in_order, together
from .summary_file import SCHEMA
from .versions import versions

if TYPE_CHECKING:
    from trafficrefinery.capture.traces.reader import ReadTrace, TraceReader
    from trafficrefinery.records.aggregate import ServiceTotals

_NS = 1e9
_ONE_SIDED = "one_sided_flows"


class Reading(NamedTuple):
    """What the reader of traces saw, and what the worker decided of their times.

    Args:
        traces: those that were read.
        left_out: files that were named and not read.
        duplicates: frames that were seen before.
    """

    traces: Mapping[str, ReadTrace] = {}
    times: Times = Times()
    left_out: Sequence[LeftOut] = ()
    duplicates: int = 0

    @classmethod
    def of(cls, reader: TraceReader, times: Times, left_out: Sequence[LeftOut] = ()) -> Reading:
        """What a reader saw so far, and a worker decided."""
        return cls(reader.traces, times, tuple(left_out), reader.duplicates_total)


class Summary(NamedTuple):
    """What there is to know at the end of a run.

    Args:
        content: JSON values; see the description of `summary` for their layout.
        findings: those in it, the worst first.
    """

    content: Mapping[str, Any] = {}
    findings: Sequence[Finding] = ()


def make(  # noqa: PLR0913 (keywords: each a part of the summary)
    command: str, config: Config | None, reading: Reading, *, damage: Sequence[TrafficRefineryError] = (),
    counted: Mapping[str, int] | None = None, services: Mapping[str, ServiceTotals] | None = None,
    models: Sequence[Path] = (), more: Sequence[Finding] = (), extra: Mapping[str, Any] | None = None,
) -> Summary:  # fmt: skip
    """The summary of a run.

    Args:
        command: as a user writes it, such as `dataset build`.
        counted: packets by reason, and other counters.
        services: what was found of each.
        more: findings that only the command knows.
        extra: further members of the summary, such as the number of records.
    """
    counted, damaged = counted or {}, [one for one in damage if isinstance(one, TraceError)]
    found = in_order([
        *_damage(damaged), *counters.findings_of(counted), *_order(reading, counted, config),
        *_duplicates(reading, config, counted), *_left_out(reading.left_out), *_one_sided_of(services),
        *_silent_services(services), *more,
        *(effects.findings_of(config, command) if config is not None else ()),
    ])  # fmt: skip
    return Summary({
        "schema": SCHEMA, "kind": "summary", "command": command, "versions": versions(),
        "configuration": None if config is None else {"file": config.file, "sha256": digest_of(config)},
        "models": _models(models),
        "traces": [_trace(file, trace) for file, trace in reading.traces.items()], "times": _times(reading.times),
        "left_out": [one._asdict() for one in reading.left_out],
        "damage": [{"file": one.file, "position": one.position, "message": one.message} for one in damaged],
        "packets": {"total": counted.get("packets", 0), "duplicates": reading.duplicates,
                    "by_reason": {name: counted[name] for name in REASONS if name in counted}},
        "counters": {name: count for name, count in counted.items() if name not in REASONS},
        "services": {name: _service(totals) for name, totals in (services or {}).items()},
        **(extra or {}),
        "findings": [finding.to_json() for finding in found],
        "complete": not any(finding.severity == ERROR for finding in found),
    }, found)  # fmt: skip


def make_many(
    command: str, config: Config, traces: Sequence[Mapping[str, Any]], left_out: Sequence[LeftOut], *,
    models: Sequence[Path] = (), more: Sequence[Finding] = (),
) -> Summary:  # fmt: skip
    """The summary of a run in which each trace has a result, and a summary, of its own.

    Args:
        traces: each with `file`, `name`, `reused`, `failure` (null, or why there is no result) and `damage`.
    """
    failed = tuple(one["failure"] for one in traces if one["failure"])
    failures = [Finding(
        "failed", ERROR, len(failed), len(traces), "{} [trace|traces] could not be read, and [has|have] no result",
        "run again, and only these are done again", failed,
    )] if failed else []  # fmt: skip
    found = in_order([*failures, *_left_out(left_out), *more])
    return Summary({
        "schema": SCHEMA, "kind": "summaries", "command": command, "versions": versions(),
        "configuration": {"file": config.file, "sha256": digest_of(config)}, "models": _models(models),
        "traces": list(traces), "left_out": [one._asdict() for one in left_out],
        "findings": [finding.to_json() for finding in found],
        "complete": not any(finding.severity == ERROR for finding in found),
    }, found)  # fmt: skip


class TraceFindings(NamedTuple):
    """What one of many traces adds to the findings of all.

    Args:
        counted: its counters, and the `flows` of services.
    """

    findings: Sequence[Finding]
    counted: Mapping[str, int]

    @classmethod
    def as_json(cls, summary: Summary) -> dict[str, Any]:
        """The findings in the summary of a trace, as JSON values for `from_json`."""
        flows = sum(totals["flows"] for totals in summary.content["services"].values())
        return cls(list(summary.findings), {**summary.content["counters"], "flows": flows})._asdict()

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> TraceFindings:
        """From JSON values."""
        return cls([Finding._make((*one[:-1], tuple(one[-1]))) for one in told["findings"]], told["counted"])


def findings_of_all(parts: Sequence[TraceFindings]) -> list[Finding]:
    """The findings of many traces, with shares of what there is in all of them."""
    counted: Counter[str] = Counter()
    for part in parts:
        counted.update(part.counted)
    totals = defaultdict(lambda: counted["packets"], {_ONE_SIDED: counted["flows"]})
    totals |= {name: counted[words.of] for name, words in counters.WORDS.items()}
    found = together([part.findings for part in parts], totals)
    one_sided = sum(one.number for one in found if one.name == _ONE_SIDED)
    return in_order([*(one for one in found if one.name != _ONE_SIDED), *_one_sided(one_sided, counted["flows"])])


def _models(folders: Sequence[Path]) -> list[dict[str, Any]]:
    return [{"folder": str(folder), "sha256": _digest_of_model(folder)} for folder in folders]


def digest_of(config: Config) -> str:
    """SHA-256 of the effective configuration, whatever its file looks like."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()


def _digest_of_model(folder: Path) -> str | None:
    """Of the manifest, which holds the digests of all other files of a model."""
    try:
        return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    except OSError:  # it was removed since it was loaded
        return None


def _trace(file: str, trace: ReadTrace) -> dict[str, Any]:
    return {"file": file, "packets": trace.packets, "first": _seconds(trace.first_ns), "backward": trace.backward}


def _times(times: Times) -> dict[str, Any]:
    return {
        "first": _seconds(times.first_ns), "latest": _seconds(times.latest_ns),
        "most_behind_s": times.most_behind_ns / _NS,
        "steps_back": [{"from": _seconds(step.from_ns), "to": _seconds(step.to_ns)} for step in times.steps_back],
    }  # fmt: skip


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / _NS


def _service(totals: ServiceTotals) -> dict[str, Any]:
    return {
        "flows": totals.flows, "packets": totals.packets, "bytes": totals.bytes, "records": totals.records,
        "segments": totals.segments, "one_sided": totals.one_sided,
        "matched_by": dict(sorted(totals.matched_by.items())),
    }  # fmt: skip


def _damage(damage: Sequence[TraceError]) -> list[Finding]:
    files = tuple(dict.fromkeys(str(one) for one in damage))
    message = "{} [trace is|traces are] damaged, and the records end there"
    return [Finding("damaged", ERROR, len(damage), 0, message, "copy or capture them again", files)] if damage else []


def _order(reading: Reading, counted: Mapping[str, int], config: Config | None) -> list[Finding]:
    """What the worker decided; the reader knows only in which of the traces the packets are not stored in order."""
    grace = "1s" if config is None else format_duration(config.grace_ns)
    behind, set_back = counted.get("out_of_order", 0), counted.get("clock_set_back", 0)
    found = []
    if behind:
        most_s = reading.times.most_behind_ns / _NS
        files = tuple(file for file, trace in reading.traces.items() if trace.backward)
        found.append(Finding(
            "out_of_order", WARNING, behind, counted.get("packets", 0),
            f"{{}} [packet is|packets are] older than packets before by more than Grace ({grace}), "
            f"by up to {most_s:,.1f} s",
            "sort the trace by time: reordercap IN OUT", files,
        ))  # fmt: skip
    if set_back:
        found.append(Finding(
            "clock_set_back", WARNING, set_back, 0,
            "the clock of the packets was set back {} [time|times], and the intervals began again there",
            "where files were joined in the wrong order, sort the trace by time: reordercap IN OUT",
            tuple(f"at {_utc(step.from_ns)} by {(step.from_ns - step.to_ns) / _NS:,.1f} s"
                  for step in reading.times.steps_back),
        ))  # fmt: skip
    return found


def _utc(ns: int) -> str:
    return datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _duplicates(reading: Reading, config: Config | None, counted: Mapping[str, int]) -> list[Finding]:
    if not reading.duplicates or config is None:
        return []
    dropped = config.capture.duplicates == "drop"
    of = sum(one.packets for one in reading.traces.values()) or counted.get("packets", 0)
    became = "[was|were] left out as duplicates" if dropped else "[counts|count] like all others"
    remedy = "" if dropped else 'leave them out with "Capture": {"Duplicates": "drop"}'
    severity = NOTE if dropped else WARNING
    seen = "[frame was|frames were] seen within the millisecond before already, and"
    return [Finding("duplicates", severity, reading.duplicates, of, f"{{}} {seen} {became}", remedy)]


def _left_out(left_out: Sequence[LeftOut]) -> list[Finding]:
    if not left_out:
        return []
    twice = [one for one in left_out if "is the same file as" in one.why]
    others = [one for one in left_out if one not in twice]
    found = []
    if twice:
        message = "{} [file was|files were] named again, and read once"
        found.append(Finding("named_twice", WARNING, len(twice), 0, message, "", _told(twice)))
    if others:
        found.append(Finding("left_out", NOTE, len(others), 0, "{} [file was|files were] left out", "", _told(others)))
    return found


def _told(left_out: Sequence[LeftOut]) -> tuple[str, ...]:
    return tuple(f"{one.file} ({one.why})" for one in left_out)


def _one_sided_of(services: Mapping[str, ServiceTotals] | None) -> list[Finding]:
    totals = (services or {}).values()
    return _one_sided(sum(one.one_sided for one in totals), sum(one.flows for one in totals))


def _one_sided(one_sided: int, flows: int) -> list[Finding]:
    if not one_sided:
        return []
    many = 2 * one_sided > flows
    remedy = "capture both directions, such as both ports of a tap" if many else ""
    message = "{} [flow|flows] of services [shows|show] one side only, the client's or the server's, at the beginning"
    return [Finding(_ONE_SIDED, WARNING if many else NOTE, one_sided, flows, message, remedy)]


def _silent_services(services: Mapping[str, ServiceTotals] | None) -> list[Finding]:
    silent = tuple(name for name, totals in (services or {}).items() if not totals.packets)
    if not silent:
        return []
    message = "{} [service|services] saw no packet"
    return [Finding(SILENT_SERVICES, NOTE, len(silent), 0, message,
                    "`trafficrefinery names` lists the names that a trace has", silent)]  # fmt: skip
