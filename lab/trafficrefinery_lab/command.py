"""`trafficrefinery lab`: labelled sessions between a real server and real players on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.cli.ui.progress import Bar
from trafficrefinery.errors import TrafficRefineryError, UsageError

if TYPE_CHECKING:
    from trafficrefinery_lab.plan import SessionPlan

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make labelled video sessions between real servers and real players on this machine.",
    epilog="Example: sudo trafficrefinery lab run -o sessions --sessions 20 --parallel 10",
)

Sessions = Annotated[int, typer.Option(min=1, max=9999, help="How many.")]
Duration = Annotated[str, typer.Option(metavar="180s", help="Of a session; each is up to a third shorter or longer.")]
Seed = Annotated[int, typer.Option(min=0, help="Titles, links and players follow from it.")]
Profiles = Annotated[str | None, typer.Option(metavar="A,B,...", help="Service profiles, in turn; default: all.")]
_LEAST_S = 5


@app.command(epilog="Example: sudo trafficrefinery lab run -o sessions --sessions 20 --parallel 10")
def run(  # noqa: PLR0913, PLR0917 (each is an option)
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for traces and labels.")],
    sessions: Sessions = 300,
    parallel: Annotated[int, typer.Option(min=1, max=200, help="Sessions side by side.")] = 12,
    duration: Duration = "180s",
    seed: Seed = 1,
    profiles: Profiles = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, run nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show progress or the summary.")] = False,
) -> None:
    """Record sessions in real time, with a label file for each, for `trafficrefinery dataset build`.

    Needs root, and Debian's nginx, iproute2 and ethtool. Sessions that are in the folder already are not recorded
    again, so that a run that was stopped goes on where it was.
    """
    made = _plan(seed, sessions, profiles, duration)
    if dry_run:
        _print(made)
        return
    from trafficrefinery_lab.running import run as run_plan

    with Bar(quiet) as bar:
        ran = run_plan(made, out, parallel, bar)
    for failed in ran.failed:
        say(f"note: {failed}", err=True)
    if not quiet:
        reused = f", {ran.reused} of them recorded before" if ran.reused else ""
        say(f"{ran.sessions:,} sessions{reused}")
        say(f"labels: {ran.labels}")
    if ran.failed:
        raise TrafficRefineryError(f"{out}: {len(ran.failed)} sessions could not be recorded; run it again for them")


@app.command(epilog="Example: trafficrefinery lab plan --sessions 20 --seed 2")
def plan(
    sessions: Sessions = 300, duration: Duration = "180s", seed: Seed = 1, profiles: Profiles = None
) -> None:  # fmt: skip
    """Print what `lab run` would record."""
    _print(_plan(seed, sessions, profiles, duration))


def _plan(seed: int, sessions: int, profiles: str | None, duration: str) -> list[SessionPlan]:
    from trafficrefinery.config.units import parse_duration_ns
    from trafficrefinery_lab.plan import make_plan
    from trafficrefinery_lab.profiles import chosen_profiles

    try:
        duration_s = parse_duration_ns(duration) / 1e9
    except ValueError as error:
        raise UsageError(f"--duration: {error}") from None
    if duration_s < _LEAST_S:
        raise UsageError(f"--duration: {duration} is too short for a video; {_LEAST_S}s at least")
    return make_plan(seed, sessions, chosen_profiles(profiles), duration_s)


def _print(made: list[SessionPlan]) -> None:
    from trafficrefinery.cli.ui.tables import print_table
    from trafficrefinery_lab.plan import COLUMNS, plan_rows

    print_table(COLUMNS, plan_rows(made))
