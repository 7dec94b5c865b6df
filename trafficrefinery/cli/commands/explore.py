"""`trafficrefinery explore`: accuracy against cost over representations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.cli.ui.progress import Bar
from trafficrefinery.cli.ui.work import Cluster, Group, Jobs, names, warn_of
from trafficrefinery.errors import UsageError
from trafficrefinery.system.tasks import tasks

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: trafficrefinery explore traces -c configs/video.json -o explored --max-state 1KB")
def explore(  # noqa: PLR0913, PLR0917 (each is an option)
    data: Annotated[Path, typer.Argument(metavar="DATA_OR_TRACES", help="Dataset, or directory of labelled traces.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Directory for the table, the front, the report and `deploy`.")
    ],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Configuration; the search chooses among what it collects.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Labels as CSV; default: labels.csv beside the traces.")] = None,
    max_state: Annotated[
        str | None, typer.Option(metavar="256B", help="Maximum state per flow of the recommended point.")
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="Minimum accuracy of the recommended point.")
    ] = None,
    trials: Annotated[
        int, typer.Option(min=2, max=100_000, help="Number of representations that each search tries.")
    ] = 120,
    intervals: Annotated[
        str | None,
        typer.Option(metavar="2s,10s,...", help="Intervals to try, with traces; default: 2s,4s,10s,30s,60s."),
    ] = None,
    first_packets: Annotated[
        str | None,
        typer.Option(metavar="50,all,...", help="Numbers of first packets of a flow and interval to try, with traces."),
    ] = None,
    single_columns: Annotated[
        bool,
        typer.Option(
            "--single-columns/--whole-classes", help="Search subsets of columns, or only whole feature classes."
        ),
    ] = True,
    trace: Annotated[Path | None, typer.Option(help="Trace on which costs are measured.")] = None,
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="What to infer: resolution, or NAME of a column label.NAME; several: with the features of one "
            "representation.",
        ),
    ] = "resolution",
    group: Group = "",
    compare: Annotated[bool, typer.Option(help="Also run a random search and a ranking by mutual information.")] = True,
    workers: Jobs = 1,
    cluster: Cluster = None,
    seed: Annotated[int, typer.Option(help="Seed of the random number generator.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show progress or the summary.")] = False,
) -> None:
    """Search for the representation that is worth its cost: which features, which interval, which model size.

    Every representation is evaluated on videos that its model has not seen, and measured as it is compiled. The result
    is a table, the Pareto front, a report, and the configuration and model of the recommended point. A run that was
    stopped goes on in the same directory.
    """
    try:
        from trafficrefinery.costs.exploring import ExploreOptions
        from trafficrefinery.costs.exploring import explore as explore_data
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise UsageError(
            "explore: needs the package optuna, which is not installed; install the extra explore of this program"
        ) from None
    from trafficrefinery.cli.reports.exploration import page_of
    from trafficrefinery.cli.reports.page import write_report
    from trafficrefinery.cli.reports.terminal import print_page
    from trafficrefinery.config import load_config
    from trafficrefinery.config.units import parse_duration_ns

    target, *others = names(target) or ("",)
    also = tuple(dict.fromkeys(one for one in others if one != target))
    settings = None if config is None else load_config(config)
    options = ExploreOptions(
        labels, trace, _size(max_state), min_accuracy, trials, single_columns,
        _list(intervals, "--intervals", lambda one: parse_duration_ns(one) / 1e9),
        _list(first_packets, "--first-packets", _packets), names(group), compare, seed=seed, target=target, also=also,
    )  # fmt: skip
    with Bar(quiet) as bar, tasks(workers, cluster) as side_by_side:
        found = explore_data(data, out, settings, options._replace(tasks=side_by_side), bar)
        page = page_of(out)
        written = write_report(page, out)
    if left_out := found.summary["data"]["left_out"]:
        shown = f"{', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''}"
        say(f"note: {len(left_out)} columns are left out, which the configuration does not give as the table has them "
            f"({shown})", err=True)  # fmt: skip
    for failure in found.summary["data"]["failed"].values():
        say(f"error: {failure}; the trace is left out", err=True)
    warn_of(found.summary)
    if found.no_point is not None:
        raise found.no_point
    if not quiet:
        reused = f", {found.reused} of them from before" if found.reused else ""
        say(f"{len(found.frame)} representations evaluated{reused}")
        print_page(page)
        say(f"report: {written}")
        say(f"deploy: {out / 'deploy' / 'config.json'}")
    if found.summary["data"]["failed"]:
        raise typer.Exit(1)


def _size(text: str | None) -> int | None:
    from trafficrefinery.config.units import parse_size_bytes

    try:
        return None if text is None else parse_size_bytes(text)
    except ValueError as error:
        raise UsageError(f"--max-state: {error}") from None


def _list(text: str | None, option: str, parse: Any) -> tuple[Any, ...] | None:  # a function of text
    if text is None:
        return None
    try:
        return tuple(dict.fromkeys(parse(one.strip()) for one in text.split(",")))
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _packets(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or not int(text):
        raise ValueError(f'"{text}" is not a number of packets; write positive numbers, or all')
    return int(text)
