"""`trafficrefinery evaluate`: how good a model is on a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.cli.ui.progress import Bar
from trafficrefinery.cli.ui.work import Cluster, Group, Jobs, LeaveOut, names, warn_of
from trafficrefinery.system.tasks import tasks

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: trafficrefinery evaluate model data.parquet -o report")
def evaluate(  # noqa: PLR0913, PLR0917 (each is an option)
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Model directory, or the name of a bundled model.")],
    data: Annotated[Path, typer.Argument(metavar="DATA.parquet", help="Dataset, see `trafficrefinery dataset`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory for report.html, plots/ and metrics.json.")],
    group: Group = "",
    leave_out: LeaveOut = None,
    workers: Jobs = 1,
    cluster: Cluster = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show progress or the summary.")] = False,
) -> None:
    """Evaluate a model on a dataset.

    Rows of groups and sessions that it was trained on, and copies of them, are set apart. If nothing else is left, the
    scores are those of models trained in the same way, each on other groups than it is asked for.
    """
    from trafficrefinery.cli.reports.evaluation import page_of
    from trafficrefinery.cli.reports.page import write_report
    from trafficrefinery.cli.reports.terminal import print_page
    from trafficrefinery.cli.ui.models import model_folder
    from trafficrefinery.models.training.evaluate import evaluate as evaluate_bundle

    with Bar(quiet) as bar, tasks(workers, cluster) as jobs:
        bar("evaluating")
        metrics = evaluate_bundle(model_folder(bundle, "BUNDLE"), data, out, names(group), jobs, leave_out or ())
        page = page_of(out)
        written = write_report(page, out)
    warn_of(metrics)
    if not quiet:
        print_page(page)
        say(f"report: {written}")
