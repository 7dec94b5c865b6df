"""The reports that there are: those of the package, and those of other distributions.

A report is a function from a directory of results to a `Page`, with one line of documentation:

    [project.entry-points."trafficrefinery.reports"]
    sides = "sides_report:page_of"
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trafficrefinery.errors import UsageError, did_you_mean
from trafficrefinery.system.plugins import REPORTS, Plugin, installed

from .page import Page

Report = Callable[[Path], Page]
_OWN = {
    "profile": "trafficrefinery.cli.reports.profile:page_of",
    "explore": "trafficrefinery.cli.reports.exploration:page_of",
    "evaluate": "trafficrefinery.cli.reports.evaluation:page_of",
}
"""By the command whose directory each is of."""


def reports() -> dict[str, Plugin]:
    """By name; those of the package first, which no other replaces."""
    return installed(REPORTS, _OWN)


def find_report(name: str) -> Report:
    """The report of a name.

    Raises:
        UsageError: there is none, or it cannot be loaded.
    """
    known = reports()
    if name not in known:
        raise UsageError(f'no report "{name}"{did_you_mean(name, known) or "; there are " + ", ".join(known)}')
    report: Report = known[name].load()
    return report
