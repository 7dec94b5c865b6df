"""`trafficrefinery replay`: recorded traces to records."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trafficrefinery.replay import Progress, Result

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Align(StrEnum):
    """What intervals are counted from."""

    EPOCH = "epoch"
    FIRST_PACKET = "first-packet"


class Format(StrEnum):
    """File format of the records."""

    JSONL = "jsonl"
    PARQUET = "parquet"


@app.command(epilog="Example: trafficrefinery replay monday.pcap.zst -c configs/video.json -o out --workers 2")
def replay(
    traces: Annotated[list[str], typer.Argument(metavar="PCAP...", help="pcap or pcapng, also .gz or .zst; - is stdin.")],
    config: Annotated[Path, typer.Option("-c", "--config", help="Configuration file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory for the records; made when missing.")],
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes; the records do not depend on it.")] = 1,
    speed: Annotated[float | None, typer.Option(min=0.001, help="Times real time; default: as fast as possible.")] = None,
    align: Annotated[Align, typer.Option(help="Intervals on the grid of the epoch, or from the first packet.")] = Align.EPOCH,
    form: Annotated[Format, typer.Option("--format", help="Records as JSON lines or Parquet.")] = Format.JSONL,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar and no summary.")] = False,
) -> None:
    """Process recorded traces: feature records of each flow of a service and interval, and a summary."""
    from trafficrefinery.config import load_config

    settings = load_config(config)
    with _Bar(quiet) as bar:
        from trafficrefinery.replay import replay_to_directory

        result = replay_to_directory(
            settings, traces, out, workers=workers, form=form.value, align=align.value, speed=speed,
            progress=bar.update,
        )  # fmt: skip
    if not quiet:
        _print_summary(result, out, form.value)
    for damage in result.damage:
        raise damage


class _Bar:
    """Packets, packets/s and percent on a terminal; nothing in a pipe."""

    def __init__(self, quiet: bool) -> None:
        self._on = not quiet and sys.stderr.isatty()
        self.update: Progress = self._update if self._on else lambda *_: None

    def __enter__(self) -> _Bar:
        if self._on:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[packets]:,} packets, {task.fields[rate]:,.0f} packets/s"),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("compiling", total=None, packets=0, rate=0.0)
            self._first: tuple[float, int] | None = None
            self._last = 0.0
        return self

    def _update(self, packets: int, position: int, total: int | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now, packets
        if now - self._last < 0.1:
            return
        self._last = now
        seconds, before = now - self._first[0], self._first[1]
        rate = (packets - before) / seconds if seconds > 0 else 0.0
        self._bar.update(
            self._task, description="replaying", completed=position, total=total, packets=packets, rate=rate
        )

    def __exit__(self, *_: object) -> None:
        if self._on:
            self._bar.stop()


def _print_summary(result: Result, out: Path, form: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for title in ("service", "identified by", "flows", "packets", "bytes", "segments", "records"):
        table.add_column(title, justify="left" if title in ("service", "identified by") else "right")
    for name, totals in result.aggregator.totals.items():
        if totals.packets:
            by = ", ".join(f"{how} {count:,}" for how, count in sorted(totals.matched_by.items(), key=lambda x: -x[1]))
            segments = "–" if totals.segments is None else f"{totals.segments:,}"
            table.add_row(
                name, by, f"{totals.flows:,}", f"{totals.packets:,}", f"{totals.bytes:,}", segments,
                f"{totals.records:,}",
            )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 120)
    if table.row_count:
        console.print(table)
    else:
        console.print("No flow belongs to a service of the configuration; `trafficrefinery names` lists the names seen.")
    _print_counts(console, result)
    console.print(f"records: {out / ('records.' + form)}", highlight=False)


def _print_counts(console: object, result: Result) -> None:
    from trafficrefinery.wire import REASONS

    counters = result.counters
    packets = counters["packets"]
    reasons = ", ".join(f"{counters[reason]:,} {reason}" for reason in REASONS if counters[reason])
    rate = packets / result.path_s if result.path_s > 0 else 0.0
    print_ = console.print  # type: ignore[attr-defined]  # rich's Console, imported late
    print_(f"{packets:,} packets ({reasons})" if packets else "no packets", highlight=False)
    print_(
        f"{rate:,.0f} packets/s in the packet path ({result.path_s:.2f} s), {result.total_s:.2f} s with everything",
        highlight=False,
    )
    if result.aggregator.infinite_values:
        print_(f"{result.aggregator.infinite_values:,} infinite values became null", highlight=False)
