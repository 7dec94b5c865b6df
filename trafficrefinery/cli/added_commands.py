"""Commands of other distributions, which are found by their entry points.

A distribution adds a command with one module, which has a Typer `app` as those of the package, and with lines such as

    [project.entry-points."trafficrefinery.commands"]
    lab = "trafficrefinery_lab.command:app"

A name with a dot, such as `dataset.import`, adds a command to a group of the package.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from trafficrefinery.errors import PluginError, UsageError
from trafficrefinery.system import plugins
from trafficrefinery.system.plugins import Plugin

ELSEWHERE = {"lab": "trafficrefinery-lab", "dataset.import": "trafficrefinery-lab"}
"""Command: the distribution of this project that has it, for the hint where it is not installed."""


def commands_of(group: str) -> dict[str, Plugin]:
    """The commands that are added to a group; those at the top for ""."""
    found = plugins.installed(plugins.COMMANDS).values()
    named = ((*plugin.name.rpartition(".")[::2], plugin) for plugin in found)
    return {name: plugin for parent, name, plugin in named if parent == group}


def load(plugin: Plugin) -> Any:  # Any: Typer has no public type for a command
    """The command of a plugin.

    Raises:
        PluginError: its module cannot be imported, or has no such app.
    """
    command = plugin.load(typer.main.get_command)
    command.name = plugin.name.rpartition(".")[2]
    return command


def summary(plugin: Plugin) -> str:
    """One line for `--help`: the first line of the command's help, or why there is none."""
    try:
        return (load(plugin).help or "").partition("\n")[0]
    except PluginError:
        return "(This command cannot be loaded.)"


def add_to_group(name: str, commands: dict[str, Any]) -> None:
    """Add the commands of other distributions to a group, or hints where those of this project are not installed."""
    for added, plugin in commands_of(name).items():
        commands.setdefault(added, load(plugin))
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
