"""`trafficrefinery replay`: recorded traces to records."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trafficrefinery.cli.ui.lines import cell
from trafficrefinery.cli.ui.many_traces import Columns, Each, many, refuse, work_on_each
from trafficrefinery.cli.ui.models import model_folder
from trafficrefinery.cli.ui.progress import Bar
from trafficrefinery.cli.ui.summary import print_findings, report_damage
from trafficrefinery.cli.ui.work import Cluster
from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.system.wording import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from trafficrefinery.cli.ui.timelines import Truth
    from trafficrefinery.replaying.job import Result

app = typer.Typer(add_completion=False, rich_markup_mode=None)
_EACH_COLUMNS: Columns = {
    name: lambda told, name=name: f"{told[name]:,}"  # type: ignore[misc]
    for name in ("packets", "attributed", "flows", "records", "sessions")
}


class Align(StrEnum):
    """What intervals are counted from."""

    EPOCH = "epoch"
    FIRST_PACKET = "first-packet"


class Format(StrEnum):
    """File format of the records."""

    JSONL = "jsonl"
    PARQUET = "parquet"


@app.command(epilog="Example: trafficrefinery replay monday.pcap.zst -c configs/video.json -o out --workers 2")
def replay(  # noqa: PLR0913, PLR0917 (each is an option)
    traces: Annotated[
        list[str],
        typer.Argument(
            metavar="PCAP...", help="pcap or pcapng, also .gz or .zst; - is stdin. Or directories, 'patterns*'."
        ),
    ],
    config: Annotated[Path, typer.Option("-c", "--config", help="Configuration file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory for the records; created if missing.")],
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Number of processes; the records are the same for any number.")
    ] = 1,
    each: Each = False,
    cluster: Cluster = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.001, help="Replay speed, as a multiple of real time; default: as fast as possible."),
    ] = None,
    align: Annotated[Align, typer.Option(help="Align intervals to the epoch, or to the first packet.")] = Align.EPOCH,
    form: Annotated[
        Format, typer.Option("--format", help="Format of the records: JSON lines or Parquet.")
    ] = Format.JSONL,
    sink: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Send the records to Sinks.NAME of the configuration too; may be repeated."),
    ] = None,
    write_pcap: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the packets of each service to DIR/SERVICE.pcap."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="BUNDLE", help="Model to run: a directory, or the name of a bundled model; repeatable."),
    ] = None,
    sessions: Annotated[
        bool, typer.Option("--sessions", help="Also write session features: one row for each session and interval.")
    ] = False,
    truth: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Labels of intervals, printed beside what is inferred.")
    ] = None,
    interpreted: Annotated[
        bool, typer.Option("--interpreted", help="Run in plain Python: slow, but breakpoints in feature classes work.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Do not show progress or the summary; summary.json is still written.")
    ] = False,
) -> None:
    """Process recorded traces: write feature records for each flow and interval, and a summary.

    Several PCAPs are merged by time into one trace, such as the pieces of a rotated capture. With directories,
    patterns in quotes, --each or --cluster, each is a trace of its own with its result in OUT/NAME, and --workers are
    traces side by side; what is done is not done again. In directories and all below them, traces are told by their
    content, whatever their names.

    The last lines report what was late, out of order, duplicated, left out, unreadable or without effect; so does
    OUT/summary.json. Exit status 1 means that records are wrong or missing.
    """
    if interpreted and os.environ.get("TRAFFICREFINERY_JIT") != "off":
        # The mode holds for a process from its start: the same command once more, with the same interpreter's options.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "TRAFFICREFINERY_JIT": "off"})
    from trafficrefinery.config import load_config

    settings = load_config(config)
    models, sinks = tuple(model_folder(one) for one in model or ()), tuple(sink or ())
    if many(traces, each, cluster):
        from trafficrefinery.replaying.batch import TraceSettings, replay_one
        from trafficrefinery.replaying.single import ReplayOptions

        refuse({"--truth": truth is not None})
        apart = None if write_pcap is None else write_pcap.absolute()
        options = ReplayOptions(1, form.value, align.value, speed, apart, models, sessions, sinks)
        with _one_line_of_errors():
            each_settings = TraceSettings.of(settings, options, out)
            work_on_each(traces, "replay", replay_one, each_settings, (workers, cluster), _EACH_COLUMNS, quiet)
        return
    with _one_line_of_errors(), Bar(quiet) as bar:
        from trafficrefinery.replaying.single import ReplayOptions, replay_to_directory

        played = None if truth is None else _read_truth(truth)
        options = ReplayOptions(workers, form.value, align.value, speed, write_pcap, models, sessions, sinks)
        result = replay_to_directory(settings, traces, out, options, bar)
    if not quiet:
        _print_summary(result, out / f"records.{form.value}", write_pcap, played)
    report_damage(result.failures)


def _read_truth(file: Path) -> Truth:
    from trafficrefinery.cli.ui.timelines import read_truth  # with the room of models, which others do without

    return read_truth(file)


@contextlib.contextmanager
def _one_line_of_errors() -> Iterator[None]:
    """What stopped the replay, and what is left of its records, as one error. A request to end is an interrupt too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, TrafficRefineryError) as error:
        notes = getattr(error, "__notes__", [])
        if isinstance(error, TrafficRefineryError) and not notes:
            raise
        stopped = TrafficRefineryError("; ".join([str(error) or "interrupted", *notes]))
        stopped.exit_code = getattr(error, "exit_code", 1)
        raise stopped from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_summary(result: Result, records: Path, write_pcap: Path | None, played: Truth | None) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = _table(result)
    if table.row_count:
        console.print(table)
    elif result.counters["packets"]:
        console.print(
            "No flow belongs to a service of the configuration; `trafficrefinery names` lists the names seen."
        )
    if result.timelines is not None and result.timelines.kept:
        from trafficrefinery.cli.ui.timelines import timeline_table  # with the room of models

        console.print(timeline_table(result.timelines, sum(result.sessions.values()), played))
    _print_counts(console, result)
    console.print(f"records: {one_line(records)}", markup=False, soft_wrap=True)
    for file in result.more_files:
        console.print(f"{file.stem}: {one_line(file)}", markup=False, soft_wrap=True)
    if write_pcap is not None:
        _print_extracted(console, result, write_pcap)
    print_findings(result.summary.findings, records.parent)


