"""Many traces: what became of each, and one table in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.system.tasks import Failure, tasks

from .progress import Bar
from .summary import print_findings

if TYPE_CHECKING:
    from trafficrefinery.replaying.batch import Done, TraceSettings, Work

Each = Annotated[
    bool,
    typer.Option("--each", help="Process each trace separately (implied by directories and patterns)."),
]
Columns = Mapping[str, Callable[[dict[str, Any]], str]]


def many(arguments: Sequence[str], each: bool, cluster: str | None) -> bool:
    """Whether each trace is to be worked on for itself."""
    from trafficrefinery.replaying.batch import are_many

    return each or cluster is not None or are_many(arguments)


def refuse(given: Mapping[str, bool]) -> None:
    """Options that do not fit: those of one trace where there are many, or the other way round.

    Raises:
        UsageError: one is given.
    """
    for option, is_given in given.items():
        if is_given:
            raise UsageError(f"{option}: cannot be combined with these options; leave it out")


def work_on_each(  # noqa: PLR0913, PLR0917 (a command hands on its options)
    arguments: Sequence[str], command: str, work: Work, settings: TraceSettings, where: tuple[int, str | None],
    columns: Columns, quiet: bool,
) -> None:  # fmt: skip
    """Work on each trace, in processes or on a cluster (`where`), and report what became of them.

    Raises:
        UsageError: traces, settings or the cluster cannot be used.
        TrafficRefineryError: traces failed, or are damaged.
    """
    from trafficrefinery.records import summary
    from trafficrefinery.replaying.batch import each_trace, find_traces, summary_of
    from trafficrefinery.system.writing import make_directory

    traces, left_out = find_traces(arguments, settings.places)
    found: list[Done] = []
    make_directory(settings.out)
    summary.remove(settings.out)
    with tasks(*where) as side_by_side, Bar(quiet) as bar:
        bar("traces", 0, len(traces))
        for done in each_trace(side_by_side, traces, work, settings):
            found.append(done)
            bar("traces", len(found), len(traces))
    order = list(traces.values())
    found.sort(key=lambda done: order.index(done.name))
    whole = summary_of(command, found, left_out, settings)
    summary.write(whole.content, settings.out)
    if not quiet:
        _print(found, columns)
        say(f"results: {settings.out}/NAME for each trace NAME")
        print_findings(whole.findings, settings.out)
    _report(found)


def _print(found: Sequence[Done], columns: Columns) -> None:
    from .tables import print_table

    rows = []
    for done in found:
        if isinstance(done.outcome, Failure):
            cells, state = [""] * len(columns), "failed"
        else:
            cells = [show(done.outcome) for show in columns.values()]
            state = "damaged" if done.outcome["damage"] else "done before" if done.reused else "done"
        rows.append([done.name, *cells, state])
    print_table(["trace", *columns, "result"], rows)


def _report(found: Sequence[Done]) -> None:
    failed = [done.outcome.of(done.name) for done in found if isinstance(done.outcome, Failure)]
    damage = [one for done in found if not isinstance(done.outcome, Failure) for one in done.outcome["damage"]]
    for error in [*failed, *damage]:
        say(f"error: {error}", err=True)
    if failed:
        raise TrafficRefineryError(
            f"{len(failed)} of {len(found)} traces failed; run again, and only these are done again"
        )
    if damage:
        raise typer.Exit(1)
