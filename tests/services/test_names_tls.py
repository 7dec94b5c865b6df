"""TLS ClientHellos, whole and in pieces."""

from __future__ import annotations

from itertools import pairwise

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.tls_hellos import client_hello, record, vector
from trafficrefinery.services.names import NO_ECH, Status
from trafficrefinery.services.names.assembly import ByteAssembly, seq_offset
from trafficrefinery.services.names.quic import crypto_name
from trafficrefinery.services.names.streams import LIMIT_BYTES, StreamReader


def split(stream, cuts):
    edges = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    return [(start, stream[start:end]) for start, end in pairwise(edges)]


@given(st.text("abcxyz.-", min_size=1, max_size=60).filter(lambda name: name.strip(".")))
def test_a_name_is_read_as_dpkt_reads_it(name):
    handshake = client_hello(name)
    twin = dict(dpkt.ssl.TLSHandshake(handshake).data.extensions)[0]
    assert crypto_name(handshake) == (Status.FOUND, twin[5:].decode().rstrip("."), NO_ECH)


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 10_000), max_size=8),
    st.integers(1, 900),
    st.integers(0, 2000),
    st.randoms(use_true_random=False),
)
def test_the_name_is_found_whatever_the_segments_records_and_their_order(
    isn, cuts, record_bytes, padding_bytes, random
):
    stream = record(client_hello(padding_bytes=padding_bytes), record_bytes)
    segments = split(stream, cuts)
    segments += [segments[0], (3, stream[3:30])]  # a retransmission, and one that overlaps
    random.shuffle(segments)
    reader = StreamReader((isn + 1) % 2**32)
    seen = [reader.feed((isn + 1 + start) % 2**32, piece) for start, piece in segments]
    assert seen[-1] is Status.FOUND
    assert reader.name == "www.video.example"


@given(st.lists(st.integers(1, 10_000), max_size=4), st.randoms(use_true_random=False))
def test_a_hello_is_found_where_a_segment_begins_behind_something_else(cuts, random):
    """The segments of a proxy's dialogue and of the hello behind it, in any order."""
    segments = [(0, b"CONNECT x:443\r\n"), (15, b"\r\n"), (17, b"\x05\x01\0")]
    segments += [(20 + start, piece) for start, piece in split(record(client_hello(padding_bytes=2000)), cuts)]
    random.shuffle(segments)
    reader = StreamReader(1000)
    for start, piece in segments:
        if reader.feed(1000 + start, piece) is Status.OTHER:
            reader = StreamReader(reader.start_seq)
    assert reader.name == "www.video.example"


def test_behind_something_else_the_reader_says_where_the_hello_may_begin():
    reader = StreamReader(100)
    assert reader.feed(105, record(client_hello())) is Status.NEED_MORE
    assert (reader.has_begun, reader.ready_bytes) == (False, 0)
    assert reader.feed(100, b"EHLO\n") is Status.FOUND
    assert (reader.name, reader.start_seq, reader.passed_bytes) == ("www.video.example", 100, 0)
    reader = StreamReader(100)
    assert reader.feed(105, record(client_hello())) is Status.NEED_MORE
    assert reader.feed(100, b"\x05\x01\0\0\0") is Status.FOUND
    assert (reader.name, reader.start_seq, reader.passed_bytes) == ("www.video.example", 105, 5)
    reader = StreamReader(0xFFFFFFFE)
    assert reader.feed(0xFFFFFFFE, b"\x05\x01\0") is Status.OTHER
    assert (reader.start_seq, reader.passed_bytes) == (1, 3)


def test_the_name_is_reported_before_the_hello_ends_but_its_absence_only_then():
    stream = record(client_hello())
    early = StreamReader(0)
    assert early.feed(0, stream[:-10]) is Status.FOUND
    assert early.name == "www.video.example"
    nameless = record(client_hello(None))
    reader = StreamReader(0)
    assert reader.feed(0, nameless[:-1]) is Status.NEED_MORE
    assert reader.feed(len(nameless) - 1, nameless[-1:]) is Status.FOUND
    assert reader.name is None


