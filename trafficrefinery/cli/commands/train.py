"""`trafficrefinery train`: a dataset to a model bundle."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trafficrefinery.cli.ui.progress import Bar
from trafficrefinery.cli.ui.work import Cluster, Group, Jobs, number_list, parallel

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Target(StrEnum):
    """What a model tells."""

    RESOLUTION = "resolution"
    STARTUP = "startup"


class Model(StrEnum):
    """Kinds of models."""

    FOREST = "forest"
    BOOSTED = "boosted"
    BEST = "best"


@app.command(epilog="Example: trafficrefinery train data.parquet -o model --features net+app")
def train(  # noqa: PLR0913, PLR0917 (each is an option)
    data: Annotated[Path, typer.Argument(metavar="DATA.parquet", help="Dataset, see `trafficrefinery dataset`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory of the bundle.")],
    target: Annotated[Target, typer.Option(help="What to tell.")] = Target.RESOLUTION,
    features: Annotated[str, typer.Option(help="Feature set: net, transport, app, net+app, all.")] = "net+app",
    group: Group = "video_id",
    model: Annotated[Model, typer.Option(help="Random forest, gradient boosting, or the better one.")] = Model.FOREST,
    service: Annotated[str | None, typer.Option(help="Only this service; default: one model for all.")] = None,
    collect: Annotated[
        str, typer.Option(metavar="CLASS,...", help="Feature classes of the configuration it is for; default: any.")
    ] = "",
    resolutions: Annotated[
        str, typer.Option(metavar="240,360,...", help="Only sessions of these resolutions; default: all.")
    ] = "",
    name: Annotated[str, typer.Option(help="Of the model, in records; default: that of the directory.")] = "",
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 1,
    workers: Jobs = 1,
    cluster: Cluster = None,
    compare: Annotated[bool, typer.Option(help="Other feature sets, services, and a random split as well.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
) -> None:
    """Train a model on a dataset of labelled session-intervals.

    Its figures are those of videos that it has not seen: folds are grouped, hyper-parameters chosen within each.
    """
    from trafficrefinery.cli.reports.evaluation import page_of
    from trafficrefinery.cli.reports.terminal import print_page
    from trafficrefinery.models.training import TrainOptions
    from trafficrefinery.models.training import train as train_model

    options = TrainOptions(
        target.value, features, group, model.value, service, tuple(filter(None, collect.split(","))),
        number_list(resolutions, "--resolutions"), name, seed,
        workers, compare,
    )  # fmt: skip
    with Bar(quiet) as bar, parallel(cluster):
        trained = train_model(data, out, options, bar)
    if not quiet:
        print_page(page_of(trained.bundle))
        typer.echo(f"model: {trained.bundle}")
