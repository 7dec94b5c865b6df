"""TLS records in a payload: the longest that begins in it, and never a byte beyond what was captured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.naive.frames import Frame
from support.parsing import one, parsed
from support.traces import ethernet, ip, tcp, udp
from trafficrefinery.api import NOT_QUIC
from trafficrefinery.jit import COMPILED, kernel
from trafficrefinery.packets.tls_records import longest_record

pytestmark = pytest.mark.modes


@kernel
def longest(buffer, at, end, payload_bytes):
    return longest_record(buffer, at, end, payload_bytes)


def record(record_bytes: int, kind: int = 23, version: int = 3) -> bytes:
    """A record of so many bytes, its header included."""
    return bytes([kind, 3, version]) + (record_bytes - 5).to_bytes(2) + bytes(record_bytes - 5)


def segment(payload: bytes) -> bytes:
    return ethernet(ip("10.0.0.1", "198.51.100.1", 6, tcp(40_000, 443, 1, 1, 24, payload)))


@pytest.mark.parametrize(
    ("payload", "record_bytes"),
    [
        (record(35), 35),
        (record(35) * 2, 35),
        (record(35) + record(39), 39),
        (record(39) + record(35) + record(35, 21), 39),
        (record(35) + record(300)[:60], 300),  # it goes on in the next packet
        (record(35) + record(300)[:4], 35),  # so does its header
        (record(6, 20) + record(58, 22), 58),
        (record(35) + bytes(40), 0),  # what follows is no record
        (record(300)[60:], 0),  # goes on from the packet before
        (b"GET / HTTP/1.1\r\n\r\n", 0),
        (record(35, 24), 0),
        (record(35, version=5), 0),
        (record(35)[:4], 0),
        (b"", 0),
        (record(5) * 200, 5),
        (record(512) * 2, 512),
        (record(512) * 2 + record(6), 0),  # larger payloads are not looked into
        (bytes([23, 3, 3, 255, 255]), 65_535),
    ],
)
def test_the_longest_record_that_begins_in_a_payload(payload, record_bytes):
    assert one(segment(payload))["record_bytes"] == record_bytes


@pytest.mark.parametrize(
    ("payload", "record_bytes"),
    [
        (b"\x40" + bytes(33), 34),  # a short header of QUIC
        (b"\xc3" + bytes(1_023), 1_024),  # a long one
        (b"\x40" + bytes(1_024), 0),  # larger payloads are not looked into
        (b"\x0c" + bytes(33), NOT_QUIC),  # Google's QUIC
        (record(35), NOT_QUIC),
        (b"", 0),
    ],
)
def test_a_datagram_that_may_be_quic(payload, record_bytes):
    frame = ethernet(ip("10.0.0.1", "10.0.0.2", 17, udp(40_000, 443, payload)))
    assert one(frame)["record_bytes"] == record_bytes
    ((_, cut, _),) = parsed([Frame(1, frame[:42], len(frame))])
    assert cut["record_bytes"] == 0


def test_later_fragments_have_none():
    assert one(ethernet(ip("10.0.0.1", "10.0.0.2", 6, record(35), offset=800)))["record_bytes"] == 0


@pytest.mark.parametrize("cut", range(1, 71))
def test_a_header_that_was_not_captured_makes_it_unknown(cut):
    frame = segment(record(35) * 2)
    captured = frame[:-cut]
    ((_, packet, _),) = parsed([Frame(1, captured, len(frame))])
    assert packet["record_bytes"] == (35 if cut <= 30 else 0)


@given(st.binary(max_size=60), st.integers(-3, 70), st.integers(0, 70), st.integers(0, 1_024))
@settings(max_examples=300 if COMPILED else 100)
def test_nothing_is_read_outside_of_what_was_captured(content, at, captured, payload_bytes):
    """Bounds-checked and without the compiler, a wrong index is an IndexError."""
    payload = b"\x17\x03\x03\x00\x01" * 2 + content
    buffer = np.frombuffer(payload, np.uint8).copy()
    assert 0 <= longest(buffer, at, min(at + captured, len(buffer)), payload_bytes) <= 65_535
