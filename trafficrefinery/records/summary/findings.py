"""Findings: each is one line in the terminal and one object in `summary.json`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

ERROR, WARNING, NOTE = "error", "warning", "note"
_ORDER = (ERROR, WARNING, NOTE)
SILENT_SERVICES = "services_without_packets"
_SHOWN = 3  # items of a list that a line shows
_CHOICE = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")
_NOUN = re.compile(r"\[(\w+)([^|\]]*)\|(\w+)")  # what is counted begins the first choice


class Finding(NamedTuple):
    """Something that a user has to know.

    Args:
        name: the same for all findings of a kind, in all versions.
        severity: `error`: records are wrong or missing; `warning`: something is probably not as it was meant; `note`.
        number: how many of what the message speaks of.
        of: how many there are in all, where a share makes sense; else 0.
        template: what was found and what follows from it; `{}` stands for the number, `[one|several]` for words that
            follow it, the first of which is what is counted.
        remedy: what to do; empty where there is nothing.
        items: what it is about, one by one: files, keys, services.
    """

    name: str
    severity: str
    number: int
    of: int
    template: str
    remedy: str = ""
    items: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """What was found, as a sentence."""
        template = self.template
        if self.of:
            of_all = f"({share(self.number, self.of)})"
            template = _NOUN.sub(rf"[\1 {of_all}\2|\3 {of_all}", template, count=1)
        sentence = _CHOICE.sub(lambda match: match[1 if self.number == 1 else 2], template)
        return sentence.replace("{}", f"{self.number:,}")

    @property
    def line(self) -> str:
        """For the terminal, without the severity."""
        listed = f": {some(self.items)}" if self.items else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.message}{listed}{remedy}"

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """As in `summary.json`; `share` is null where none makes sense."""
        return {
            "name": self.name, "severity": self.severity, "count": self.number, "of": self.of or None,
            "share": self.number / self.of if self.of else None, "message": self.message, "remedy": self.remedy or None,
            "items": list(self.items),
        }  # fmt: skip


def share(count: int, of: int) -> str:
    """Percent, with as many digits that a small share is no zero."""
    percent = 100 * count / of
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.2g} %"


def some(items: Sequence[str]) -> str:
    """The first few of a list."""
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def together(parts: Sequence[Sequence[Finding]], totals: Mapping[str, int]) -> list[Finding]:
    """The findings of several traces: those that say the same become one; a service is silent that is so in all.

    Args:
        totals: what the share of each finding is of, in all traces; by its name.
    """
    found: dict[tuple[str, str, str, str], Finding] = {}
    for finding in (finding for part in parts for finding in _without_services_that_spoke(part, parts)):
        key = finding.name, finding.severity, finding.template, finding.remedy
        known = found.get(key)
        if known is None:
            found[key] = finding
        elif known.items != finding.items or not known.items:
            items = tuple(dict.fromkeys((*known.items, *finding.items)))
            number = len(items) if items and not known.of else known.number + finding.number
            found[key] = known._replace(number=number, items=items)
    return in_order(one._replace(of=totals[one.name]) if one.of else one for one in found.values())


def _without_services_that_spoke(part: Sequence[Finding], parts: Sequence[Sequence[Finding]]) -> Iterator[Finding]:
    for finding in part:
        if finding.name != SILENT_SERVICES:
            yield finding
            continue
        lists = [[one.items for one in other if one.name == SILENT_SERVICES] for other in parts]
        silent = tuple(name for name in finding.items if all(some and name in some[0] for some in lists))
        if silent:
            yield finding._replace(number=len(silent), items=silent)
