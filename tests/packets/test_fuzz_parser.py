"""The frame parser on bytes that nobody would send: it never reads beyond what was captured, and says something sane.

Run with `TRAFFICREFINERY_JIT=boundscheck` and `off`, a wrong index is an IndexError; the buffer ends with the frame.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.naive.frames import Frame, UnusableError, read_frame
from support.parsing import parsed
from support.replays import replay_frames, usual_plan
from support.traces import WRAPPINGS, Conversation, ethernet, ip, make_trace, seeded_trace, tcp, udp
from trafficrefinery.jit import COMPILED
from trafficrefinery.packets.link_types import LINK_TYPES
from trafficrefinery.packets.parser import REASONS
from trafficrefinery.packets.tunnels import TUNNELS, USUAL_PORTS

pytestmark = pytest.mark.modes
EXAMPLES = 300 if COMPILED else 60

ETHER_TYPES = (
    0x0800, 0x86DD, 0x8100, 0x88A8, 0x8847, 0x8864, 0x6558, 38, 0x880B, 0x883E, 0x893F, 0x8926, 0x894F, 0x88E7, 0x88E5,
    0x8903, 0x22F3, 0x8909, 0x892F,
)  # fmt: skip

# What a parser could stumble over: found by fuzzing, or by those who fuzzed others.
TUNNEL_ENDS = (
    ip("10.0.0.1", "10.0.0.2", 47, b"\xb0\0\x08\0"),  # GRE that ends inside its options
    ip("10.0.0.1", "10.0.0.2", 47, bytes(4)),  # no type behind: once taken for the end of a good packet
    ip("10.0.0.1", "10.0.0.2", 17, udp(1, 4789, bytes(8))),
    ip(
        "10.0.0.1", "10.0.0.2", 17, udp(1, 2152, b"\x34\xff\0\0\0\0\0\0\0\0\0\x85\xff")
    ),  # a G-PDU extension beyond the end
    ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2152, b"\x34\xff\0\0\0\0\0\0\0\0\0\x85\0")),  # and one of no length
    ip("2001:db8::1", "2001:db8::2", 6, b"", extensions=(0, 60)),
    ip("10.0.0.1", "10.0.0.2", 6, tcp(1, 2, 3, 4, 16, options=b"\x08\x0a\0\0")),
    ip("10.0.0.1", "10.0.0.2", 6, tcp(1, 2, 3, 4, 16, options=b"\x05\x00\x02\x01")),
    ip("10.0.0.1", "10.0.0.2", 51, b"\x06\xff" + bytes(40)),  # an authentication header beyond the end
    ip("10.0.0.1", "10.0.0.2", 51, (b"\x33\x01" + bytes(10)) * 33),  # and one behind the other
    ip(
        "10.0.0.1", "10.0.0.2", 47, b"\x10\0\x88\xbe" + bytes(4) + b"\x20" + bytes(10) + b"\1"
    ),  # ERSPAN III that ends early
    ip("10.0.0.1", "10.0.0.2", 17, udp(1, 37008, b"\1\0\0\1" + b"\x0a\xff\0")),  # a tag of TZSP beyond the end
    ip("10.0.0.1", "10.0.0.2", 17, udp(1, 6081, b"\x3f\0\x65\x58" + bytes(4))),  # options of Geneve beyond the end
    ip("10.0.0.1", "10.0.0.2", 17, udp(1, 3544, b"\0\1\xff\xff" + bytes(20))),
    ip("10.0.0.1", "10.0.0.2", 17, udp(1, 1701, b"\x02\2\0\1\0\1\xff\xff")),
)


def check_sane(frames: list[Frame]) -> None:
    for frame, (reason, packet, payload) in zip(frames, parsed(frames), strict=True):
        assert reason in REASONS
        if packet is None:
            continue
        assert packet["raw_bytes"] <= len(frame.data)
        assert len(payload) == packet["captured_payload"] <= len(frame.data)
        assert packet["protocol"] in (6, 17)
        assert packet["tcp_header_bytes"] in ({0, *range(20, 61, 4)} if packet["protocol"] == 6 else {0})


@given(st.binary(max_size=200), st.sampled_from([*LINK_TYPES, 147]), st.integers(0, 2_000))
@settings(max_examples=EXAMPLES)
def test_random_bytes_of_any_link_type_do_no_harm(data, link_type, more):
    check_sane([Frame(0, data, len(data) + more, link_type), Frame(0, data, len(data), link_type)])


@given(st.binary(max_size=120), st.sampled_from(ETHER_TYPES))
@settings(max_examples=EXAMPLES)
def test_random_bytes_behind_each_ether_type_do_no_harm(data, kind):
    check_sane([Frame(0, frame, len(frame) + more) for frame in [ethernet(data, kind=kind)] for more in (0, 100)])


@given(
    st.sampled_from([6, 17, 4, 41, 47, 50, 51, 97, 115, 0, 43, 44, 60, 135]),
    st.binary(max_size=80),
    st.booleans(),
    st.integers(0, 60),
)
@settings(max_examples=EXAMPLES)
def test_random_bytes_behind_ip_headers_do_no_harm(protocol, data, is_v6, cut):
    ends = ("2001:db8::1", "2001:db8::2") if is_v6 else ("10.0.0.1", "10.0.0.2")
    frame = ethernet(ip(*ends, protocol, data))
    check_sane([Frame(0, frame[: len(frame) - cut], len(frame))])


@given(st.sampled_from([53, 443, *(port for ports in USUAL_PORTS.values() for port in ports)]), st.binary(max_size=80))
@settings(max_examples=EXAMPLES)
def test_random_bytes_in_tunnel_ports_do_no_harm(port, data):
    for packet in (udp(1, port, data), udp(port, 1, data)):
        frame = ethernet(ip("10.0.0.1", "10.0.0.2", 17, packet))
        check_sane([Frame(0, frame, len(frame))])


@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=EXAMPLES // 3)
def test_made_frames_with_wrong_bytes_do_no_harm(seed, changes):
    frames = []
    for frame in seeded_trace(seed, 4)[:60]:
        data = bytearray(frame.data)
        for at, value in changes:
            data[at % len(data)] = value
        frames.append(frame._replace(data=bytes(data[: len(data) - seed % 7])))
    check_sane(frames)


@given(
    st.lists(st.tuples(st.binary(max_size=90), st.sampled_from(list(LINK_TYPES))), max_size=30), st.integers(0, 2**32)
)
@settings(max_examples=EXAMPLES // 10)
@example([(b"", 1)] * 3, 0)
def test_the_whole_packet_path_takes_any_frames_and_accounts_for_each(junk, seed):
    frames = [Frame(1_600_000_000_000_000_000 + i, data, 1_500, link) for i, (data, link) in enumerate(junk)]
    frames += [frame._replace(data=frame.data[: seed % 90]) for frame in seeded_trace(seed, 2)]
    run = replay_frames(usual_plan(), frames)
    assert run.counters["packets"] == len(frames) == sum(run.counters[reason] for reason in REASONS)


@pytest.mark.parametrize("packet", TUNNEL_ENDS, ids=[str(i) for i in range(len(TUNNEL_ENDS))])
def test_what_was_found_before_is_read_as_by_the_naive_reading(packet):
    whole = ethernet(packet)
    frames = [Frame(0, whole[:count], len(whole)) for count in range(len(whole) + 1)]
    frames += [Frame(0, whole[:count], count) for count in range(len(whole) + 1)]
    check_sane(frames)
    for frame, (reason, _, _) in zip(frames, parsed(frames), strict=True):
        try:
            read_frame(frame, tuple(TUNNELS))
            expected = "attributed"
        except UnusableError as error:
            expected = str(error)
        assert reason == expected


def test_a_frame_at_the_very_end_of_its_buffer_is_read_no_further():
    """Each frame alone in a buffer of its size: in modes with checks, one byte too far raises."""
    r = random.Random(2)
    for wrapping in WRAPPINGS:
        for frame in make_trace(
            [
                Conversation("tcp", wrapping, 0, 1),
                Conversation("quic", wrapping, 0, 2),
                Conversation("dns", wrapping, 0, 3),
            ]
        ):
            for count in {r.randrange(len(frame.data) + 1) for _ in range(6)}:
                check_sane([frame._replace(data=frame.data[:count])])
