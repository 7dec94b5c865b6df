"""`trafficrefinery dataset`: tables of labelled sessions, flows or clients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.cli.ui.progress import Bar
from trafficrefinery.cli.ui.summary import print_findings
from trafficrefinery.cli.ui.work import Cluster, Jobs, number_list
from trafficrefinery.system.tasks import tasks

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Build tables of labelled sessions, flows or clients.",
    epilog="Example: trafficrefinery dataset build traces -c configs/video.json -o data.parquet",
)


@app.callback()
def _group() -> None:
    """Other distributions add commands, so it is a group of its one command too."""


Resolutions = Annotated[
    str | None, typer.Option(metavar="240,360,...", help="Valid resolutions, instead of the usual ones.")
]


@app.command(epilog="Example: trafficrefinery dataset build traces -c configs/video.json -o data.parquet --workers 2")
def build(  # noqa: PLR0913, PLR0917 (each is an option)
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory with the traces.")],
    config: Annotated[Path, typer.Option("-c", "--config", help="Configuration file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Parquet file to write.")],
    labels: Annotated[Path | None, typer.Option(help="Labels as CSV or Parquet; default: DIR/labels.csv.")] = None,
    targets: Annotated[
        Path | None,
        typer.Option(help="Definitions of your own targets as JSON; default: targets.json beside the labels."),
    ] = None,
    workers: Jobs = 1,
    cluster: Cluster = None,
    resolutions: Resolutions = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show progress or the summary.")] = False,
) -> None:
    """Turn labelled traces into one table of sessions, flows or clients, a row for each interval.

    Labels of sessions have the columns file, session, video_id, resolution, and optionally site, service, startup_s,
    session_start_s, client_ip (for traces of several clients, with a line for each session). Where resolution is
    empty, a file NAME.labels.csv beside the trace NAME.pcap has one for each interval; intervals that it has none for
    are in the table without one.

    A column label.NAME, in either file, has the labels of a target of your own; file and session are then enough beside
    it. Labels are classes, unless targets.json defines an ordinal target or a quantity. A column group.NAME has groups
    for --group of `train`.

    Where targets.json says of the targets that their unit is flow or client, labels have no sessions: a line is of all
    flows, or clients, of which the columns that it fills in are true: file, service, client_ip, client_port, server_ip,
    server_port, protocol, flow_id, community_id, and ts_start and ts_end for the time in which it holds.

    An interrupted build resumes where it stopped. Unreadable traces are left out of the table and reported.
    """
    from trafficrefinery.config import load_config
    from trafficrefinery.models.dataset.labels import RESOLUTIONS
    from trafficrefinery.replaying.labelled import BuildOptions
    from trafficrefinery.replaying.labelled import build as build_dataset

    valid = number_list(resolutions or "", "--resolutions") or RESOLUTIONS
    settings = load_config(config)
    with Bar(quiet) as bar, tasks(workers, cluster) as side_by_side:
        built = build_dataset(settings, directory, out, BuildOptions(side_by_side, valid, labels, targets), bar)
    for damage in built.damaged:
        say(f"note: {damage}; the rest is in the table", err=True)
    for absent in built.absent:
        say(f"note: {absent}", err=True)
    for failure in built.failed:
        say(f"error: {failure}; the trace is not in the table", err=True)
    if not quiet:
        reused = f", {built.reused} of them done before" if built.reused else ""
        say(f"{built.rows:,} {built.unit}-intervals of {built.traces:,} traces{reused}")
        say(f"data: {out}")
        say(f"manifest: {built.manifest}")
        print_findings(built.findings)
    if built.failed:
        raise typer.Exit(1)