def test_a_hello_that_the_capture_cut_off_gives_its_name_when_that_was_captured():
    stream = record(client_hello(padding_bytes=100))
    name_end = stream.index(b"example") + len(b"example")
    reader = StreamReader(0)
    assert reader.feed(0, stream[:name_end], truncated=True) is Status.FOUND
    assert reader.name == "www.video.example"
    reader = StreamReader(0)
    assert reader.feed(0, stream[: name_end - 1], truncated=True) is Status.NOT_FOUND


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"\x80\x2e\x01\x03\x01" + bytes(40), "a hello of SSL version 2"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "a ServerHello"),
        (b"\x15\x03\x01\x00\x02\x01\x00", "an alert"),
        (b"\x16\x02\x00\x00\x50\x01", "an unknown version"),
        (b"\x16\x03\x01\xff\xff\x01", "a record that is too long"),
        (b"\x16\x03\x01\x00\x08\x01\x00\x00\x40\x07\x07\x00\x00", "a hello of an unknown version"),
        (b"\x16\x03\x01\x00\x02\x01\x00" + b"\x17\x03\x03\x00\x01\x00", "data in the middle of a hello"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_hello_is_not_tls(payload, reason):
    assert StreamReader(0).feed(0, payload) is Status.OTHER


def test_a_damaged_extension_hides_only_itself():
    handshake = bytearray(client_hello(alpn=()))
    at = handshake.index(b"www") - 2
    handshake[at : at + 2] = b"\xff\xff"  # the name claims to be longer than its extension
    assert crypto_name(bytes(handshake)) == (Status.FOUND, None, NO_ECH)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("WWW.Video.Example.", "www.video.example"),
        ("a b.example", None),
        ("\x00", None),
        ("é.example", None),
        ("", None),
    ],
)
def test_names_are_lower_case_ascii_or_none(name, expected):
    assert crypto_name(client_hello(name))[:2] == (Status.FOUND, expected)


def test_a_hello_is_given_up_at_its_bounds():
    endless = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff\x03\x03" + bytes(32) + vector(1, b"") + vector(2, bytes(60_000))
    reader = StreamReader(0)
    seen = [reader.feed(start, endless[start : start + 1400]) for start in range(0, 16384, 1400)]
    assert seen[-1] is Status.NOT_FOUND


@given(st.randoms(use_true_random=False), st.booleans())
def test_a_hello_is_found_byte_by_byte_in_any_order(random, shuffled):
    stream = record(client_hello(padding_bytes=300), 50)
    order = list(range(len(stream)))
    if shuffled:
        random.shuffle(order)
    reader = StreamReader(7)
    statuses = [reader.feed(7 + index, stream[index : index + 1]) for index in order * 2]
    assert Status.OTHER not in statuses
    assert reader.name == "www.video.example"


def test_segments_that_come_again_do_not_count():
    stream = record(client_hello(padding_bytes=2000))
    reader = StreamReader(0)
    assert {reader.feed(1400, stream[1400:2000]) for _ in range(500)} == {Status.NEED_MORE}
    assert {reader.feed(0, stream[:1000]) for _ in range(500)} == {Status.NEED_MORE}
    assert reader.has_begun
    assert reader.feed(1000, stream[1000:1400]) is Status.NEED_MORE
    assert reader.feed(2000, stream[2000:]) is Status.FOUND
    assert reader.memory_bytes <= 2 * LIMIT_BYTES + 64 * 4


PIECES = st.lists(st.tuples(st.integers(-10, 60), st.binary(min_size=1, max_size=20)), max_size=20)


@given(PIECES, st.integers(1, 64))
def test_an_assembly_keeps_what_came_first_at_each_place(pieces, limit_bytes):
    assembly, twin = ByteAssembly(limit_bytes), {}
    for offset, piece in pieces:
        known = len(twin)
        added = assembly.add(offset, piece)
        for index, byte in enumerate(piece):
            if 0 <= offset + index < limit_bytes:
                twin.setdefault(offset + index, byte)
        assert added == len(twin) - known
        expected = bytearray()
        while len(expected) in twin:
            expected.append(twin[len(expected)])
        assert assembly.prefix() == bytes(expected)
        assert assembly.ready_bytes == len(expected)


@given(PIECES, st.integers(0, 30))
def test_what_is_taken_from_an_assembly_is_gone_and_the_rest_moves_up(pieces, count):
    assembly, whole = ByteAssembly(64), ByteAssembly(64)
    for offset, piece in pieces:
        assembly.add(offset, piece)
        whole.add(offset, piece)
    count = min(count, whole.ready_bytes)
    assert assembly.take(count) + assembly.prefix() == whole.prefix()
    assembly.add(assembly.ready_bytes, b"x" * 64)
    whole.add(whole.ready_bytes, b"x" * 64)
    assert assembly.prefix(20) == whole.prefix()[count : count + 20]


def test_an_assembly_takes_twice_its_limit_however_many_holes_there_are():
    assembly = ByteAssembly(10_000)
    for index in range(1, 6000):
        assembly.add(2 * index, b"x")
    assert assembly.has_holes
    assert assembly.memory_bytes <= 20_000
    for index in range(5000):
        assembly.add(2 * index + 1, b"y")
    assembly.add(0, b"z")
    assert assembly.is_full
    assert assembly.prefix() == b"zy" + b"xy" * 4999


@given(st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1))
def test_sequence_numbers_are_compared_modulo_two_to_the_32(start, distance):
    assert seq_offset((start + distance) % 2**32, start) == distance
