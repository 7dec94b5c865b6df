"""`trafficrefinery run`: the daemon."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: trafficrefinery run -c configs/video.json -o records --interface eth1")
def run(
    config: Annotated[Path, typer.Option("-c", "--config", help="Configuration file.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Directory for the records; default: OutFolder.")
    ] = None,
    interface: Annotated[
        list[str] | None,
        typer.Option("-i", "--interface", help="Interface to capture on, instead of Capture.Interfaces; repeatable."),
    ] = None,
    trace: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="PCAP", help="Recorded trace to read instead of capturing; repeatable."),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Replay speed for --file, as a multiple of real time; default: as fast as possible."
        ),
    ] = None,
) -> None:
    """Capture until a signal arrives; write records every interval and serve metrics and queries.

    SIGTERM writes the last interval and exits; SIGHUP reloads the configuration; SIGUSR1 rotates the files.

    At the end, summary.json beside the records, and the last lines in a terminal or the log, say what was lost, late,
    left out, damaged or without effect. Status 1: records are wrong or missing.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # idle threads of NumPy would keep what the process gives up
    from trafficrefinery.daemon.startup import RunOptions
    from trafficrefinery.daemon.supervisor import supervise

    raise typer.Exit(supervise(RunOptions(config, out, tuple(interface or ()), tuple(trace or ()), speed)))
