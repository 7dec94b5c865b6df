"""`trafficrefinery top`: a running daemon, live."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from trafficrefinery.errors import TrafficRefineryError, UsageError

if TYPE_CHECKING:
    from trafficrefinery.cli.ui.scrape import RunningDaemon

app = typer.Typer(add_completion=False, rich_markup_mode=None)
_COLUMNS = 80


@app.command(epilog="Example: trafficrefinery top --url http://127.0.0.1:9464")
def top(
    url: Annotated[
        str, typer.Option(help="URL of the daemon's listener (Metrics.Listen in its configuration).")
    ] = "http://127.0.0.1:9464",
    every: Annotated[str, typer.Option(help="Refresh interval; rates are averaged over it.")] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Print one snapshot and exit (the default in a pipe).")] = False,
) -> None:
    """Show rates, losses, services, sessions, devices and sinks of a running daemon; Ctrl-C exits."""
    from trafficrefinery.cli.ui.scrape import RunningDaemon
    from trafficrefinery.config.units import parse_duration_ns

    try:
        every_s = parse_duration_ns(every) / 1e9
    except ValueError as error:
        raise UsageError(f"--every: {error}") from error
    if every_s < 0.1:
        raise UsageError(f"--every: {every} is too often; 100ms at least")
    daemon = RunningDaemon(url)
    if once or not sys.stdout.isatty():
        _print_once(daemon, every_s)
    else:
        _watch(daemon, every_s)


def _print_once(daemon: RunningDaemon, every_s: float) -> None:
    from rich.console import Console

    from trafficrefinery.cli.ui.topview import ITEMS, View

    former = daemon.scrape(ITEMS)
    time.sleep(every_s)
    picture = View(daemon.scrape(ITEMS), former).picture(daemon.url)
    Console(width=None if sys.stdout.isatty() else _COLUMNS, highlight=False).print(picture)


def _watch(daemon: RunningDaemon, every_s: float) -> None:
    from rich.live import Live

    from trafficrefinery.cli.ui.topview import ITEMS, View

    former, scrape, notice = None, daemon.scrape(ITEMS), ""
    try:
        with Live(auto_refresh=False, screen=True) as live:
            while True:
                live.update(View(scrape, former).picture(daemon.url, notice), refresh=True)
                time.sleep(every_s)
                try:
                    former, scrape, notice = scrape, daemon.scrape(ITEMS), ""
                except TrafficRefineryError:
                    notice = notice or f"no answer since {time.strftime('%H:%M:%S')}"
    except KeyboardInterrupt:
        return
