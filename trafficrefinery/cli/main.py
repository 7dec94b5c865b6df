"""The command `trafficrefinery`: finds subcommands, and turns errors into one line and an exit code.

A command is a module with a Typer `app` and a line in `COMMANDS`; it is imported when it runs, so that help and
small commands do not wait for the compiler and the tables. An `app` with one command and no callback is that command;
any other is a group of commands. Each `app` has `add_completion=False, rich_markup_mode=None`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from trafficrefinery import __version__
from trafficrefinery.errors import TrafficRefineryError, did_you_mean

PROGRAM = "trafficrefinery"
COMMANDS = {
    "replay": ("trafficrefinery.cli.replay", "Turn recorded packets into feature records."),
    "run": ("trafficrefinery.cli.run", "The daemon: capture on interfaces, records every interval."),
    "top": ("trafficrefinery.cli.top", "Watch a running daemon: rates, losses, services, devices."),
    "infer": ("trafficrefinery.cli.infer", "Run models on records or tables of sessions."),
    "lab": ("trafficrefinery.cli.lab", "Make labelled video sessions on this machine."),
    "dataset": ("trafficrefinery.cli.dataset", "Make tables of labelled session-intervals."),
    "train": ("trafficrefinery.cli.train", "Train a model that tells resolutions or startup delays."),
    "evaluate": ("trafficrefinery.cli.evaluate", "Tell how good a model is on a dataset."),
    "plot": ("trafficrefinery.cli.plot", "Draw sessions and models."),
    "profile": ("trafficrefinery.cli.profile", "Measure what features cost: state, time, storage."),
    "explore": ("trafficrefinery.cli.explore", "Find the representation that is worth its cost."),
    "features": ("trafficrefinery.cli.features", "Find, describe, scaffold and verify feature classes."),
    "names": ("trafficrefinery.cli.names", "List the names in a trace, and the service of each."),
    "config": ("trafficrefinery.cli.config", "Check and show configurations; print their JSON schema."),
}
"""Name: module with the `app`, and one line for `--help`; in the order of `--help`."""

# The base of all of Typer's usage errors, which it exports in newer releases only.
_ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
_INTERRUPTED = 130
"""What Typer returns for Ctrl-C."""


class _LazyGroup(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  (Any: Typer has no public type for it)
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Enough of a command for `--help`."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str, Any, list[str]]:
        """The command itself, to be run."""
        name = args[0]
        if name not in COMMANDS:
            ctx.fail(f'no such command "{name}"{did_you_mean(name, COMMANDS)}')
        command = typer.main.get_command(importlib.import_module(COMMANDS[name][0]).app)
        return name, command, args[1:]


app = typer.Typer(cls=_LazyGroup, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True, epilog=f"Example: {PROGRAM} config check configs/video.json")
def _root(ctx: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    """Packets to machine-learning features, per flow and per service, while they arrive."""
    if version:
        typer.echo(f"{PROGRAM} {__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 on success, 2 on a wrong option or configuration, 1 on a failure at work."""
    before = os.umask(0o027)
    if os.geteuid() != 0:  # what root writes is not for everybody: records and traces say who talks to whom
        os.umask(before)
    try:
        sys.exit(_run(arguments))
    finally:
        os.umask(before)


def _run(arguments: list[str] | None) -> int:
    try:
        status = app(arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except TrafficRefineryError as error:
        return _fail(str(error), error.exit_code)
    except _ClickException as error:
        return _usage_error(error)
    except typer.Abort:
        return _fail("interrupted", 1)
    except OSError as error:
        return _os_error(error)
    if status == _INTERRUPTED:
        return _fail("interrupted", 1)
    return status if isinstance(status, int) else 0


def _os_error(error: OSError) -> int:
    """A file or the standard output that cannot be written; a reader that closed its pipe had enough."""
    with contextlib.suppress(OSError):  # what is still to be written would fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 1
    return _fail(": ".join(filter(None, (error.filename, error.strerror or str(error)))), 1)


def _fail(message: str, exit_code: int) -> int:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return exit_code


def _usage_error(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.message)
        return 0
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context else ""
    return _fail(message[:1].lower() + message[1:] + hint, error.exit_code)
