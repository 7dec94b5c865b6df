"""Rules, prefixes and learned addresses, each against a twin that is obviously right."""

from __future__ import annotations

import ipaddress
import json
import re
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficrefinery.jit import MODE, kernel
from trafficrefinery.services import (
    ANY_CLIENT,
    NO_NAME,
    NO_SERVICE,
    AddressTable,
    NameMatcher,
    PrefixTable,
    ServiceFilter,
    ServiceMap,
    lookup_address,
    lookup_prefix,
)

S = 1_000_000_000
LABELS = st.sampled_from(["a", "b", "ab", "net", "com", "netflix", "notnetflix", "x-1"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
REGEXES = st.sampled_from(["a", "^a", "net.*com$", r"\.b\.", "b$", "A[B]", "flix|x"])
FILTERS = st.builds(
    ServiceFilter,
    st.just("s"),
    st.lists(NAMES, max_size=3).map(tuple),
    st.lists(REGEXES, max_size=2).map(tuple),
)


def naive_match(services, name):
    """Every rule of every service, in file order."""
    labels = name.lower().split(".")
    for index, service in enumerate(services):
        for entry in service.domains_string:
            wanted = entry.lower().split(".")
            inside = len(wanted) == 1 and any(wanted[0] in label for label in labels)
            if inside or (len(wanted) > 1 and labels[-len(wanted) :] == wanted):
                return index
        if any(re.search(expression, name.lower(), re.IGNORECASE) for expression in service.domains_regex):
            return index
    return NO_SERVICE


@given(st.lists(FILTERS, max_size=5), st.lists(NAMES, min_size=1, max_size=10))
def test_the_first_service_in_file_order_wins(services, names):
    matcher = NameMatcher(services)
    for name in [*names, *names]:  # once searched, once remembered
        assert matcher.match(name) == naive_match(services, name)
        assert matcher.match(name.upper()) == naive_match(services, name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("netflix.com", 0),
        ("www.netflix.com", 0),
        ("WWW.NetFlix.COM.", 0),
        ("notnetflix.com", NO_SERVICE),
        ("netflix.com.evil.org", NO_SERVICE),
        ("a.hulustream-1.akamai.example", 1),
        ("hulu.stream", NO_SERVICE),
        ("x.Hulu7.akamaihd.net", 1),
        ("", NO_SERVICE),
    ],
)
def test_domains_match_on_label_boundaries_and_those_without_a_dot_inside_a_label(name, expected):
    hulu = ServiceFilter("Hulu", ("hulustream",), (".*hulu.*.akamaihd.net",))
    assert NameMatcher([ServiceFilter("Netflix", ("netflix.com",)), hulu]).match(name) == expected


@pytest.mark.parametrize("service", [ServiceFilter("Empty", ("",)), ServiceFilter("Broken", (), ("(",))])
def test_rules_that_cannot_be_used_are_refused_with_the_name_of_their_service(service):
    with pytest.raises(ValueError, match=service.name):
        NameMatcher([service])


def test_fifty_thousand_domains_are_ready_in_a_second_and_cost_microseconds(shared_data):
    with (shared_data / "original_configs" / "trconfig_ads.json").open() as file:
        services = [ServiceFilter(s["Name"], tuple(s["Filter"]["DomainsString"])) for s in json.load(file)["Services"]]
    assert sum(len(service.domains_string) for service in services) == 50_722
    start = time.perf_counter()
    matcher = NameMatcher(services)
    built = time.perf_counter()
    for index in range(10_000):
        assert matcher.match(f"host{index}.no.such.example") == NO_SERVICE
    if MODE == "on":  # plain Python is for debuggers
        assert built - start < 1
        assert time.perf_counter() - built < 10_000 * 100e-6  # 100 µs each, of which a busy machine takes most
    assert matcher.match("ad.doubleclick.net") == 0


def pair(address):
    number = int(ipaddress.ip_address(address))
    if number < 1 << 32 and ipaddress.ip_address(address).version == 4:
        number |= 0xFFFF << 32
    return number >> 64, number & (1 << 64) - 1


def nearby_networks(base_address, bits):
    """Prefixes close to each other, so that they nest and touch."""
    base = int(ipaddress.ip_address(base_address))
    return st.tuples(st.integers(0, 255), st.one_of(st.just(0), st.integers(bits - 9, bits))).map(
        lambda drawn: ipaddress.ip_network((base | drawn[0], drawn[1]), strict=False)
    )


BASES = ("10.0.0.0", "255.255.255.0", "::", "2001:db8::", "ffff:" * 7 + "ff00")
NETWORKS = st.one_of(*(nearby_networks(base, 128 if ":" in base else 32) for base in BASES))
ADDRESSES = st.one_of(
    *(st.integers(0, 300).map(ipaddress.ip_address(base).__add__) for base in ("9.255.255.240", "2001:db8::")),
    *(st.integers(0, 270).map(ipaddress.ip_address(end).__sub__) for end in ("255.255.255.255", "ffff:" * 7 + "ffff")),
    st.ip_addresses(),
    st.sampled_from(["0.0.0.0", "::", "::1", "::fffe:ffff:ffff", "::1:0:0:0"]).map(ipaddress.ip_address),
)


def naive_prefix(services, address):
    """The longest prefix that covers an address: its service, and whether it is everything."""
    covering = [
        (network.prefixlen, service)
        for service, networks in enumerate(services)
        for network in networks
        if address in network
    ]
    length, service = max(covering, default=(-1, NO_SERVICE))
    return service, length == 0


@pytest.mark.modes
@given(st.lists(st.lists(NETWORKS, max_size=4), max_size=4), st.lists(ADDRESSES, min_size=1, max_size=20))
def test_the_longest_prefix_wins(services, addresses):
    owners = {}
    for index, networks in enumerate(services):
        services[index] = [network for network in networks if owners.setdefault(network, index) == index]
    table = PrefixTable([[str(network) for network in networks] for networks in services])
    for address in addresses:
        if address.version == 4 or address.ipv4_mapped is None:
            assert table.find(*pair(address)) == naive_prefix(services, address)


def test_a_prefix_in_two_services_is_an_error_and_twice_in_one_is_not():
    with pytest.raises(ValueError, match=r'10[.]0[.]0[.]0/8 is in two services, "A" and "B"'):
        PrefixTable([["10.0.0.0/8"], ["10.0.0.0/8"]], ["A", "B"])
    with pytest.raises(ValueError, match="two services"):
        PrefixTable([["10.0.0.0/8"], ["::ffff:10.0.0.0/104"]])
    assert PrefixTable([["10.0.0.0/8", "10.0.0.0/8"]]).find(*pair("10.1.1.1")) == (0, False)
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/33"):
        PrefixTable([["10.0.0.0/33"]])


def test_the_ranges_at_the_end_of_all_addresses_end_where_they_should():
    last = "ffff:" * 7 + "ffff"
    table = PrefixTable([["ff00::/16"], [f"{last}/128"]])
    assert [table.find(*pair(address))[0] for address in ("feff::", "ff00::", "ff01::", last)] == [-1, 0, -1, 1]


def test_everything_of_one_ip_version_is_nothing_of_the_other():
    four, six = PrefixTable([["0.0.0.0/0"]]), PrefixTable([["::/0"]])
    assert (four.find(*pair("192.0.2.1")), four.find(*pair("2001:db8::1"))) == ((0, True), (-1, False))
    assert (six.find(*pair("192.0.2.1")), six.find(*pair("2001:db8::1"))) == ((-1, False), (0, True))
    assert PrefixTable([]).find(*pair("192.0.2.1")) == (-1, False)


@kernel
def both_lookups(prefixes, addresses, client, server, ts_ns):
    service, _ = lookup_prefix(prefixes, server[0], server[1])
    return service, lookup_address(addresses, client[0], client[1], server[0], server[1], ts_ns)


@pytest.mark.modes
def test_compiled_code_takes_the_tables_as_arguments():
    services = ServiceMap([ServiceFilter("A", (), (), ("10.0.0.0/8",))])
    server, client = pair("10.1.2.3"), pair("2001:db8::1")
    services.addresses.insert(client, server, 0, 7, 100, 0)
    arguments = [np.array(client, np.uint64), np.array(server, np.uint64)]
    service, index = both_lookups(services.prefixes.tables, services.addresses.tables, *arguments, 100)
    assert service == 0
    assert services.addresses.tables.entries[index]["name_id"] == 7
    assert both_lookups(services.prefixes.tables, services.addresses.tables, *arguments, 101) == (0, -1)


HALVES = st.sampled_from([0, 1, 2, 1 << 63, (1 << 64) - 1])
KEYS = st.tuples(HALVES, HALVES)
INSERTS = st.tuples(KEYS, KEYS, st.integers(0, 2), st.integers(0, 100), st.integers(1, 50))


class NaiveAddresses:
    """A dictionary that forgets nothing."""

    def __init__(self):
        self.entries = {}

    def insert(self, client, server, service, name_id, expires_ns):
        known = self.entries.get((client, server))
        if known is not None and known[0] == service:
            expires_ns = max(expires_ns, known[2])
        self.entries[client, server] = (service, name_id, expires_ns)

    def get(self, client, server, ts_ns):
        for whom in (client, ANY_CLIENT):
            known = self.entries.get((whom, server))
            if known is not None and known[2] >= ts_ns:
                return known[:2]
        return None


@pytest.mark.modes
@given(st.lists(INSERTS, max_size=60), st.integers(0, 2**64 - 1))
def test_the_address_table_is_a_dictionary_with_expiry_whatever_the_seed(inserts, seed):
    table, twin = AddressTable(seed=seed), NaiveAddresses()
    for ts_ns, (client, server, service, name_id, ttl) in enumerate(inserts):
        table.insert(client, server, service, name_id, ts_ns + ttl, ts_ns)
        twin.insert(client, server, service, name_id, ts_ns + ttl)
        for later in (0, ttl, ttl + 1):
            assert table.get(client, server, ts_ns + later) == twin.get(client, server, ts_ns + later)
            assert table.get((5, 5), server, ts_ns + later) == twin.get((5, 5), server, ts_ns + later)
    assert len(table) == len(twin.entries)
    assert table.replaced_total == 0


@pytest.mark.modes
@settings(max_examples=10)
@given(st.integers(0, 2**64 - 1), st.integers(1, 2000))
def test_the_address_table_grows_and_drops_what_has_expired(seed, lifetime):
    table, count = AddressTable(max_entries=100_000, seed=seed), 1500
    for index in range(count):
        table.insert((0, index), (index, 9), index % 5, index, index + lifetime, index)
    for index in range(0, count, 7):
        expected = (index % 5, index) if index + lifetime >= count else None
        assert table.get((0, index), (index, 9), count) == expected
    assert table.replaced_total == 0
    assert len(table) <= max(2 * (lifetime + 1), 512)
    assert len(table.tables.entries) <= 8 * max(lifetime, 512)


@pytest.mark.modes
@pytest.mark.parametrize("max_entries", [1, 2, 3, 100, 700])
def test_at_its_bound_the_table_replaces_and_counts_and_keeps_what_is_new(max_entries):
    table = AddressTable(max_entries=max_entries, seed=1)
    for index in range(2000):
        table.insert((0, index), (7, index), 1, index, 10_000 + index, index)
        assert table.get((0, index), (7, index), index) == (1, index)
        assert len(table) <= max_entries
    assert len(table) == max_entries
    assert table.replaced_total == 2000 - max_entries
    kept = [index for index in range(2000) if table.get((0, index), (7, index), 0) is not None]
    assert len(kept) == max_entries
    assert np.mean(kept) > 999  # those that end first went first, nearly
    table.insert((0, 1999), (7, 1999), 1, 0, 20_000, 2000)
    assert table.replaced_total == 2000 - max_entries  # a known key needs no room


@pytest.mark.modes
def test_at_its_bound_expired_entries_go_first():
    table = AddressTable(max_entries=64, seed=1)
    for index in range(64):
        table.insert((0, index), (7, index), 1, index, 10 if index % 2 else 1000, 0)
    for index in range(64, 96):
        table.insert((0, index), (7, index), 1, index, 1000, 11)
    assert table.replaced_total == 0
    assert [index for index in range(96) if table.get((0, index), (7, index), 11)] == [*range(0, 64, 2), *range(64, 96)]


def response(question, *answers):
    """A response with addresses and aliases; (owner, value, TTL), where a value with a letter is an alias."""

    def name(text):
        return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"

    out = struct.pack(">6H", 1, 0x8180, 1, len(answers), 0, 0) + name(question) + struct.pack(">HH", 1, 1)
    for owner, value, ttl_s in answers:
        try:
            address = ipaddress.ip_address(value)
            rtype, data = (1 if address.version == 4 else 28), address.packed
        except ValueError:
            rtype, data = 5, name(value)
        out += name(owner) + struct.pack(">HHIH", rtype, 1, ttl_s, len(data)) + data
    return out


CLIENT, OTHER = pair("192.168.0.2"), pair("192.168.0.3")
VIDEO = ServiceFilter("Video", ("video.example",))
CDN = ServiceFilter("CDN", ("cdn.example",))


def test_an_answer_holds_for_its_client_first_and_else_for_any():
    services = ServiceMap([VIDEO, CDN])
    server = pair("192.0.2.1")
    assert services.learn_dns(response("www.video.example", ("www.video.example", "192.0.2.1", 60)), *CLIENT, 0) == 1
    assert services.learn_dns(response("x.cdn.example", ("x.cdn.example", "192.0.2.1", 60)), *OTHER, 0) == 1
    assert services.addresses.get(CLIENT, server, 1) == (0, 0)
    assert services.addresses.get(OTHER, server, 1) == (1, 1)
    assert services.addresses.get(pair("192.168.0.4"), server, 1) == (1, 1)
    assert services.names == ["www.video.example", "x.cdn.example"]


def test_of_the_names_in_a_chain_the_first_service_in_file_order_wins_and_its_name_is_kept():
    answer = response(
        "start.other.example",
        ("start.other.example", "b.cdn.example", 60),
        ("b.cdn.example", "c.video.example", 60),
        ("c.video.example", "2001:db8::1", 60),
    )
    for order, name in (([VIDEO, CDN], "c.video.example"), ([CDN, VIDEO], "b.cdn.example")):
        services = ServiceMap(order)
        assert services.learn_dns(answer, *CLIENT, 0) == 1
        service, name_id = services.addresses.get(CLIENT, pair("2001:db8::1"), 0)
        assert (service, services.names[name_id]) == (0, name)


def test_a_name_stays_known_for_its_ttl_and_ten_minutes_at_least_and_a_new_answer_extends_it():
    services = ServiceMap([VIDEO])
    short = response("a.video.example", ("a.video.example", "192.0.2.1", 5))
    long = response("b.video.example", ("b.video.example", "192.0.2.2", 3600))
    services.learn_dns(short + b"", *CLIENT, 0)
    services.learn_dns(long, *CLIENT, 0)
    for address, last_s in (("192.0.2.1", 600), ("192.0.2.2", 3600)):
        assert services.addresses.get(CLIENT, pair(address), last_s * S) is not None
        assert services.addresses.get(CLIENT, pair(address), last_s * S + 1) is None
    services.learn_dns(long, *CLIENT, 0)
    services.learn_dns(short, *CLIENT, 500 * S)
    assert services.addresses.get(CLIENT, pair("192.0.2.1"), 1100 * S) is not None
    brief = ServiceMap([VIDEO], min_ttl_ns=0)
    brief.learn_dns(short, *CLIENT, 0)
    assert brief.addresses.get(CLIENT, pair("192.0.2.1"), 5 * S + 1) is None


def test_messages_are_counted_by_what_they_were():
    services = ServiceMap([VIDEO])
    good = response("a.video.example", ("a.video.example", "192.0.2.1", 5), ("a.video.example", "192.0.2.2", 5))
    assert services.learn_dns(good, *CLIENT, 0) == 2
    assert services.learn_dns(good[:-1], *CLIENT, 0) == 1  # the answer before the damage
    assert services.learn_dns(b"no DNS", *CLIENT, 0) == 0
    assert services.learn_dns(good[:2] + b"\x01\0" + good[4:], *CLIENT, 0) == 0  # a query
    assert services.learn_dns(response("a.example", ("a.example", "192.0.2.3", 5)), *CLIENT, 0) == 0
    counters = services.counters
    assert (counters.dns_messages_total, counters.dns_malformed_total) == (4, 2)
    assert (counters.dns_addresses_total, counters.dns_matched_total) == (4, 3)
    assert services.addresses.get(CLIENT, pair("192.0.2.3"), 0) is None
    assert len(services.addresses) == 4


def test_names_are_kept_up_to_a_bound_and_refusals_are_counted():
    services = ServiceMap([VIDEO], max_names=2)
    assert [services.name_id(name) for name in ("a", "b", "a", "c")] == [0, 1, 0, NO_NAME]
    assert services.counters.names_refused_total == 1
    for index in range(4):
        name = f"{index}.video.example"
        services.learn_dns(response(name, (name, f"192.0.2.{index}", 5)), *CLIENT, 0)
    assert services.addresses.get(CLIENT, pair("192.0.2.3"), 0) == (0, NO_NAME)


def test_the_names_of_each_service_are_known():
    services = ServiceMap([VIDEO, CDN])
    for name in ("b.video.example", "cdn.example", "a.video.example"):
        services.name_id(name)
    assert list(services.names) == ["b.video.example", "cdn.example", "a.video.example"]
    assert services.name_service("X.CDN.example") == 1
    assert services.name_service("example") == NO_SERVICE


OF_RE2 = [
    (r"\.example\z", ["a.example"], ["a.example.org"]),
    (r"^\pL+\.example$", ["abc.example"], ["1.example"]),
    (r"^\p{L}\P{N}", ["ab"], ["1b", "a1"]),
    (r"^\Qa.b{,3}\E+", ["a.b{,3}"], ["aab"]),
    (r"\Qa.b", ["xa.b"], ["axb"]),
    ("^[[:digit:]]x", ["1x"], ["ax", "]x"]),
    ("[^[:^alpha:]]-", ["a-"], ["1-"]),
    (r"\x{2014}|^a", ["ab"], ["b"]),
    ("(?U)^a+b", ["aab"], ["b"]),
    ("a(?i)B", ["ab"], ["ac"]),
    (r"a\C$", ["ab"], ["abc"]),
    ("[é-ž]?x$", ["x"], ["xa"]),
]


@pytest.mark.parametrize(("expression", "found", "others"), OF_RE2)
def test_what_re2_takes_is_used_also_where_python_does_not_know_it(expression, found, others):
    matcher = NameMatcher(
        [ServiceFilter("Other", ("none.test",)), ServiceFilter("One", (), (expression, "none|nothing"))]
    )
    assert [matcher.match(name) for name in found] == [1] * len(found)
    assert [matcher.match(name) for name in others] == [-1] * len(others)
