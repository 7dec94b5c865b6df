"""Commands of other distributions, which are found by their entry points.

A distribution adds a command with one module, which has a Typer `app` as those of the package, and with lines such as

    [project.entry-points."trafficrefinery.commands"]
    lab = "trafficrefinery_lab.command:app"

A name with a dot, such as `dataset.import`, adds a command to a group of the package.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer

from trafficrefinery.errors import UsageError

GROUP = "trafficrefinery.commands"
DISTRIBUTIONS = {"lab": "trafficrefinery-lab"}
"""Command: the distribution of this project that has it, for the hint where it is not installed."""


@cache
def plugins() -> dict[str, EntryPoint]:
    """Name of a command, with a dot where it belongs to a group, and its entry point; sorted by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def commands_of(group: str) -> dict[str, EntryPoint]:
    """The commands that are added to a group; those at the top for ""."""
    named = {name.rpartition(".")[::2]: point for name, point in plugins().items()}
    return {name: point for (parent, name), point in named.items() if parent == group}


def load(point: EntryPoint) -> Any:  # Any: Typer has no public type for a command
    """The command of an entry point.

    Raises:
        UsageError: its module cannot be imported, or has no such app.
    """
    try:
        command = typer.main.get_command(point.load())
    except Exception as error:  # what other people's modules raise
        owner = point.dist.name if point.dist else "an unknown distribution"
        reason = f"{type(error).__name__}: {error}; upgrade or uninstall {owner}"
        name = point.name.replace(".", " ")
        raise UsageError(f'the command "{name}" of {owner} cannot be loaded: {reason}') from error
    command.name = point.name.rpartition(".")[2]
    return command


def summary(point: EntryPoint) -> str:
    """One line for `--help`: the first line of the command's help, or why there is none."""
    try:
        return (load(point).help or "").partition("\n")[0]
    except UsageError:
        return "(This command cannot be loaded.)"


def hint(command: str) -> str:
    """What to install for a command of the project that is not there; empty for all others."""
    owner = DISTRIBUTIONS.get(command)
    return f"; install {owner}, which has it" if owner else ""
