"""Lines on a terminal, whatever names of others are in them."""

from __future__ import annotations

import typer

from trafficrefinery.system.wording import one_line


def say(line: object, *, err: bool = False) -> None:
    """Print one line, on standard error if it is none of the results; what is not printable is an escape."""
    typer.echo(one_line(line), err=err)
