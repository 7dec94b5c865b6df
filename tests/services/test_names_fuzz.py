"""The name readers on noise, and on messages with a few bytes changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.changed_names import CHANGES, DNS
from support.fuzz.names import READERS, exercise, exercise_dns, exercise_dns_stream, exercise_quic, exercise_tls
from trafficrefinery.services.dns.messages import DnsStream, read_dns, resolve_answers
from trafficrefinery.services.names import Status
from trafficrefinery.services.names.quic import _crypto_frames, crypto_name
from trafficrefinery.services.names.streams import StreamReader

HELLO = bytes.fromhex(
    "160301005c010000580303" + "00" * 32 + "00" + "00021301" + "0100" + "002d"
    "00000014001200000f" + b"www.tls.example".hex() + "0010000e000c02683208687474702f312e31" + "00170000"
)
FRAMES = b"\x02\0\0\0\0" + b"\x06\0\x40\x5c" + HELLO[5:] + b"\x01\0\0"


def segments(stream):
    """The stream as `fuzz.names.pieces` reads it: cut in segments of 40 bytes."""
    return b"".join(
        bytes([8]) + (start).to_bytes(2) + bytes([len(stream[start : start + 40])]) + stream[start : start + 40]
        for start in range(0, len(stream), 40)
    )


def framed(message):
    return len(message).to_bytes(2) + message


SEEDS = [
    (exercise_dns, DNS),
    (exercise_dns_stream, segments(framed(DNS) * 3)),
    (exercise_tls, HELLO),
    (exercise_tls, HELLO[5:]),
    (exercise_tls, segments(HELLO)),
    (exercise_quic, b"\xc3\0\0\0\x01\x08" + bytes(8) + b"\0\0\x44\x9e" + bytes(1182)),
    (exercise_quic, FRAMES),
]


def test_the_messages_that_are_changed_are_read_when_unchanged():
    assert len(resolve_answers(read_dns(DNS))) == 2
    assert DnsStream().feed(0, framed(DNS), is_syn=False) == [DNS]
    assert StreamReader(0).feed(0, HELLO) is Status.FOUND
    assert crypto_name(HELLO[5:])[1] == "www.tls.example"
    assert [len(piece) for _, piece in _crypto_frames(FRAMES)] == [92]


@pytest.mark.parametrize("reader", READERS)
@given(st.binary(max_size=300))
def test_noise_raises_nothing_and_keeps_all_bounds(reader, noise):
    reader(noise)


@given(st.sampled_from(SEEDS), CHANGES, st.integers(0, 1300), st.integers(0, 60))
def test_a_message_with_some_bytes_changed_removed_or_doubled_raises_nothing(seed, changes, at, count):
    reader, message = seed
    changed = bytearray(message)
    for index, value in changes:
        changed[index % len(changed)] = value
    at %= len(changed)
    reader(bytes(changed))
    reader(bytes(changed[:at]))
    reader(bytes(changed[:at] + changed[at + count :]))
    reader(bytes(changed[: at + count] + changed[at:]))


@pytest.mark.parametrize(
    "data",
    [b"", *(bytes([index]) for index in range(4)), *(bytes([index]) + b"\xff" * 1500 for index in range(4))],
    ids=lambda data: f"{data[:2].hex()}-{len(data)}",
)
def test_what_was_found_stays_harmless(data):
    exercise(data)
