"""What DNS answers teach: which service a server's address belongs to.

Compiled code reads them, see `answers`; what is too large for that is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trafficrefinery.services.addresses import ANY_CLIENT, AddressTable
from trafficrefinery.services.matching import NO_SERVICE, NameMatcher, ServiceFilter
from trafficrefinery.services.name_table import MAX_NAME_BYTES
from trafficrefinery.services.names import counter
from trafficrefinery.services.prefixes import PrefixTable
from trafficrefinery.services.special_names import ECH_PUBLIC_NAME, RESOLVER, SpecialNames

from .answers import AnswerTables
from .ech import HTTPS, SVCB, public_names
from .messages import DnsMessage, ResolvedAddress, read_dns, resolve_answers
from .resolvers import PUBLIC_RESOLVERS

NO_NAME = -1
PUBLIC_NAMES = ("cloudflare-ech.com",)
"""Public names of ECH configurations that are known without DNS."""
_NS_PER_S = 1_000_000_000


LearnedAnswer = tuple[tuple[int, int], tuple[int, int], int, int, str, bool]
"""Client, server, expires_ns, learnt_ns, name, and whether a query was seen."""


@dataclass
class ServiceMapCounters:
    """What a `ServiceMap` has seen."""

    dns_messages_total: int = counter("DNS messages that were read.")
    dns_malformed_total: int = counter("DNS messages that could not be read to their end.")
    dns_addresses_total: int = counter("Addresses in DNS answers.")
    dns_matched_total: int = counter("Addresses in DNS answers whose name belongs to a service.")
    dns_retried_total: int = counter("DNS answers used only when the query or alias before them came, out of order.")
    dns_forgotten_total: int = counter("DNS queries, aliases and answers forgotten for newer ones.")
    names_refused_total: int = counter("Names of services not kept because there were too many.")


class ServiceMap:
    """Names, DNS answers and prefixes together: which service an address or a name belongs to.

    Compiled code reads `prefixes.tables` and `addresses.tables`; the latter is replaced when it grows, so it is to
    be taken anew after `learn_dns`.

    Args:
        services: in file order; of several that match, the first wins.
        min_ttl_ns: how long a DNS answer holds at least.
        grace_ns: by how much DNS messages may be out of order, see `early`.
        max_addresses: entries of the address table; each answer takes two (for the client, and for any).
        max_names: distinct names that are kept to be reported.
        seed: of the address table's hash.

    Raises:
        ValueError: for rules that cannot be used, see `NameMatcher` and `PrefixTable`.
    """

    def __init__(
        self,
        services: Sequence[ServiceFilter],
        *,
        min_ttl_ns: int = 600 * _NS_PER_S,
        grace_ns: int = 0,
        max_addresses: int = 262_144,
        max_names: int = 262_144,
        seed: int | None = None,
    ) -> None:
        self.services = tuple(services)
        self.matcher = NameMatcher(services, max_names, seed)
        self.prefixes = PrefixTable([service.prefixes for service in services], [service.name for service in services])
        self.addresses = AddressTable(max_addresses, seed)
        self.answers = AnswerTables(min_ttl_ns, self.matcher.work_units, grace_ns)
        self._counters = ServiceMapCounters()
        self._on_learned: Callable[[LearnedAnswer], object] | None = None
        self._min_ttl_ns = min_ttl_ns
        self.special_names = SpecialNames(self.matcher.tables)
        for name in sorted(PUBLIC_RESOLVERS):
            self.special_names.add(name, RESOLVER)
        self.learn_public_names(PUBLIC_NAMES)
        self._names: list[str] = []

    @property
    def counters(self) -> ServiceMapCounters:
        """Counts since the start."""
        self._counters.names_refused_total = self.matcher.tables.refused_total
        self._counters.dns_retried_total = int(self.answers.record["retried"][0])
        self._counters.dns_forgotten_total = self.answers.forgotten_total
        return self._counters

    def is_public_name(self, name: str) -> bool:
        """Whether a name is the public name of an ECH configuration (RFC 9849): a server's that hides others.

        A hello with the ECH extension does not say whether its name is that: browsers send the extension to all
        servers, without a meaning (GREASE), and with the true name. So only names that are known to be public names
        are: those that an HTTPS record gave in its `ech` parameter, and the one of the largest operator.
        A public name whose record was not seen looks like any server name, so the service is decided by it.
        """
        return self.special_names.kinds(name) & ECH_PUBLIC_NAME != 0

    def is_public_resolver(self, name: str) -> bool:
        """Whether a server name, in lower case, is that of a public resolver that answers over HTTPS (RFC 8484)."""
        return self.special_names.kinds(name) & RESOLVER != 0

    def learn_public_names(self, names: Iterable[str]) -> None:
        """Take public names from the ECH configurations of an HTTPS record, see `ech`; not too many."""
        for name in names:
            self.special_names.add(name, ECH_PUBLIC_NAME)

    def name_service(self, name: str) -> int:
        """The service of a name, or -1; `matcher.tables` have it from then on."""
        return self.matcher.match(name)

    @property
    def names(self) -> list[str]:
        """The names that have numbers, by number."""
        tables = self.matcher.tables
        if tables.names_count > len(self._names):
            self._names += tables.names_from(len(self._names))
        return self._names

    def name_id(self, name: str) -> int:
        """The place of a name in `names`, where it is put when it is new; -1 when there are too many."""
        if len(name) > MAX_NAME_BYTES or not name.isascii():
            return NO_NAME
        return self.matcher.tables.number(name.encode("ascii"))

    def learn_dns(self, payload: bytes, client_hi: int, client_lo: int, ts_ns: int, *, is_asked: bool = True) -> int:
        """Take a DNS message to a client (its destination address; 0, 0 when unknown).

        One that is not known to be the answer to a query counts for that client alone.

        Returns the number of address answers that belong to a service.
        """
        message = read_dns(payload)
        if message is None:
            self._counters.dns_malformed_total += 1
            return 0
        self._counters.dns_messages_total += 1
        self._counters.dns_malformed_total += not message.complete
        if not message.is_response:
            return 0
        for answer in message.answers:
            if answer.rtype in (SVCB, HTTPS) and isinstance(answer.value, bytes):
                self.learn_public_names(public_names(answer.value))
        return self._learn(message, (client_hi, client_lo), ts_ns, is_asked)

    def _learn(self, message: DnsMessage, client: tuple[int, int], ts_ns: int, is_asked: bool) -> int:
        entries = []
        for address in resolve_answers(message):
            self._counters.dns_addresses_total += 1
            service, name = self._first_match(address)
            if service == NO_SERVICE:
                continue
            expires_ns = ts_ns + max(address.ttl_s * _NS_PER_S, self._min_ttl_ns)
            entries.append(((address.address_hi, address.address_lo), (service, self.name_id(name), expires_ns)))
            if self._on_learned is not None:
                self._on_learned((client, entries[-1][0], expires_ns, ts_ns, name, is_asked))
        whom = dict.fromkeys((client, ANY_CLIENT) if is_asked else (client,))
        self.addresses.insert_all([((*one, *server), value) for server, value in entries for one in whom], ts_ns)
        self._counters.dns_matched_total += len(entries)
        return len(entries)

    def learn(self, answer: LearnedAnswer) -> None:
        """Take an address that somebody else learnt, with the name that matched."""
        client, server, expires_ns, learnt_ns, name, is_asked = answer
        service = self.matcher.match(name)
        if service != NO_SERVICE:
            value = service, self.name_id(name), expires_ns
            for whom in dict.fromkeys((client, ANY_CLIENT) if is_asked else (client,)):
                self.addresses.insert(whom, server, *value, learnt_ns)

    def tell(self, on_learned: Callable[[LearnedAnswer], object]) -> None:
        """From now on, call `on_learned` for each DNS answer of a service that says something new."""
        self._on_learned = on_learned
        self.answers.record["is_told"] = 1

    def ask_about_name(self) -> int:
        """What the expressions say of the name that compiled code asks about: a service, or `name_table.BEYOND`."""
        return self.matcher.search(self.answers.unknown_name())

    def tell_learned(self) -> bool:
        """Tell what compiled code has learnt since the last call; False when that is nothing."""
        if self._on_learned is None:
            return False
        taken = self.answers.take_learned()
        for client_hi, client_lo, server_hi, server_lo, expires_ns, learnt_ns, name_id, is_asked in taken:
            if name_id >= 0:
                client, server = (client_hi, client_lo), (server_hi, server_lo)
                self._on_learned((client, server, expires_ns, learnt_ns, self.names[name_id], bool(is_asked)))
        return bool(taken)

    def _first_match(self, address: ResolvedAddress) -> tuple[int, str]:
        """The first service in file order among an address's names, and the name nearest to the question."""
        best, best_name = NO_SERVICE, ""
        for name in address.names:
            service = self.matcher.match(name)
            if service != NO_SERVICE and (best == NO_SERVICE or service < best):
                best, best_name = service, name
        return best, best_name
