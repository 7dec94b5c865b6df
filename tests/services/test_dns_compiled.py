"""DNS messages as compiled code reads them, against the reader in Python: the same, or left to that."""

from __future__ import annotations

import io
import itertools
from collections import Counter

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from support.changed_names import CHANGES, DNS
from support.dns_bindings import binding, with_bindings
from support.dns_frames import frames, ip_packet, segment
from support.dns_messages import ANSWERS, NAMES, message
from trafficrefinery.jit import borrowed, kernel, records
from trafficrefinery.packets.parser import PACKET
from trafficrefinery.services import ServiceFilter, ServiceMap
from trafficrefinery.services.dns.answers import APPLY, ASK, LARGE, MALFORMED, NOTHING, QUERY, take_message
from trafficrefinery.services.dns.compiled_messages import MAX_ADDRESSES
from trafficrefinery.services.dns.messages import AAAA, CNAME, HTTPS, SVCB, A, read_dns, resolve_answers

pytestmark = pytest.mark.modes
FILTERS = [
    ServiceFilter("Parts", ("zz",)),
    ServiceFilter("Domains", ("b.c", "video.example", "com")),
    ServiceFilter("Expressions", (), ("[0-9]x", "netflix")),
    ServiceFilter("Rest", (), (".",)),
]
RESULT = np.dtype([("hi", "u8"), ("lo", "u8"), ("ttl_s", "i8"), ("service", "i8"), ("reached", "i8")])
FIELDS = np.dtype([("complete", "i8"), ("questions", "i8"), ("addresses", "i8")])
HOUR_NS = 3600 * 10**9


@kernel
def take(answers, tables, payload, packets, now_ns, results, fields):
    a = borrowed(answers)[0]
    m = a.message
    status = take_message(a, borrowed(tables)[0], payload, 0, len(payload), packets[0], now_ns)
    fields[0].complete = m.complete
    fields[0].questions = m.questions
    fields[0].addresses = m.addresses
    if status == APPLY or status == NOTHING:
        for i in range(m.addresses):
            owner = m.address_owner[i]
            results[i].hi = m.address_hi[i]
            results[i].lo = m.address_lo[i]
            results[i].ttl_s = min(m.address_ttl_s[i], a.choice_ttl_s[owner])
            results[i].service = a.choice_service[owner]
            results[i].reached = a.reached[owner]
    return status


class Compiled:
    """The compiled reader, with a service map's rules; no query was seen of late."""

    def __init__(self):
        self.services = ServiceMap(FILTERS, max_addresses=512, max_names=512)
        self.results = records(np.zeros(MAX_ADDRESSES, RESULT))
        self.fields = records(np.zeros(1, FIELDS))
        self.packet = records(np.zeros(1, PACKET))
        self.packet["source_is_a"], self.packet["src_port"], self.packet["a_port"] = 1, 53, 53
        self.now_ns = 0
        self.packet["protocol"], self.packet["b_lo"], self.packet["b_port"] = 17, 77, 4000

    def read(self, payload):
        self.now_ns += 2 * HOUR_NS  # no query was seen for so long
        data = np.frombuffer(bytearray(payload), np.uint8)
        arguments = (self.services.answers.record, self.services.matcher.tables.record, data, self.packet, self.now_ns)
        status = take(*arguments, self.results, self.fields)
        while status == ASK:
            name = self.services.answers.unknown_name()
            self.services.matcher.tables.remember(name, self.services.ask_about_name())
            status = take(*arguments, self.results, self.fields)
        return status

    def check(self, payload):
        """Compare with the reader in Python; whether the message was not left to it."""
        status = self.read(payload)
        twin = read_dns(payload)
        if status == LARGE or (status == QUERY and twin is None):  # of a query, only what answers repeat is looked at
            return False
        if twin is None or status == MALFORMED:
            assert twin is None
            assert status == MALFORMED
            return True
        if not twin.is_response:
            assert status == QUERY
            return True
        assert self.fields["questions"][0] == len(twin.questions)
        assert bool(self.fields["complete"][0]) == twin.complete
        expected = [
            (one.address_hi, one.address_lo, one.ttl_s, self.services._first_match(one)[0])
            for one in resolve_answers(twin)
        ]
        found = np.asarray(self.results[: int(self.fields["addresses"][0])]).tolist()
        assert [row[:4] for row in found if row[4]] == expected
        assert all(row[3] == -1 for row in found if not row[4])
        return True


READER = Compiled()


HINTS = st.lists(
    st.one_of(
        st.tuples(st.just(4), st.binary(min_size=4, max_size=4)),
        st.tuples(st.just(4), st.binary(max_size=9)),
        st.tuples(st.just(6), st.binary(min_size=16, max_size=16)),
        st.tuples(st.integers(0, 9), st.binary(max_size=9)),
    ),
    max_size=3,
)
BINDINGS = st.builds(binding, NAMES, st.integers(0, 2), st.one_of(st.just(""), NAMES), HINTS, st.integers(0, 2**32 - 1))


