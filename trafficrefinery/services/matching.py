"""Names to services, by the domains and regular expressions of the configuration."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from .expressions import ExpressionSet, required_text
from .name_table import BEYOND, MAX_NAME_BYTES, UNKNOWN, NameTables
from .prefixes import Prefix

NO_SERVICE = -1


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
    matches inside a label. Regular expressions are searched. Letter case never matters.

    Args:
        services: in file order.
        max_names: that can be numbered, see `NameTables`.
        seed: of the hashes.

    Attributes:
        tables: the same decision for compiled code.
        work_units: what `search` costs of a budget.

    Raises:
        ValueError: for an empty entry, and for a regular expression that cannot be used.

    >>> NameMatcher([ServiceFilter("Netflix", ("netflix.com",))]).match("www.Netflix.com")
    0
    """

    def __init__(self, services: Sequence[ServiceFilter], max_names: int = 1, seed: int | None = None) -> None:
        domains: list[tuple[str, int]] = []
        parts: list[tuple[str, int]] = []
        expressions: list[tuple[str, int]] = []
        for index, service in enumerate(services):
            for entry in service.domains_string:
                domain = _domain(entry, service.name)
                (domains if "." in domain else parts).append((domain, index))
            expressions += ((expression, index) for expression in service.domains_regex)
        self._services = [index for _, index in expressions]
        self._expressions = _compiled([(expression, services[index].name) for expression, index in expressions])
        self.work_units = self._expressions.work_units
        texts = [(required_text(expression), index) for expression, index in expressions]
        self.tables = NameTables(domains, parts, texts, max_names, secrets.randbits(64) if seed is None else seed)

    def search(self, name: bytes) -> int:
        """What the expressions say of a name, for `tables` that do not know: a service, or `name_table.BEYOND`."""
        found = self._expressions.matches(name.decode("ascii"))
        return self._services[found[0]] if found else BEYOND

    def match(self, name: str) -> int:
        """Index of the service, or -1, by `tables`; what the expressions say of the name is in them from then on."""
        name = name.lower().rstrip(".")
        if len(name) > MAX_NAME_BYTES or not name.isascii():
            return NO_SERVICE
        text = name.encode("ascii")
        service = self.tables.decide(text)
        if service == UNKNOWN:
            self.tables.remember(text, self.search(text))
            service = self.tables.decide(text)
        return service


def in_domains(name: str, domains: Sequence[str]) -> bool:
    """Whether a name is in one of some domains, as `NameMatcher` has it.

    >>> in_domains("r1.googlevideo.com", ["googlevideo.com"]), in_domains("notgooglevideo.com", ["googlevideo.com"])
    (True, False)
    """
    name = name.lower().rstrip(".")
    return any(
        f".{name}".endswith(f".{domain}") if "." in domain else domain in name
        for domain in (entry.strip(".").lower() for entry in domains)
    )


def _domain(entry: str, service_name: str) -> str:
    domain = entry.strip(".").lower()
    if not domain:
        raise ValueError(f'service "{service_name}" has an empty domain, which would match every name')
    return domain


def _compiled(expressions: Sequence[tuple[str, str]]) -> ExpressionSet:
    """All expressions; those with the name of their service that cannot be used are a ValueError."""
    for expression, service_name in expressions:
        try:
            ExpressionSet([expression])
        except ValueError as error:
            raise ValueError(f'"{expression}" of service "{service_name}" {error}') from error
    return ExpressionSet([expression for expression, _ in expressions])
