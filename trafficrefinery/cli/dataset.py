"""`trafficrefinery dataset`: tables of labelled session-intervals."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trafficrefinery.cli.work import number_list

if TYPE_CHECKING:
    from trafficrefinery.dataset.build import Told

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make tables of labelled session-intervals.",
    epilog="Example: trafficrefinery dataset build traces -c configs/video.json -o data.parquet",
)

Resolutions = Annotated[
    str | None, typer.Option(metavar="240,360,...", help="Resolutions that are valid, in place of the usual ones.")
]


@app.command(epilog="Example: trafficrefinery dataset build traces -c configs/video.json -o data.parquet --workers 2")
def build(  # noqa: PLR0913, PLR0917 (each is an option)
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory with the traces.")],
    config: Annotated[Path, typer.Option("-c", "--config", help="Configuration file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Parquet file to write.")],
    labels: Annotated[Path | None, typer.Option(help="Labels as CSV; default: DIR/labels.csv.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes, each with traces of its own.")] = 1,
    resolutions: Resolutions = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar, no summary.")] = False,
) -> None:
    """Turn labelled traces into one table of session-intervals.

    Labels have the columns file, session, video_id, resolution, and optionally site, service, startup_s,
    session_start_s. Where resolution is empty, a file NAME.labels.csv beside the trace NAME.pcap has one for each
    interval; intervals that it has none for are in the table without one.

    A build that was stopped goes on where it was.
    """
    from trafficrefinery.config import load_config
    from trafficrefinery.dataset.build import BuildOptions
    from trafficrefinery.dataset.build import build as build_dataset
    from trafficrefinery.dataset.labels import RESOLUTIONS

    options = BuildOptions(workers, number_list(resolutions or "", "--resolutions") or RESOLUTIONS, labels)
    with _progress(quiet) as told:
        built = build_dataset(load_config(config), directory, out, options, told)
    for damage in built.damaged:
        typer.echo(f"note: {damage}; what comes before is in the table", err=True)
    for file in built.without_session:
        typer.echo(f"note: {file}: no video session in it", err=True)
    if not quiet:
        reused = f", {built.reused} of them done before" if built.reused else ""
        typer.echo(f"{built.rows:,} session-intervals of {built.traces:,} traces{reused}")
        typer.echo(f"data: {out}\nmanifest: {built.manifest}")


@app.command("import", epilog="Example: trafficrefinery dataset import video_dataset.pkl -o video.parquet")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.pkl", help="Pickled pandas DataFrame, also of Python 2.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Parquet file to write.")],
    resolutions: Resolutions = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No summary.")] = False,
) -> None:
    """Turn a published table of session-intervals into one with the columns of this program.

    Nothing that the file holds is run. Rows without a valid resolution are left out, and so are columns that identify
    a session, come from the label, tell the date, or are broken; the manifest says why for each.
    """
    from trafficrefinery.dataset.importing import RESOLUTIONS, import_published

    made = import_published(file, out, number_list(resolutions or "", "--resolutions") or RESOLUTIONS)
    if quiet:
        return
    labels = "" if made.labelled else ", without labels"
    typer.echo(f"{made.rows:,} session-intervals{labels}; {made.invalid:,} left out, whose resolution is not valid")
    reasons: dict[str, list[str]] = {}
    for name, reason in made.dropped.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in sorted(reasons.items()):
        typer.echo(
            f"{len(names)} columns dropped: {reason} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        )
    typer.echo(f"data: {out}\nmanifest: {made.manifest}")


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Told]:
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("traces"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("traces", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