@given(st.lists(st.tuples(NAMES, st.sampled_from([A, AAAA])), max_size=3), st.lists(ANSWERS, max_size=9), st.booleans())
def test_generated_messages_are_read_as_in_python(questions, answers, compress):
    assert READER.check(message(questions, answers, compress=compress)) or len(answers) > 4


@given(
    st.lists(st.tuples(NAMES, st.just(HTTPS)), max_size=2),
    st.lists(BINDINGS, max_size=4),
    st.lists(ANSWERS, max_size=2),
)
def test_service_bindings_are_read_as_in_python(questions, bindings, answers):
    READER.check(with_bindings(questions, bindings, answers))


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=16), st.booleans())
def test_chains_of_aliases_are_followed_as_in_python(letters, compress):
    aliases = [(f"{a}.b.c", CNAME, f"{b}.b.c", 60 + i) for i, (a, b) in enumerate(itertools.pairwise(letters))]
    READER.check(
        message([(f"{letters[0]}.b.c", A)], [*aliases, (f"{letters[-1]}.b.c", A, "192.0.2.1", 99)], compress=compress)
    )


SEEDS = [
    DNS,
    message(
        [("www.netflix.com", A)],
        [("www.netflix.com", CNAME, "a.b.c", 5), ("a.b.c", A, "192.0.2.1", 7), ("a.b.c", A, "192.0.2.2", 7)],
        compress=True,
    ),
    with_bindings(
        [("w.b.c", HTTPS)],
        [binding("w.b.c", 1, "s.example", [(1, b"\2h2"), (4, b"\xc0\0\2\1" * 2), (6, bytes(15) + b"1")], 60)],
    ),
]


@given(st.sampled_from(SEEDS), CHANGES, st.integers(0, 1300), st.integers(0, 60))
def test_damaged_messages_are_read_as_in_python(seed, changes, at, count):
    changed = bytearray(seed)
    for index, value in changes:
        changed[index % len(changed)] = value
    at %= len(changed)
    for payload in (bytes(changed), bytes(changed[:at]), bytes(changed[:at] + changed[at + count :])):
        READER.check(payload)


@given(st.binary(max_size=80).map(lambda noise: b"\0\1\x81\x80\0\1\0\2\0\0\0\0" + noise))
def test_noise_is_read_as_in_python(noise):
    READER.check(noise)


def test_service_bindings_give_their_hints_to_the_name_that_was_asked_for():
    """RFC 9460: a target is an alias of its owner; in AliasMode, hints say nothing."""
    v4, v6 = (4, bytes([192, 0, 2, 1, 192, 0, 2, 2])), (6, bytes(15) + b"1")
    answers = resolve_answers(read_dns(with_bindings([("w.b.c", HTTPS)], [binding("w.b.c", 1, "", [v4, v6], 60)])))
    assert [(one.address_lo & 0xFF, one.names, one.ttl_s) for one in answers] == [
        (1, ("w.b.c",), 60), (2, ("w.b.c",), 60), (0x31, ("w.b.c",), 60),
    ]  # fmt: skip
    answers = resolve_answers(read_dns(with_bindings([("w.b.c", HTTPS)], [binding("w.b.c", 1, "s.net", [v4], 60)])))
    assert [one.names for one in answers] == [("w.b.c", "s.net")] * 2
    assert not resolve_answers(read_dns(with_bindings([("w.b.c", HTTPS)], [binding("w.b.c", 0, "s.net", [v4], 60)])))
    followed = with_bindings([("w.b.c", A)], [binding("w.b.c", 0, "s.net", [], 60)], [("s.net", A, "192.0.2.9", 9)])
    assert [(one.names, one.ttl_s) for one in resolve_answers(read_dns(followed))] == [(("w.b.c", "s.net"), 9)]
    for payload in (followed, with_bindings([("w.b.c", SVCB)], [binding("w.b.c", 1, "s.net", [v4, v6], 60)])):
        assert READER.check(payload)


def opened(path):
    data = path.read_bytes()
    return io.BytesIO(zstandard.ZstdDecompressor().stream_reader(data).read() if path.suffix == ".zst" else data)


@pytest.mark.parametrize("name", ["ndpi", "netflix_2018.pcap.zst"])
def test_real_messages_are_read_as_in_python(shared_data, name):
    place = shared_data / name
    seen = Counter()
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        if ".pcap" not in path.name:
            continue
        for link_type, frame in frames(opened(path)):
            part = segment(ip_packet(link_type, frame))
            if part is not None and part.protocol == 17 and {part.source_port, part.destination_port} & {53, 5353}:
                seen[READER.check(part.payload)] += 1
    assert seen[True] > (1000 if place.is_dir() else 50)
    assert seen[False] <= seen[True] // 100
