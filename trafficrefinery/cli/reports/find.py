"""The reports that there are: those of the package, and those of other distributions, found by entry points.

[project.entry-points."trafficrefinery.reports"]
busiest = "busiest_report:page_of"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from trafficrefinery.errors import UsageError, did_you_mean

from .page import Page

GROUP = "trafficrefinery.reports"
Report = Callable[[Path], Page]
_OWN = {"profile": "profile", "explore": "exploration", "evaluate": "evaluation"}
"""The command whose directory it is of: the module."""


def reports() -> Mapping[str, Callable[[], Report]]:
    """By name, what loads each; those of the package first, which no other replaces."""
    own = {name: partial(_own, module) for name, module in _OWN.items()}
    others = {
        point.name: partial(_load, point) for point in sorted(entry_points(group=GROUP), key=lambda one: one.name)
    }
    return {**own, **{name: loads for name, loads in others.items() if name not in own}}


def find_report(name: str) -> Report:
    """The report of a name.

    Raises:
        UsageError: there is none, or it cannot be loaded.
    """
    known = reports()
    if name not in known:
        raise UsageError(f'no report "{name}"{did_you_mean(name, known) or "; there are " + ", ".join(known)}')
    return known[name]()


def _own(module: str) -> Report:
    report: Report = import_module(f"{__package__}.{module}").page_of
    return report


def _load(point: EntryPoint) -> Report:
    try:
        report: Report = point.load()
    except Exception as error:  # what other people's modules raise
        owner = point.dist.name if point.dist else "an unknown distribution"
        reason = f"{type(error).__name__}: {error}; upgrade or uninstall {owner}"
        raise UsageError(f'the report "{point.name}" of {owner} cannot be loaded: {reason}') from error
    return report
