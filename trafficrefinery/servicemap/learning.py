"""What DNS answers teach: which service a server's address belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trafficrefinery.names import counter
from trafficrefinery.names.dns import DnsMessage, ResolvedAddress, read_dns, resolve_answers
from trafficrefinery.names.ech import HTTPS, SVCB, public_names
from trafficrefinery.servicemap.addresses import ANY_CLIENT, AddressTable
from trafficrefinery.servicemap.matching import NO_SERVICE, NameMatcher, ServiceFilter
from trafficrefinery.servicemap.prefixes import PrefixTable

NO_NAME = -1
PUBLIC_NAMES = ("cloudflare-ech.com",)
"""Public names of ECH configurations that are known without DNS."""
_MAX_PUBLIC_NAMES = 1024
_NS_PER_S = 1_000_000_000


@dataclass
class ServiceMapCounters:
    """What a `ServiceMap` has seen."""

    dns_messages_total: int = counter("DNS messages that were read.")
    dns_malformed_total: int = counter("DNS messages that could not be read to their end.")
    dns_addresses_total: int = counter("Addresses in DNS answers.")
    dns_matched_total: int = counter("Addresses in DNS answers whose name belongs to a service.")
    names_refused_total: int = counter("Names of services that were not kept because there were too many.")


class ServiceMap:
    """Names, DNS answers and prefixes together: which service an address or a name belongs to.

    Compiled code reads `prefixes.tables` and `addresses.tables`; the latter is replaced when it grows, so it is to
    be taken anew after `learn_dns`.

    Args:
        services: in file order; of several that match, the first wins.
        min_ttl_ns: how long a DNS answer holds at least.
        max_addresses: entries of the address table; each answer takes two (for the client, and for any).
        max_names: distinct names that are kept to be reported.
        seed: of the address table's hash.

    Attributes:
        on_learned: called with client, server, expires_ns, learnt_ns and name of each DNS answer of a service.
        on_public_name: called with each new public name of ECH.

    Raises:
        ValueError: for rules that cannot be used, see `NameMatcher` and `PrefixTable`.
    """

    def __init__(
        self,
        services: Sequence[ServiceFilter],
        *,
        min_ttl_ns: int = 600 * _NS_PER_S,
        max_addresses: int = 262_144,
        max_names: int = 262_144,
        seed: int | None = None,
    ) -> None:
        self.services = tuple(services)
        self.matcher = NameMatcher(services)
        self.prefixes = PrefixTable([service.prefixes for service in services], [service.name for service in services])
        self.addresses = AddressTable(max_addresses, seed)
        self.names: list[str] = []
        self.counters = ServiceMapCounters()
        self.on_learned: Callable[[tuple[int, int], tuple[int, int], int, int, str], object] = lambda *_: None
        self._min_ttl_ns = min_ttl_ns
        self._max_names = max_names
        self._public_names = set(PUBLIC_NAMES)
        self.on_public_name: Callable[[str], object] = lambda _: None
        self._name_ids: dict[str, int] = {}

    def is_public_name(self, name: str) -> bool:
        """Whether a name is the public name of an ECH configuration (RFC 9849): a server's that hides others.

        A hello with the ECH extension does not say whether its name is that: browsers send the extension to all
        servers, without a meaning (GREASE), and with the true name. So only names that are known to be public names
        are: those that an HTTPS record gave in its `ech` parameter, and the one of the largest operator.
        """
        return name in self._public_names

    def learn_public_names(self, names: Iterable[str]) -> None:
        """Take public names from the ECH configurations of an HTTPS record, see `names.ech`."""
        for name in names:
            if len(self._public_names) < _MAX_PUBLIC_NAMES and name not in self._public_names:
                self._public_names.add(name)
                self.on_public_name(name)

    def name_service(self, name: str) -> int:
        """The service of a name, or -1."""
        return self.matcher.match(name)

    def name_id(self, name: str) -> int:
        """The place of a name in `names`, where it is put when it is new; -1 when there are too many."""
        known = self._name_ids.get(name)
        if known is None:
            if len(self.names) >= self._max_names:
                self.counters.names_refused_total += 1
                return NO_NAME
            known = self._name_ids[name] = len(self.names)
            self.names.append(name)
        return known

    def names_of(self, service: int) -> list[str]:
        """The names of a service that were seen, in the order in which they came."""
        return [name for name in self.names if self.matcher.match(name) == service]

    def learn_dns(self, payload: bytes, client_hi: int, client_lo: int, ts_ns: int) -> int:
        """Take a DNS message to a client (its destination address; 0, 0 when unknown).

        Returns the number of address answers that belong to a service.
        """
        message = read_dns(payload)
        if message is None:
            self.counters.dns_malformed_total += 1
            return 0
        self.counters.dns_messages_total += 1
        self.counters.dns_malformed_total += not message.complete
        if message.is_response:
            for answer in message.answers:
                if answer.rtype in (SVCB, HTTPS) and isinstance(answer.value, bytes):
                    self.learn_public_names(public_names(answer.value))
        return self._learn(message, (client_hi, client_lo), ts_ns) if message.is_response else 0

    def _learn(self, message: DnsMessage, client: tuple[int, int], ts_ns: int) -> int:
        matched = 0
        for address in resolve_answers(message):
            self.counters.dns_addresses_total += 1
            service, name = self._first_match(address)
            if service == NO_SERVICE:
                continue
            matched += 1
            expires_ns = ts_ns + max(address.ttl_s * _NS_PER_S, self._min_ttl_ns)
            server = (address.address_hi, address.address_lo)
            self._insert(client, server, (service, name), expires_ns, ts_ns)
            self.on_learned(client, server, expires_ns, ts_ns, name)
        self.counters.dns_matched_total += matched
        return matched

    def learn(self, client: tuple[int, int], server: tuple[int, int], name: str, expires_ns: int, ts_ns: int) -> None:
        """Take an address that somebody else learnt, with the name that matched."""
        service = self.matcher.match(name)
        if service != NO_SERVICE:
            self._insert(client, server, (service, name), expires_ns, ts_ns)

    def _insert(
        self, client: tuple[int, int], server: tuple[int, int], match: tuple[int, str], expires_ns: int, ts_ns: int
    ) -> None:
        service, name = match
        name_id = self.name_id(name)
        for whom in dict.fromkeys((client, ANY_CLIENT)):
            self.addresses.insert(whom, server, service, name_id, expires_ns, ts_ns)

    def _first_match(self, address: ResolvedAddress) -> tuple[int, str]:
        """The first service in file order among an address's names, and the name nearest to the question."""
        best, best_name = NO_SERVICE, ""
        for name in address.names:
            service = self.matcher.match(name)
            if service != NO_SERVICE and (best == NO_SERVICE or service < best):
                best, best_name = service, name
        return best, best_name
