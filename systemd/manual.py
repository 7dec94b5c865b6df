"""Writes the manual pages of all commands, from the parser of the command line: `manual.py FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from trafficrefinery import __version__
from trafficrefinery.cli import main as cli


def commands() -> Iterator[tuple[str, Any, str]]:
    """Each command and group: its whole name, what the parser knows, and one line (Any: Typer has no public type)."""
    yield cli.PROGRAM, typer.main.get_command(cli.app), "packets to machine-learning features while they arrive"
    for name, (_, line) in cli.COMMANDS.items():
        command = cli.load_command(name)
        yield f"{cli.PROGRAM} {name}", command, line
        for sub, one in getattr(command, "commands", {}).items():
            if not one.hidden:
                yield f"{cli.PROGRAM} {name} {sub}", one, first_sentence(one.help)


def first_sentence(text: str) -> str:
    """The first line of a help text, up to its first colon or full stop."""
    return text.split("\n", maxsplit=1)[0].partition(":")[0].partition(". ")[0]


def roff(text: str) -> str:
    """Text in which nothing is markup for troff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in escaped.splitlines())


def page(name: str, command: Any, line: str, others: list[str]) -> Iterator[str]:
    """One manual page, as lines."""
    context = command.make_context(name, [], resilient_parsing=True)
    title = name.replace(" ", "-")
    yield f'.TH "{roff(title.upper())}" 1 "" "Traffic Refinery {__version__}"'
    yield from (".SH NAME", f"{roff(title)} \\- {roff(line.rstrip('.'))}")
    yield from (".SH SYNOPSIS", f".B {roff(name)}", roff(" ".join(command.collect_usage_pieces(context))))
    yield from (".SH DESCRIPTION", roff(command.help or line).replace("\n\n", "\n.PP\n"))
    shown = [record for one in command.params if (record := one.get_help_record(context))]
    if shown:
        yield ".SH ARGUMENTS AND OPTIONS"
    for names, text in shown:
        yield from (".TP", f".B {roff(names)}", roff(text))
    if command.epilog:
        yield from (".SH EXAMPLE", ".EX", roff(command.epilog.removeprefix("Example: ")), ".EE")
    if others:
        yield ".SH SEE ALSO"
        yield from (f".BR {roff(one)} (1)" for one in others)


def main(folder: Path) -> None:
    """Write all pages."""
    folder.mkdir(parents=True, exist_ok=True)
    found = list(commands())
    names = [name.replace(" ", "-") for name, _, _ in found]
    for name, command, line in found:
        title = name.replace(" ", "-")
        others = [one for one in names if one.rpartition("-")[0] == title or title.rpartition("-")[0] == one]
        (folder / f"{title}.1").write_text("\n".join(page(name, command, line, others)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
