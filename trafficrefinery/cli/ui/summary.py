"""The last lines of a command's output: what its user has to know of the run."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.system.wording import one_line

if TYPE_CHECKING:
    from trafficrefinery.errors import TrafficRefineryError
    from trafficrefinery.records.summary import Finding

_COLUMNS = 120


def print_findings(findings: Sequence[Finding], directory: Path | None = None, *, err: bool = False) -> None:
    """A line each, the worst first, and where they are in a file. Errors have lines of their own."""
    from trafficrefinery.records.summary import ERROR, FILE

    for finding in findings:
        if finding.severity != ERROR:
            line = one_line(f"{finding.severity}: {finding.line}")
            for part in [line] if err else _wrapped(line):
                say(part, err=err)
    if directory is not None:
        say(f"summary: {directory / FILE}", err=err)


def _wrapped(line: str) -> list[str]:
    """Lines as wide as the tables are; a path or a command stays whole."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else _COLUMNS
    return textwrap.wrap(line, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def report_damage(damage: Sequence[TrafficRefineryError]) -> None:
    """The last is the error that ends the command; the others are reported before.

    Raises:
        TrafficRefineryError: there is any.
    """
    for one in damage[:-1]:
        say(f"error: {one}", err=True)
    if damage:
        raise damage[-1]
