"""Many traces: what became of each, and one table in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trafficrefinery.cli.work import traces_bar
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.tasks import Failure, tasks

if TYPE_CHECKING:
    from trafficrefinery.eachtrace import Done, Settings, Work

Each = Annotated[
    bool,
    typer.Option("--each", help="Each trace for itself, with a folder for its result; so are directories, patterns."),
]
Columns = Mapping[str, Callable[[dict[str, Any]], str]]


def many(arguments: Sequence[str], each: bool, cluster: str | None) -> bool:
    """Whether each trace is to be worked on for itself."""
    from trafficrefinery.eachtrace import are_many

    return each or cluster is not None or are_many(arguments)


def refuse(given: Mapping[str, bool]) -> None:
    """Options that mean one trace.

    Raises:
        UsageError: one is given.
    """
    for option, is_given in given.items():
        if is_given:
            raise UsageError(f"{option}: is for one trace, and each trace is worked on for itself; leave it out")


def work_on_each(  # noqa: PLR0913, PLR0917 (of one place each)
    arguments: Sequence[str], out: Path, work: Work, settings: Settings, where: tuple[int, str | None],
    columns: Columns, quiet: bool,
) -> None:  # fmt: skip
    """Work on each trace, in processes or on a cluster (`where`), and tell what became of them.

    Raises:
        UsageError: traces, settings or the cluster cannot be used.
        TrafficRefineryError: traces failed, or are damaged.
    """
    from trafficrefinery.eachtrace import each_trace, find_traces

    traces = find_traces(arguments)
    found: list[Done] = []
    with tasks(*where) as side_by_side, traces_bar(quiet) as told:
        told(0, len(traces))
        for done in each_trace(side_by_side, traces, out, work, settings):
            found.append(done)
            told(len(found), len(traces))
    order = {trace: number for number, trace in enumerate(traces)}
    found.sort(key=lambda done: order[done.trace])
    if not quiet:
        _print(found, columns)
        typer.echo(f"results: {out}/NAME for each trace NAME")
    _report(found)


def _print(found: Sequence[Done], columns: Columns) -> None:
    from trafficrefinery.cli.tables import print_table

    rows = []
    for done in found:
        if isinstance(done.outcome, Failure):
            cells, state = [""] * len(columns), "failed"
        else:
            cells = [show(done.outcome) for show in columns.values()]
            state = "damaged" if done.outcome["damage"] else "done before" if done.reused else "done"
        rows.append([Path(done.trace).name, *cells, state])
    print_table(["trace", *columns, "result"], rows)


def _report(found: Sequence[Done]) -> None:
    errors: list[str] = []
    for done in found:
        errors += [done.outcome.message] if isinstance(done.outcome, Failure) else done.outcome["damage"]
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    if errors:
        failed = sum(isinstance(done.outcome, Failure) for done in found)
        raise TrafficRefineryError(
            f"{failed} of {len(found)} traces failed, {len(errors) - failed} are damaged; run again, and only what "
            "failed is done again"
        )
