"""The decision about names in compiled code, against one that tries every rule."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficrefinery.services import NO_SERVICE, NameMatcher, ServiceFilter
from trafficrefinery.services.expressions import ExpressionSet, required_text
from trafficrefinery.services.name_table import BEYOND, UNKNOWN, NameTables

NAMES = st.lists(st.text("abz0-_", min_size=1, max_size=4), min_size=1, max_size=5).map(".".join)
EXPRESSIONS = st.sampled_from(
    ["a.*b", "^ab", "b$", r"a\.b", "z", ".", "(ab|zz)a", "(ab)?z", "[ab]{2}0", r"\ba", "(?:ba)+", "A.B"]
)


@pytest.mark.modes
@given(
    st.lists(st.tuples(NAMES, st.integers(0, 9)), max_size=8),
    st.lists(st.tuples(st.text("ab0-", min_size=1, max_size=3), st.integers(0, 9)), max_size=8),
    st.lists(st.tuples(EXPRESSIONS, st.integers(0, 9)), max_size=5),
    st.lists(NAMES, min_size=1, max_size=6),
)
def test_a_name_gets_the_first_service_of_all_its_rules(domains, parts, expressions, names):
    domains = [("x." + domain if "." not in domain else domain, service) for domain, service in domains]
    for entries in (domains, parts, expressions):
        entries.sort(key=lambda entry: entry[1])
    texts = [(required_text(expression), service) for expression, service in expressions]
    tables = NameTables(domains, parts, texts, seed=random.Random(len(names)).getrandbits(64))
    for name in names * 2:
        text = name.encode()
        by_rule = [service for domain, service in domains if f".{name}".endswith(f".{domain}")]
        by_rule += [service for part, service in parts if part in name]
        asked = min(
            (service for expression, service in expressions if re.search(expression, name, re.IGNORECASE)),
            default=BEYOND,
        )
        found = tables.decide(text)
        if found == UNKNOWN:
            tables.remember(text, asked)
            found = tables.decide(text)
        assert found == min([*by_rule, asked]) if by_rule or asked < BEYOND else found == NO_SERVICE


@given(EXPRESSIONS, NAMES)
def test_an_expression_is_found_only_with_the_text_that_it_requires(expression, name):
    if re.search(expression, name, re.IGNORECASE):
        assert required_text(expression) in name
    assert ExpressionSet(["0{3}", expression]).matches(name) == [
        number for number, one in enumerate(("0{3}", expression)) if re.search(one, name, re.IGNORECASE)
    ]


@pytest.mark.modes
def test_names_are_numbered_in_order_up_to_a_bound():
    tables = NameTables(max_names=3)
    assert [tables.number(name) for name in (b"a", b"b.example", b"a", b"c", b"d", b"b.example")] == [0, 1, 0, 2, -1, 1]
    assert tables.names_from(0) == ["a", "b.example", "c"]
    assert tables.names_from(2) == ["c"]
    assert tables.refused_total == 1


def test_a_flood_of_new_names_does_not_make_those_in_use_forgotten():
    """Neither by compiled code, nor by the matcher."""
    matcher = NameMatcher([ServiceFilter("A", (), (r"^a.*\.example$",))], seed=1)
    honest = [f"{index}.a.example" for index in range(200)]
    asked = []
    search = matcher.search
    matcher.search = lambda name: (asked.append(name), search(name))[1]
    for number in range(100_000):
        if number % 1000 < 200:
            assert matcher.match(honest[number % 1000]) == NO_SERVICE
        matcher.match(f"{number}.a.example.evil.example")
    assert len([name for name in asked if name.decode() in honest]) <= 300
    for name in honest:
        matcher.tables.remember(name.encode(), BEYOND)
        assert matcher.tables.decide(name.encode()) == NO_SERVICE  # in use by compiled code as well
    forgotten = 0
    for number in range(100_000, 200_000):
        matcher.tables.remember(b"%d.evil.example" % number, BEYOND)
        if number % 10_000 == 0:
            for name in map(str.encode, honest):
                if matcher.tables.decide(name) == UNKNOWN:
                    forgotten += 1
                    matcher.tables.remember(name, BEYOND)
    assert forgotten <= 0.05 * 10 * len(honest)


def test_no_name_takes_long():
    """Names that took a backtracking matcher from milliseconds to hours; 100 µs is what a busy machine may make of 3."""
    expressions = (r"avod.*s3.*-.*\.akamaihd\.net$", r"^(a+)+$", "(.*a.*b){20}c", "(x+x+)+y")
    matcher = NameMatcher([ServiceFilter("A", (), expressions)])
    names = ["avod" + "s3-" * 80, "a" * 250 + "!", "ab" * 120, "x" * 250, "avod" + "s3-" * 70 + ".akamaihd.netx"]
    hostile = [f"{name}{number}" for number in range(400) for name in names]
    start = time.process_time()
    for name in hostile:
        assert matcher.match(name) == NO_SERVICE
    assert time.process_time() - start < len(hostile) * 100e-6


def test_thousands_of_parts_cost_what_one_costs():
    services = [ServiceFilter(f"S{number}", (f"part{number * 7919}x",)) for number in range(5000)]
    matcher = NameMatcher(services)
    names = [f"www.{'part' * 50}{number}.example" for number in range(2000)]
    start = time.process_time()
    assert {matcher.match(name) for name in names} == {NO_SERVICE}
    assert time.process_time() - start < len(names) * 100e-6
    assert matcher.match("a.xpart39595x.example") == 5
