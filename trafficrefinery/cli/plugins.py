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
from typer.core import TyperCommand

from trafficrefinery.errors import UsageError

GROUP = "trafficrefinery.commands"
ELSEWHERE = {"lab": "trafficrefinery-lab", "dataset.import": "trafficrefinery-lab"}
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


def add_to_group(name: str, commands: dict[str, Any]) -> None:
    """Add the commands of other distributions to a group, or hints where those of this project are not installed."""
    for added, point in commands_of(name).items():
        commands.setdefault(added, load(point))
    for key in ELSEWHERE:
        group, _, missing = key.rpartition(".")
        if group == name and missing not in commands:
            commands[missing] = not_installed(key)


def not_installed(key: str) -> Any:
    """A hidden command that says which distribution has the command of that name."""

    def callback() -> None:
        raise UsageError(
            f'the command "{key.replace(".", " ")}" is not installed; install {ELSEWHERE[key]}, which has it'
        )

    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    return TyperCommand(key.rpartition(".")[2], callback=callback, hidden=True, context_settings=settings)
