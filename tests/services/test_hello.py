"""Hellos read in compiled code: as the naive twin reads them, whole, cut, damaged, and behind what a proxy says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.hello_variants import CHLO, CONNECT, PROXY_V1, PROXY_V2, chlo, with_extension
from support.naive import hellos
from support.tls_hellos import client_hello, record, vector
from trafficrefinery.jit import borrowed, kernel
from trafficrefinery.services.names import HAS_ECH, MAY_HAVE_ECH, NO_ECH, Status
from trafficrefinery.services.names.hello import (
    BEGINS_PROXY_HEADER,
    NOWHERE,
    find_hello,
    read_hello,
)
from trafficrefinery.services.names.quic_datagrams import message_name
from trafficrefinery.services.source_readers import read_assembled
from trafficrefinery.services.sources import ALL_WANTED

GUARD = b"\x01\x16\x03\x01"  # what stands behind the end must not matter


@kernel
def _read_hello(buffer, at, end):
    return read_hello(borrowed(buffer), at, end)


@kernel
def _find_hello(buffer, at, end):
    return find_hello(borrowed(buffer), at, end)


def _array(data: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(data), np.uint8)


def _hello(data: bytes, result) -> hellos.Hello:
    status, at, count, ech = result
    return hellos.Hello(Status(status), data[at : at + count].decode().lower() if count else None, ech)


def read(stream: bytes) -> hellos.Hello:
    buffer = GUARD + stream + GUARD
    return _hello(buffer, _read_hello(_array(buffer), len(GUARD), len(GUARD) + len(stream)))


def read_stream(stream: bytes) -> hellos.Hello:
    buffer = _array(stream)
    _, status, _, *name = read_assembled(buffer, ALL_WANTED)
    status = Status.NEED_MORE if status == Status.UNSURE else status  # of which the twin knows nothing
    return _hello(buffer.tobytes(), (status, *name))


def read_message(handshake: bytes) -> hellos.Hello:
    return _hello(handshake, message_name(_array(handshake)))


def find(stream: bytes) -> int:
    found = _find_hello(_array(GUARD + stream + GUARD), len(GUARD), len(GUARD) + len(stream))
    return int(found) - len(GUARD) if found >= 0 else int(found)


HELLOS = [
    client_hello(),
    client_hello(None),
    client_hello("WWW.Video.Example."),
    client_hello("a b"),
    client_hello("x" * 255),
    client_hello("x" * 256),
    client_hello(padding_bytes=1500),
    client_hello(alpn=()),
    with_extension(0xFE0D, b"\0" * 40, before=True),
    with_extension(0xFE0D, b"\0" * 40, before=False),
    with_extension(0, vector(2, b"\x07" + vector(2, b"odd") + b"\0" + vector(2, b"second.example")), before=True),
    b"\x01" + vector(3, b"\x03\x00" + bytes(33) + vector(2, b"\0\x2f") + b"\1\0"),
    b"\x01" + vector(3, b"\x03\x00" + bytes(33) + vector(2, b"\0\x2f") + b"\0"),
    b"\x01" + vector(3, b"\x03\x00" + bytes(33) + vector(2, b"\0\x2f")),
]
RECORDS = st.sampled_from([16384, 1, 3, 7, 100, 500])


@pytest.mark.parametrize("handshake", HELLOS)
def test_a_hello_cut_anywhere_is_read_as_the_twin_reads_it(handshake):
    stream = record(handshake)
    for count in range(len(stream) + 1):
        assert read(stream[:count]) == hellos.first_record(stream[:count])
        assert read_message(handshake[:count]) == hellos.in_crypto(handshake[:count])


CHANGES = st.lists(
    st.tuples(st.integers(0, 400), st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 3, 0x16, 0xFF]))), max_size=6
)


@example(HELLOS[0], 1, [(23, 0)], 0)  # which says that it ends with its length
@given(st.sampled_from(HELLOS), RECORDS, CHANGES, st.integers(0, 2000))
def test_a_damaged_hello_is_read_as_the_twin_reads_it(handshake, record_bytes, changes, cut):
    stream = bytearray(record(handshake, record_bytes))
    for at, value in changes:
        stream[at % len(stream)] = value
    for part in (bytes(stream), bytes(stream[:cut])):
        assert read(part) == hellos.first_record(part)
        if hellos.starts(part):
            assert read_stream(part) == hellos.all_records(part)
        assert read_message(part[5:]) == hellos.in_crypto(part[5:])


@example(b"C", b"")
@given(
    st.binary(max_size=80), st.sampled_from([b"", b"\x16\x03\x01\x00\x40\x01", b"\x01\0\0\x40\x03\x03", b"\r\n\r\n\0"])
)
def test_noise_is_read_as_the_twin_reads_it(noise, before):
    stream = before + noise
    assert read(stream) == hellos.first_record(stream)
    assert read_message(stream) == hellos.in_crypto(stream)


@pytest.mark.parametrize(
    ("handshake", "ech", "ech_of_cut"),
    [(client_hello(), NO_ECH, MAY_HAVE_ECH), (with_extension(0xFE0D, bytes(9), True), HAS_ECH, HAS_ECH),
     (with_extension(0xFE0D, bytes(9), False), HAS_ECH, MAY_HAVE_ECH)],
)  # fmt: skip
def test_ech_is_seen_wherever_it_stands_and_may_be_there_when_the_hello_is_cut(handshake, ech, ech_of_cut):
    assert read(record(handshake)) == hellos.Hello(Status.FOUND, "www.video.example", ech)
    assert read(record(handshake)[:-1]) == hellos.Hello(Status.FOUND, "www.video.example", ech_of_cut)


@pytest.mark.parametrize("before", [b"", PROXY_V1, PROXY_V2, CONNECT, b"EHLO x\r\nSTARTTLS\r\n", b"a\tb\n"])
def test_a_hello_is_found_behind_what_stands_before_it_in_one_segment(before):
    stream = record(client_hello())
    assert find(before + stream) == len(before)
    assert find(before + stream[:1]) == len(before)
    assert read_stream(before + stream).name == "www.video.example"
    for count in range(1, len(before)):
        assert find(before[:count]) in (NOWHERE, BEGINS_PROXY_HEADER, len(before))


def test_a_proxy_header_may_be_cut_anywhere():
    assert [find(PROXY_V2[:count]) for count in range(1, 16)] == [BEGINS_PROXY_HEADER] * 15
    assert {find(PROXY_V2[:count]) for count in range(16, len(PROXY_V2))} == {len(PROXY_V2)}
    assert find(PROXY_V2 + b"GET / HTTP/1.1") == NOWHERE


@pytest.mark.parametrize(
    "stream", [b"", b"GET / HTTP/1.1\r\n\r\n", b"x\x16\x03\x01\x00\x40\x01", b"\x17\x03\x03", b"\n"]
)
def test_what_is_something_else_is_nowhere(stream):
    assert find(stream) == NOWHERE


# Google's QUIC


CHLOS = [CHLO, chlo((b"VER\0", b"Q043")), chlo(), chlo((b"SNI\0", b"a b")), chlo((b"SNI\0", b"")),
         chlo((b"SNI\0", b"a.example."), (b"SNI\0", b"b.example"))]  # fmt: skip


@given(st.sampled_from(CHLOS), CHANGES, st.integers(0, 200))
@example(chlo((b"SNI\0", b"")), [(0, 2)], 0)  # of two entries one is there
def test_a_damaged_chlo_is_read_as_the_twin_reads_it(message, changes, cut):
    changed = bytearray(message)
    for at, value in changes:
        changed[4 + at % (len(changed) - 4)] = value
    for part in (message, message[:cut], bytes(changed), bytes(changed[:cut])):
        if part[:1] == b"C":
            assert read_message(part) == hellos.in_crypto(part)


def test_a_chlo_has_its_name():
    assert read_message(CHLO) == hellos.Hello(Status.FOUND, "www.video.example", NO_ECH)
