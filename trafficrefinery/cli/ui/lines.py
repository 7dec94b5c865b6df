"""Lines on a terminal, whatever names of others are in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from trafficrefinery.system.wording import one_line

if TYPE_CHECKING:
    from rich.text import Text


def say(line: object, *, err: bool = False) -> None:
    """Print one line, on standard error if it is none of the results; what is not printable is an escape."""
    typer.echo(one_line(line), err=err)


def cell(text: object, style: str = "") -> Text:
    """Text of a table or a screen: no markup is read in it, and what is not printable is an escape."""
    from rich.text import Text

    return Text(one_line(text), style)
