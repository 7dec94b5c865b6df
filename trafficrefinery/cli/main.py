"""The command `trafficrefinery`: finds subcommands, and turns errors into one line and an exit code.

A command is a module with a Typer `app` and a line in `COMMANDS`; it is imported when it runs, so that help and
small commands do not wait for the compiler and the tables. An `app` with one command and no callback is that command;
any other is a group of commands. Each `app` has `add_completion=False, rich_markup_mode=None`.
Other distributions add commands by entry points, see `added_commands`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from trafficrefinery import __version__
from trafficrefinery.errors import ElsewhereError, TrafficRefineryError, did_you_mean

from . import added_commands
from .ui.lines import say

PROGRAM = "trafficrefinery"
COMPLETE = "_TRAFFICREFINERY_COMPLETE"
"""The environment variable with which a shell asks for completions."""
COMMANDS = {
    "replay": ("trafficrefinery.cli.commands.replay", "Turn recorded packets into feature records."),
    "run": (
        "trafficrefinery.cli.commands.run",
        "Capture from interfaces and write records: the daemon.",
    ),
    "top": ("trafficrefinery.cli.commands.top", "Watch a running daemon: rates, losses, services, devices."),
    "infer": ("trafficrefinery.cli.commands.infer", "Run models on records or tables."),
    "dataset": ("trafficrefinery.cli.commands.dataset", "Build tables of labelled sessions, flows or clients."),
    "train": ("trafficrefinery.cli.commands.train", "Train a model that answers a target, such as the resolution."),
    "evaluate": ("trafficrefinery.cli.commands.evaluate", "Evaluate a model on a dataset."),
    "report": ("trafficrefinery.cli.commands.report", "Write a page over a directory of results."),
    "plot": ("trafficrefinery.cli.commands.plot", "Plot sessions and models."),
    "profile": ("trafficrefinery.cli.commands.profile", "Measure what features cost: state, time, storage."),
    "explore": ("trafficrefinery.cli.commands.explore", "Find the representation that is worth its cost."),
    "features": ("trafficrefinery.cli.commands.features", "List, describe, create and check feature classes."),
    "names": ("trafficrefinery.cli.commands.names", "List the names in a trace, and the service of each."),
    "config": ("trafficrefinery.cli.commands.config", "Check and show configurations; print their JSON schema."),
    "completion": (
        "trafficrefinery.cli.commands.completion",
        "Print a shell completion script.",
    ),
}
"""Name: module with the `app`, and one line for `--help`; in the order of `--help`."""

# The base of all of Typer's usage errors, which it exports in newer releases only.
_ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
_OF_THE_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EROFS)
"""What the system may refuse at any time, also where no file is named."""
_INTERRUPTED = 130
"""What Typer returns for Ctrl-C."""


class _LazyGroup(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  (Any: Typer has no public type for it)
        return [*COMMANDS, *(added_commands.commands_of("").keys() - COMMANDS.keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Enough of a command for `--help`."""
        if cmd_name in COMMANDS:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])
        plugin = added_commands.commands_of("").get(cmd_name)
        return TyperCommand(cmd_name, help=added_commands.summary(plugin)) if plugin else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str, Any, list[str]]:
        """The command itself, to be run."""
        name = args[0]
        command = load_command(name)
        if command is None:
            ctx.fail(f'no such command "{name}"{did_you_mean(name, self.list_commands(ctx))}')
        return name, command, args[1:]


def load_command(name: str) -> Any:
    """A command, with what other distributions add to its group; None if there is none of that name."""
    if name not in COMMANDS:
        if plugin := added_commands.commands_of("").get(name):
            return added_commands.load(plugin)
        return added_commands.not_installed(name) if name in added_commands.ELSEWHERE else None
    command: Any = typer.main.get_command(importlib.import_module(COMMANDS[name][0]).app)
    if hasattr(command, "commands"):
        added_commands.add_to_group(name, command.commands)
    return command


app = typer.Typer(cls=_LazyGroup, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True, epilog=f"Example: {PROGRAM} config check configs/video.json")
def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    traceback: Annotated[  # noqa: ARG001 (taken out before, as it may stand behind the command too)
        bool,
        typer.Option("--traceback", help="Print where an unexpected error came from; also behind the command."),
    ] = False,
) -> None:
    """Packets to machine-learning features, per flow and per service, while they arrive."""
    if version:
        typer.echo(f"{PROGRAM} {__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


_TRACEBACK = "--traceback"


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
    arguments = _take_traceback(sys.argv[1:] if arguments is None else arguments)
    if COMPLETE in os.environ:  # a shell asks for completions
        from typer.completion import completion_init  # type: ignore[attr-defined]  # imported there, not declared

        completion_init()
    try:
        status = app(arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:  # noqa: BLE001 (`_report` handles the unexpected ones)
        return _report(error)
    if status == _INTERRUPTED:
        return _fail("interrupted", 1)
    return status if isinstance(status, int) else 0


def _report(error: Exception) -> int:
    if isinstance(error, TrafficRefineryError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, _ClickException):
        return _usage_error(error)
    if isinstance(error, typer.Abort):
        return _fail("interrupted", 1)
    if isinstance(error, OSError):
        return _os_error(error)
    if isinstance(error, MemoryError):
        return _fail("there is not enough memory", 1)
    return _bug(error)


def _take_traceback(arguments: list[str]) -> list[str]:
    """`--traceback` may stand anywhere before `--`; it holds for all processes of the command."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if _TRACEBACK not in arguments[:end]:
        return arguments
    from trafficrefinery.daemon import bug_report

    os.environ[bug_report.SHOW] = "1"
    return [one for one in arguments[:end] if one != _TRACEBACK] + arguments[end:]


def _bug(error: Exception) -> int:
    from trafficrefinery.daemon import bug_report

    trace = error.trace if isinstance(error, ElsewhereError) else ""
    if bug_report.shows():
        for line in (trace or "".join(traceback.format_exception(error))).splitlines():
            say(line, err=True)
    return _fail("; ".join([bug_report.one_line(error, trace), *getattr(error, "__notes__", [])]), 1)


def _os_error(error: OSError) -> int:
    """A file or the standard output that cannot be written; a reader that closed its pipe had enough."""
    with contextlib.suppress(OSError):  # what is still to be written would fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 1
    if error.filename is None and error.errno not in _OF_THE_SYSTEM:
        return _bug(error)
    return _fail(": ".join(filter(None, (error.filename, error.strerror or str(error)))), 1)


def _fail(message: str, exit_code: int) -> int:
    say(f"error: {' '.join(message.split())}", err=True)
    return exit_code


def _usage_error(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.message)
        return 0
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context else ""
    return _fail(message[:1].lower() + message[1:] + hint, error.exit_code)
