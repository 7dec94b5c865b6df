"""`trafficrefinery train`: a dataset to a model bundle."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.cli.ui.progress import Bar
from trafficrefinery.cli.ui.work import Cluster, Group, Jobs, LeaveOut, names, warn_of
from trafficrefinery.system.tasks import tasks

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Model(StrEnum):
    """Kinds of models."""

    FOREST = "forest"
    BOOSTED = "boosted"
    BEST = "best"


@app.command(epilog="Example: trafficrefinery train data.parquet -o model --features net+app")
def train(  # noqa: PLR0913, PLR0917 (each is an option)
    data: Annotated[Path, typer.Argument(metavar="DATA.parquet", help="Dataset, see `trafficrefinery dataset`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory for the model bundle.")],
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE.json",
            help="What to infer: resolution, startup, or NAME of a column label.NAME; or a file that defines a target.",
        ),
    ] = "resolution",
    features: Annotated[
        str,
        typer.Option(
            help="Feature set: net, transport, app, net+app, all; of flows and clients all, or feature classes, CLASS+"
            "CLASS. Default: net+app for sessions, else all."
        ),
    ] = "",
    group: Group = "",
    leave_out: LeaveOut = None,
    model: Annotated[
        Model, typer.Option(help="Random forest, gradient boosting, or whichever scores better.")
    ] = Model.FOREST,
    service: Annotated[
        str | None, typer.Option(help="Train on this service only; default: one model for all services.")
    ] = None,
    collect: Annotated[
        str, typer.Option(metavar="CLASS,...", help="Feature classes that the configuration collects; default: any.")
    ] = "",
    only: Annotated[
        str, typer.Option("--only", "--resolutions", metavar="LABEL,...", help="Use only these labels; default: all.")
    ] = "",
    param: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VALUE,...",
            help="Values to try of a hyper-parameter, as scikit-learn names it; may be given several times.",
        ),
    ] = [],  # noqa: B006 (typer makes a list of its own)
    grid: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Hyper-parameters to try: {NAME: [VALUE, ...], ...}, or a list of these."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Model name written to records; default: the directory's name.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the random number generator.")] = 1,
    workers: Jobs = 1,
    cluster: Cluster = None,
    compare: Annotated[bool, typer.Option(help="Also compare feature sets, services, and a random split.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show progress or the summary.")] = False,
) -> None:
    """Train a model on a dataset of labelled sessions, flows or clients.

    All reported scores are for groups that the model has not seen, such as videos: folds are grouped, and
    hyper-parameters are chosen within each.
    """
    from trafficrefinery.cli.reports.evaluation import page_of
    from trafficrefinery.cli.reports.terminal import print_page
    from trafficrefinery.models.targets.definitions import target_in
    from trafficrefinery.models.training import TrainOptions
    from trafficrefinery.models.training import train as train_model
    from trafficrefinery.models.training.grids import grid_in, grid_of

    candidates = grid_of(grid_in(grid, param), model.value) if grid or param else ()
    options = TrainOptions(
        target_in(Path(target)) if target.endswith(".json") else target, features, names(group), model.value, service,
        names(collect), names(only), name, seed, compare=compare, leave_out=tuple(leave_out or ()),
        candidates=candidates,
    )  # fmt: skip
    with Bar(quiet) as bar, tasks(workers, cluster) as jobs:
        trained = train_model(data, out, options._replace(jobs=jobs), bar)
    warn_of(trained.metrics)
    if not quiet:
        print_page(page_of(trained.bundle))
        say(f"model: {trained.bundle}")
