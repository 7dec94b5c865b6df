"""Names to services, by the domains and regular expressions of the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trafficrefinery.servicemap.prefixes import Prefix

NO_SERVICE = -1
_BEYOND = 1 << 31  # behind every service


@dataclass(frozen=True)
class ServiceFilter:
    """What belongs to a service, as its configuration says."""

    name: str
    domains_string: tuple[str, ...] = ()
    domains_regex: tuple[str, ...] = ()
    prefixes: tuple[Prefix, ...] = ()


class NameMatcher:
    """The first service, in file order, that a name belongs to.

    An entry of `domains_string` with a dot matches the name itself and what ends in it behind a dot; one without
    matches inside a label. Regular expressions are searched. Letter case never matters. Raises ValueError for an
    empty entry, and for a regular expression that is none.

    >>> NameMatcher([ServiceFilter("Netflix", ("netflix.com",))]).match("www.Netflix.com")
    0
    """

    _MEMO_NAMES = 65_536

    def __init__(self, services: Sequence[ServiceFilter]) -> None:
        self._suffixes: dict[str, int] = {}
        self._parts: list[tuple[str, int]] = []
        self._patterns: list[tuple[re.Pattern[str], int]] = []
        self._memo: dict[str, int] = {}
        for index, service in enumerate(services):
            for entry in service.domains_string:
                self._add_domain(entry, index, service.name)
            for expression in service.domains_regex:
                try:
                    self._patterns.append((re.compile(expression, re.IGNORECASE), index))
                except re.error as error:
                    raise ValueError(
                        f'"{expression}" of service "{service.name}" is no regular expression: {error}'
                    ) from error

    def _add_domain(self, entry: str, index: int, service_name: str) -> None:
        domain = entry.strip(".").lower()
        if not domain:
            raise ValueError(f'service "{service_name}" has an empty domain, which would match every name')
        if "." in domain:
            self._suffixes.setdefault(domain, index)
        else:
            self._parts.append((domain, index))

    def match(self, name: str) -> int:
        """Index of the service, or -1."""
        found = self._memo.get(name)
        if found is None:
            if len(self._memo) >= self._MEMO_NAMES:
                self._memo.clear()
            found = self._memo[name] = self._search(name.lower().rstrip("."))
        return found

    def _search(self, name: str) -> int:
        best = min((self._suffixes.get(suffix, _BEYOND) for suffix in _suffixes(name)), default=_BEYOND)
        for part, index in self._parts:
            if index >= best:
                break
            if part in name:  # parts have no dot, so it is inside a label
                best = index
        for pattern, index in self._patterns:
            if index >= best:
                break
            if pattern.search(name):
                best = index
        return NO_SERVICE if best == _BEYOND else best


def _suffixes(name: str) -> Iterator[str]:
    yield name
    position = name.find(".")
    while position >= 0:
        yield name[position + 1 :]
        position = name.find(".", position + 1)
