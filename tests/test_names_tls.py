"""TLS ClientHellos, whole and in pieces."""

from __future__ import annotations

import struct
from itertools import pairwise

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficrefinery.names import Status
from trafficrefinery.names.assembly import ByteAssembly, seq_offset
from trafficrefinery.names.tls import ClientHello, ClientHelloReader, read_client_hello, starts_client_hello


def vector(width, content):
    return len(content).to_bytes(width) + content


def client_hello(name="www.video.example", alpn=("h2", "http/1.1"), padding_bytes=0):
    """A handshake message with the extensions that browsers send before and after the name."""
    extensions = struct.pack(">HH", 0x3A3A, 0)
    if padding_bytes:
        extensions += struct.pack(">H", 21) + vector(2, bytes(padding_bytes))
    if name is not None:
        extensions += struct.pack(">H", 0) + vector(2, vector(2, b"\0" + vector(2, name.encode())))
    if alpn:
        extensions += struct.pack(">H", 16) + vector(2, vector(2, b"".join(vector(1, p.encode()) for p in alpn)))
    extensions += struct.pack(">H", 23) + vector(2, b"")
    body = b"\x03\x03" + bytes(32) + vector(1, bytes(32)) + vector(2, b"\x13\x01\x13\x02") + vector(1, b"\0")
    return b"\x01" + vector(3, body + vector(2, extensions))


def record(handshake, record_bytes=16384):
    """Handshake bytes in TLS records of at most `record_bytes` each."""
    pieces = [handshake[start : start + record_bytes] for start in range(0, len(handshake), record_bytes)]
    return b"".join(b"\x16\x03\x01" + vector(2, piece) for piece in pieces)


def split(stream, cuts):
    edges = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    return [(start, stream[start:end]) for start, end in pairwise(edges)]


@given(st.text("abcxyz.-", min_size=1, max_size=60).filter(lambda name: name.strip(".")))
def test_a_name_is_read_as_dpkt_reads_it(name):
    handshake = client_hello(name)
    twin = dict(dpkt.ssl.TLSHandshake(handshake).data.extensions)[0]
    assert read_client_hello(handshake) == ClientHello(twin[5:].decode().rstrip("."), ("h2", "http/1.1"), True)


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
    reader = ClientHelloReader((isn + 1) % 2**32)
    seen = [reader.feed((isn + 1 + start) % 2**32, piece) for start, piece in segments]
    assert seen[-1] is Status.FOUND
    assert reader.sni == "www.video.example"


@given(st.lists(st.integers(20, 10_000), max_size=2), st.permutations(range(3)))
def test_without_the_syn_the_name_is_found_from_the_segment_that_starts_the_hello(cuts, order):
    segments = split(record(client_hello(padding_bytes=2000)), cuts)
    reader = ClientHelloReader(None)
    for index in order:
        if index < len(segments):
            reader.feed(0xFFFFFF00 + segments[index][0] & 0xFFFFFFFF, segments[index][1])
    assert reader.status is Status.FOUND
    assert reader.sni == "www.video.example"


def test_what_came_before_the_start_of_the_hello_is_not_part_of_it():
    reader = ClientHelloReader(None)
    assert reader.feed(95, b"CONNECT...") is Status.NEED_MORE  # reaches 5 bytes into the hello
    assert reader.feed(100, record(client_hello())) is Status.FOUND
    assert reader.sni == "www.video.example"


def test_the_name_is_reported_before_the_hello_ends_but_its_absence_only_then():
    stream = record(client_hello())
    early = ClientHelloReader(0)
    assert early.feed(0, stream[:-10]) is Status.FOUND
    assert early.sni == "www.video.example"
    nameless = record(client_hello(None))
    reader = ClientHelloReader(0)
    assert reader.feed(0, nameless[:-1]) is Status.NEED_MORE
    assert reader.feed(len(nameless) - 1, nameless[-1:]) is Status.FOUND
    assert (reader.sni, reader.alpn) == (None, ("h2", "http/1.1"))


def test_a_hello_that_the_capture_cut_off_gives_its_name_when_that_was_captured():
    stream = record(client_hello(padding_bytes=100))
    name_end = stream.index(b"example") + len(b"example")
    reader = ClientHelloReader(0)
    assert reader.feed(0, stream[:name_end], truncated=True) is Status.FOUND
    assert reader.sni == "www.video.example"
    reader = ClientHelloReader(0)
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
    assert ClientHelloReader(0).feed(0, payload) is Status.NOT_TLS


def test_a_flow_in_its_middle_is_not_tls_after_three_segments():
    reader = ClientHelloReader(None)
    assert [reader.feed(1000 * index, b"\x17\x03\x03\x01\x00" + bytes(256)) for index in range(3)] == [
        Status.NEED_MORE,
        Status.NEED_MORE,
        Status.NOT_TLS,
    ]


def test_only_a_whole_hello_is_complete():
    handshake = client_hello(None)
    assert [count for count in range(len(handshake) + 1) if (read_client_hello(handshake[:count]) or (0, 0, 0))[2]] == [
        len(handshake)
    ]
    assert read_client_hello(b"\x01" + vector(3, b"\x03\x00" + bytes(33) + vector(2, b"\0\x2f") + b"\1\0")).complete


def test_a_damaged_extension_hides_only_itself():
    handshake = bytearray(client_hello(alpn=()))
    at = handshake.index(b"www") - 2
    handshake[at : at + 2] = b"\xff\xff"  # the name claims to be longer than its extension
    assert read_client_hello(bytes(handshake)) == ClientHello(None, (), True)


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
    assert read_client_hello(client_hello(name)).sni == expected


def test_a_hello_is_given_up_at_its_bounds():
    endless = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff\x03\x03" + bytes(32) + vector(1, b"") + vector(2, bytes(60_000))
    reader = ClientHelloReader(0)
    seen = [reader.feed(start, endless[start : start + 1400]) for start in range(0, 16384, 1400)]
    assert seen[-1] is Status.NOT_FOUND
    slow = ClientHelloReader(0)
    stream = record(client_hello(padding_bytes=1000))
    seen = [slow.feed(index, stream[index : index + 1]) for index in range(100)]
    assert seen[-1] is Status.NOT_FOUND
    assert slow.feed(100, stream[100:]) is Status.NOT_FOUND


@given(st.binary(max_size=12))
def test_the_start_of_a_hello_is_recognised_from_any_number_of_bytes(noise):
    stream = record(client_hello())
    assert all(starts_client_hello(stream[:count]) for count in range(1, 20))
    if starts_client_hello(noise) and len(noise) >= 6:
        assert noise[0] == 22
        assert noise[1] == 3
        assert noise[5] == 1


PIECES = st.lists(st.tuples(st.integers(-10, 60), st.binary(min_size=1, max_size=20)), max_size=20)


@given(PIECES, st.integers(1, 64))
def test_an_assembly_keeps_what_came_first_at_each_place(pieces, limit_bytes):
    assembly, twin = ByteAssembly(limit_bytes), {}
    for offset, piece in pieces:
        assembly.add(offset, piece)
        for index, byte in enumerate(piece):
            if 0 <= offset + index < limit_bytes:
                twin.setdefault(offset + index, byte)
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


def test_an_assembly_refuses_more_holes_than_its_bound():
    assembly = ByteAssembly(10_000)
    for index in range(1, 200):
        assembly.add(2 * index, b"x")
    assert len(assembly._ranges) == ByteAssembly.MAX_RANGES


@given(st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1))
def test_sequence_numbers_are_compared_modulo_two_to_the_32(start, distance):
    assert seq_offset((start + distance) % 2**32, start) == distance