def _print_extracted(console: Console, result: Result, directory: Path) -> None:
    packets, traces = sum(result.extracted.values()), len(result.extracted)
    console.print(
        f"packets: {packets:,} in {traces} trace{'' if traces == 1 else 's'} in {one_line(directory)}",
        markup=False,
        soft_wrap=True,
    )


def _table(result: Result) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    titles = ["service", "identified by", "flows", "packets", "bytes", "segments", "records"]
    for title in [*titles, *(["sessions"] if result.sessions else [])]:
        text = title in ("service", "identified by")
        table.add_column(title, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for name, totals in result.aggregator.totals.items():
        if totals.packets:
            by = ", ".join(f"{how} {count:,}" for how, count in sorted(totals.matched_by.items(), key=lambda x: -x[1]))
            segments = "–" if totals.segments is None else f"{totals.segments:,}"
            table.add_row(
                cell(name), by, f"{totals.flows:,}", f"{totals.packets:,}", f"{totals.bytes:,}", segments,
                f"{totals.records:,}", *([f"{result.sessions.get(name, 0):,}"] if result.sessions else []),
            )  # fmt: skip
    return table


def _print_counts(console: Console, result: Result) -> None:
    from trafficrefinery.packets.parser import REASONS

    counters = result.counters
    packets = counters["packets"]
    if not packets:
        console.print("no packets")
        return
    reasons = ", ".join(f"{counters[reason]:,} {reason.replace('_', ' ')}" for reason in REASONS if counters[reason])
    console.print(f"{packets:,} packets ({reasons})")
    rate = packets / result.path_s if result.path_s > 0 else 0.0
    console.print(
        f"{rate:,.0f} packets/s in the packet path ({result.path_s:.2f} s), {result.total_s:.2f} s with everything"
    )
    if result.compile_s > 1:
        console.print(f"compiled feature classes in {result.compile_s:.0f} s (cached for the next run)")
