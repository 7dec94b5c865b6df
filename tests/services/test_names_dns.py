"""DNS messages, aliases, and messages over TCP."""

from __future__ import annotations

import ipaddress
import struct
from itertools import pairwise

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.dns_messages import ANSWERS, NAMES, RESPONSE, message
from trafficrefinery.services.dns.messages import (
    AAAA,
    CNAME,
    A,
    DnsMessage,
    DnsStream,
    DnsStreams,
    read_dns,
    resolve_answers,
)


def wire_name(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def resolved(payload):
    """(address text, names, TTL) of a message."""
    found = resolve_answers(read_dns(payload))
    addresses = [ipaddress.IPv6Address(one.address_hi << 64 | one.address_lo) for one in found]
    return [(str(a.ipv4_mapped or a), one.names, one.ttl_s) for a, one in zip(addresses, found, strict=True)]


@given(
    st.lists(st.tuples(NAMES, st.sampled_from([A, AAAA])), max_size=2), st.lists(ANSWERS, max_size=12), st.booleans()
)
def test_messages_are_read_as_dpkt_reads_them(questions, answers, compress):
    payload = message(questions, answers, compress=compress)
    found = read_dns(payload)
    twin = dpkt.dns.DNS(payload)
    assert found.complete
    assert found.is_response == bool(twin.qr)
    assert found.questions == tuple((question.name.lower(), question.type) for question in twin.qd)
    values = {A: lambda rr: rr.ip, AAAA: lambda rr: rr.ip6, CNAME: lambda rr: rr.cname.lower()}
    assert found.answers == tuple((rr.name.lower(), rr.type, values[rr.type](rr), rr.ttl) for rr in twin.an)


@given(st.lists(ANSWERS, min_size=1, max_size=6), st.booleans(), st.data())
def test_what_lies_before_a_cut_is_kept(answers, compress, data):
    payload = message([("q.example", A)], answers, compress=compress)
    whole = read_dns(payload)
    part = read_dns(payload[: data.draw(st.integers(0, len(payload) - 1))])
    if part is not None:
        assert not part.complete
        assert part.questions == whole.questions[: len(part.questions)]
        assert part.answers == whole.answers[: len(part.answers)]


def test_all_addresses_of_an_alias_chain_carry_its_names_and_smallest_ttl():
    payload = message(
        [("www.video.example", A)],
        [
            ("www.video.example", CNAME, "a.cdn.example", 300),
            ("a.cdn.example", CNAME, "b.cdn.example", 20),
            ("b.cdn.example", A, "192.0.2.1", 60),
            ("b.cdn.example", A, "192.0.2.2", 5),
            ("b.cdn.example", AAAA, "2001:db8::1", 60),
        ],
    )
    names = ("www.video.example", "a.cdn.example", "b.cdn.example")
    assert resolved(payload) == [("192.0.2.1", names, 20), ("192.0.2.2", names, 5), ("2001:db8::1", names, 20)]


def test_aliases_are_followed_in_any_order_of_records():
    answers = [("b.example", A, "192.0.2.1", 60), ("a.example", CNAME, "b.example", 30)]
    assert resolved(message([("a.example", A)], answers)) == [("192.0.2.1", ("a.example", "b.example"), 30)]
    assert resolved(message((), answers)) == []


def test_aliases_in_a_circle_end():
    circle = [("a.example", CNAME, "b.example", 9), ("b.example", CNAME, "a.example", 9)]
    address = ("b.example", A, "192.0.2.1", 9)
    assert resolved(message([("a.example", A)], [*circle, address])) == [("192.0.2.1", ("a.example", "b.example"), 9)]
    assert resolved(message([("c.example", A)], [*circle, address])) == []


def test_names_that_were_not_asked_for_do_not_belong_to_an_answer():
    """Else anyone could append an alias of a service to the answer for a name of his own."""
    aliases = [("www.video.example", CNAME, "a.example", 9), ("a.example", CNAME, "b.example", 9)]
    payload = message([("a.example", A)], [*aliases, ("b.example", A, "192.0.2.1", 9)])
    assert resolved(payload) == [("192.0.2.1", ("a.example", "b.example"), 9)]
    stranger = [("a.example", CNAME, "b.example", 9), ("www.video.example", CNAME, "b.example", 9)]
    payload = message([("a.example", A)], [*stranger, ("b.example", A, "192.0.2.1", 9)])
    assert resolved(payload) == [("192.0.2.1", ("a.example", "b.example"), 9)]


def test_addresses_of_names_that_do_not_follow_from_the_question_are_nobodys():
    poison = ("www.video.example", A, "192.0.2.6", 9)
    own = ("a.example", A, "192.0.2.5", 9)
    for answers in ([own, poison], [poison, own]):
        assert resolved(message([("a.example", A)], answers)) == [("192.0.2.5", ("a.example",), 9)]
    assert resolved(message([("a.example", A)], [poison])) == []
    assert resolved(message([("a.example", A)], [("www.video.example", CNAME, "a.example", 9), poison])) == []


def followed(aliases, start, *, back=False):
    """The slow way: add until nothing is added."""
    found = {start}
    while True:
        more = {a if back else b for a, b in aliases if (b if back else a) in found} - found
        if not more:
            return found
        found |= more


@given(st.lists(st.tuples(NAMES, NAMES), max_size=12), NAMES, NAMES)
def test_the_names_of_an_address_are_all_on_the_way_from_the_question(aliases, question, owner):
    answers = [(alias, CNAME, target, 60) for alias, target in aliases] + [(owner, A, "192.0.2.1", 60)]
    found = resolved(message([(question, A)], answers))
    reached = followed(aliases, question)
    assert bool(found) == (owner in reached)
    if found:
        before = [(a, b) for a, b in aliases if a in reached and b != question]  # behind the question it ends
        assert set(found[0][1]) == followed(before, owner, back=True)
        assert found[0][1][-1] == owner


def test_case_and_the_final_dot_make_no_name_different():
    assert read_dns(message([("WWW.Video.EXAMPLE", A)])).questions == (("www.video.example", A),)


def test_bytes_that_are_not_plain_are_escaped_so_that_dots_part_labels():
    payload = struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\x05a.b\\\xff\x07example\0" + struct.pack(">HH", A, 1)
    assert read_dns(payload).questions[0].name == "a\\046b\\092\\255.example"


def test_a_ttl_with_the_top_bit_set_means_zero():
    payload = bytearray(message([("a.example", A)], [("a.example", A, "192.0.2.1", 60)]))
    payload[-10] |= 0x80
    assert resolved(bytes(payload)) == [("192.0.2.1", ("a.example",), 0)]


def test_addresses_of_another_class_are_none():
    payload = bytearray(message([("a.example", A)], [("a.example", A, "192.0.2.1", 60)]))
    payload[-11] = 3  # CHAOS
    assert resolved(bytes(payload)) == []


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (b"\x00" * 11, "shorter than a header"),
        (struct.pack(">6H", 1, 0x2800, 0, 0, 0, 0), "not a standard query"),
        (struct.pack(">6H", 1, 0, 1, 0, 0, 0), "the question that it announces is missing"),
        (struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\x01\0\x01", "a name that points at itself"),
        (struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\x3f" * 300, "a name of more than 255 bytes"),
        (struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\x40a\0\0\x01\0\x01", "a label of an unknown kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_message_is_none(payload, reason):
    assert read_dns(payload) is None


def test_an_address_of_a_wrong_size_is_damage():
    payload = bytearray(
        message([("a.example", A)], [("a.example", A, "192.0.2.1", 9), ("a.example", AAAA, "2001:db8::1", 9)])
    )
    payload[-17] = 15
    assert resolved(bytes(payload)) == [("192.0.2.1", ("a.example",), 9)]
    assert not read_dns(bytes(payload)).complete


@pytest.mark.parametrize(("last_label_bytes", "complete"), [(61, True), (62, False)])
def test_a_name_has_255_bytes_at_most_with_what_it_points_at(last_label_bytes, complete):
    long = (b"\x3f" + b"x" * 63) * 2  # 128 bytes, and its end
    payload = struct.pack(">6H", 1, 0, 2, 0, 0, 0) + long + b"\0" + struct.pack(">HH", A, 1)
    payload += (b"\x3f" + b"y" * 63) + bytes([last_label_bytes]) + b"z" * last_label_bytes + b"\xc0\x0c"
    assert read_dns(payload + struct.pack(">HH", A, 1)).complete == complete


def test_pointers_cannot_make_a_message_costly():
    """64 KiB of pointers to pointers, in place of minutes."""
    name = b"".join(b"\x01a" for _ in range(120)) + b"\0"
    records = b"".join(
        struct.pack(">HHHIH", 0xC000 | 12 + 2 * (index % 119), A, 1, 60, 4) + b"\x01\x02\x03\x04"
        for index in range(4000)
    )
    found = read_dns(
        struct.pack(">6H", 1, RESPONSE, 0, 4001, 0, 0) + name + struct.pack(">HHIH", A, 1, 60, 4) + records
    )
    assert found is None or len(found.answers) <= 4001
    chain = b"".join(struct.pack(">H", 0xC000 | 12 + 2 * max(index - 1, 0)) for index in range(8000))
    assert read_dns(struct.pack(">6H", 1, 0, 1, 0, 0, 0) + chain) is None


def framed(payload):
    return struct.pack(">H", len(payload)) + payload


MESSAGES = [message([(f"q{index}.example", A)], [(f"q{index}.example", A, "192.0.2.1", 60)]) for index in range(8)]


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 400), max_size=12),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_messages_over_tcp_come_whole_and_once_whatever_the_segments(isn, cuts, handshake, random):
    stream = b"".join(map(framed, MESSAGES))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    segments = [(start, stream[start:end]) for start, end in pairwise(edges)]
    if handshake:  # the start is known, so the order does not matter
        random.shuffle(segments)
    segments += [segments[0], (edges[-2] // 2, stream[edges[-2] // 2 : edges[-2]])]  # sent again, and overlapping
    reader = DnsStream()
    found = reader.feed(isn, b"", is_syn=True) if handshake else []
    for start, piece in segments:
        found += reader.feed((isn + 1 + start) % 2**32, piece, is_syn=False)
    if handshake or len(segments[0][1]) >= 14:
        assert found == MESSAGES


def test_a_hole_that_stays_open_is_skipped():
    reader = DnsStream()
    reader.feed(0, b"", is_syn=True)
    found, seq = [], 1000  # the first 999 bytes were never captured
    for _ in range(4):
        for payload in MESSAGES:
            found += reader.feed(seq, framed(payload), is_syn=False)
            seq += len(payload) + 2
    assert found == (MESSAGES * 4)[DnsStream._PATIENCE :]


def test_a_message_far_behind_a_hole_starts_the_stream_anew():
    reader = DnsStream()
    reader.feed(0, b"", is_syn=True)
    assert reader.feed(1 + 70_000, framed(MESSAGES[0]), is_syn=False) == [MESSAGES[0]]


def test_a_stream_whose_framing_is_lost_goes_on_with_the_next_message_that_starts_a_segment():
    reader = DnsStream()
    reader.feed(0, b"", is_syn=True)
    assert reader.feed(1, b"\0\x05" + bytes(20), is_syn=False) == []
    assert reader.feed(23, framed(MESSAGES[0]), is_syn=False) == [MESSAGES[0]]


def test_a_stream_of_something_else_gives_nothing_and_keeps_nothing():
    reader = DnsStream()
    assert [reader.feed(1000 * index, b"GET / HTTP/1.1\r\n\r\n" * 50, is_syn=False) for index in range(20)] == [[]] * 20
    assert reader._stream.ready_bytes == 0


def test_streams_are_bounded_and_the_longest_unused_gives_way():
    streams = DnsStreams(max_streams=2)
    start, end = framed(MESSAGES[0])[:20], framed(MESSAGES[0])[20:]
    for key in ("a", "b"):
        assert streams.feed(key, 1, start, is_syn=False) == []
    assert streams.feed("a", 21, end, is_syn=False) == [MESSAGES[0]]
    streams.feed("c", 1, start, is_syn=False)
    assert len(streams) == 2
    assert streams.evicted_total == 1
    assert streams.feed("b", 21, end, is_syn=False) == []


def test_a_message_is_a_plain_value():
    assert read_dns(message(flags=0)) == DnsMessage(False, 0, (), (), True)
