"""Duplicates of mirror ports are found; what hosts send again is not taken for them."""

from __future__ import annotations

import random

import dpkt
import numpy as np
import pytest

from support.naive.frames import Frame
from support.traces import ACK, SYN, ethernet, ip, seeded_trace, tagged, tcp, timestamps, udp
from trafficrefinery.capture.duplicates import SETS, WAYS, WINDOW_NS, DuplicateFinder
from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.jit import COMPILED, records

pytestmark = pytest.mark.modes
US = 1_000


def block_of(frames) -> Block:
    rows, at = records(np.zeros(len(frames), FRAME)), 0
    for i, frame in enumerate(frames):
        rows[i] = (frame.ts_ns, at, len(frame.data), frame.wire_bytes, frame.link_type, 0)
        at += len(frame.data)
    return Block(np.frombuffer(bytearray(b"".join(frame.data for frame in frames) or b"\0"), np.uint8), rows)


def frame(ts_ns: int, data: bytes, link_type: int = 1) -> Frame:
    return Frame(ts_ns, data, len(data), link_type)


def kept(*frames: Frame, finder: DuplicateFinder | None = None) -> list[bool]:
    """Which frames stay, each in a block of its own."""
    finder = finder or DuplicateFinder(drop=True)
    return [len(finder.filter(block_of([each])).frames) == 1 for each in frames]


def checked(packet: bytes) -> bytes:
    """With a right header checksum, as a router leaves it."""
    header = bytearray(packet)
    header[10:12] = bytes(2)
    header[10:12] = dpkt.in_cksum(bytes(header[:20])).to_bytes(2)
    return bytes(header)


def data_packet(ttl: int = 64, ident: int = 7, version: int = 4, payload: bytes = b"x" * 100) -> bytes:
    ends = ("10.0.0.1", "192.0.2.1") if version == 4 else ("2001:db8::1", "2001:db8::2")
    packet = ip(*ends, 6, tcp(5, 443, 1, 1, ACK, payload), ttl=ttl, ident=ident)
    return checked(packet) if version == 4 else packet


@pytest.mark.parametrize("version", [4, 6])
def test_the_same_packet_elsewhere_is_a_duplicate(version):
    first = data_packet(version=version)
    routed = data_packet(ttl=63, version=version)
    assert first != routed
    for second in (ethernet(first), ethernet(routed), ethernet(routed, up=False), tagged(first, 0x8100)):
        assert kept(frame(1_000, ethernet(first)), frame(1_000 + 300 * US, second)) == [True, False]


def test_a_packet_may_be_shown_more_than_twice():
    times = [0, 10 * US, 20 * US, WINDOW_NS]
    assert kept(*(frame(ts, ethernet(data_packet())) for ts in times)) == [True, False, False, False]


def test_a_millisecond_later_it_is_another_packet():
    packet = ethernet(data_packet())
    assert kept(frame(0, packet), frame(WINDOW_NS + 1, packet), frame(WINDOW_NS + 2, packet)) == [True, True, False]


def test_the_copy_may_have_the_earlier_time():
    packet = ethernet(data_packet())
    assert kept(frame(500 * US, packet), frame(499 * US, packet)) == [True, False]


def test_every_byte_but_ttl_and_checksum_tells_packets_apart():
    for version in (4, 6):
        base = data_packet(version=version, payload=bytes(range(77)))
        spared = (8, 10, 11) if version == 4 else (7,)
        for at in range(len(base)):
            other = bytearray(base)
            other[at] ^= 1 if at > 6 else 0x10 if at == 1 else 0
            if bytes(other) != base:
                assert kept(frame(0, ethernet(base)), frame(1, ethernet(bytes(other)))) == [True, at not in spared]


def test_a_retransmission_is_none():
    """It has another identification, also where all else is equal."""
    assert kept(*(frame(i, ethernet(data_packet(ident=7 + i))) for i in range(3))) == [True, True, True]


def acknowledgement(version: int, ident: int, ttl: int = 64, flags: int = ACK, options: bytes = b"") -> bytes:
    ends = ("10.0.0.1", "192.0.2.1") if version == 4 else ("2001:db8::1", "2001:db8::2")
    return ip(*ends, 6, tcp(5, 443, 1, 1, flags, options=options), ttl=ttl, ident=ident)


@pytest.mark.parametrize(("version", "ident"), [(6, 0), (4, 0)])
def test_equal_acknowledgements_without_identification_are_none_unless_they_were_elsewhere(version, ident):
    packet = acknowledgement(version, ident)
    again = [frame(i * 100 * US, ethernet(packet).ljust(60, b"\0")) for i in range(3)]
    assert kept(*again) == [True, True, True]
    elsewhere = [ethernet(acknowledgement(version, ident, ttl=63)), ethernet(packet, up=False), tagged(packet, 0x8100)]
    for other in elsewhere:
        assert kept(again[0], frame(200 * US, other)) == [True, False]
    opening = ethernet(acknowledgement(version, ident, flags=SYN))
    assert kept(frame(0, opening), frame(1, opening)) == [True, False]


def test_acknowledgements_with_identification_are_compared_as_a_whole():
    packets = [acknowledgement(4, 7), acknowledgement(4, 8), acknowledgement(4, 7), acknowledgement(4, 8)]
    assert kept(*(frame(i, ethernet(packet)) for i, packet in enumerate(packets))) == [True, True, False, False]
    stamped = [acknowledgement(6, 0, options=timestamps(i, 1)) for i in (1, 2)]
    assert kept(*(frame(i, ethernet(packet)) for i, packet in enumerate(stamped))) == [True, True]


def test_padding_makes_no_difference_and_what_is_no_ip_has_no_duplicates():
    packet = ethernet(ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2, b"")))
    assert kept(frame(0, packet), frame(1, packet.ljust(60, b"\0"))) == [True, False]
    arp = ethernet(bytes(46), kind=0x0806)
    assert kept(frame(0, arp), frame(1, arp)) == [True, True]
    for size in range(40):
        kept(frame(0, ethernet(data_packet())[:size]), frame(1, ethernet(data_packet(version=6))[:size]))


@pytest.mark.parametrize("wrapping", ["ethernet", "vlan", "qinq", "mpls", "pppoe", "raw", "gre", "vxlan", "gtpu"])
def test_a_doubled_trace_loses_its_copies_and_a_single_one_nothing(wrapping):
    ip_frames = [f for f in seeded_trace(11, 40, [wrapping]) if f.data]
    single = [f._replace(ts_ns=i * 3 * WINDOW_NS) for i, f in enumerate(ip_frames)]
    once = DuplicateFinder(drop=True)
    assert len(once.filter(block_of(single)).frames) == len(single)
    assert once.duplicates_total == 0
    doubled = [g for f in single for g in (f, f._replace(ts_ns=f.ts_ns + 50 * US))]
    twice, counting = DuplicateFinder(drop=True), DuplicateFinder(drop=False)
    left = twice.filter(block_of(doubled)).frames
    found = twice.duplicates_total
    assert len(left) == len(doubled) - found
    assert 0.5 * len(single) < found <= len(single)  # acknowledgements without identification, and what is no IP, stay
    assert {f.ts_ns for f in single} <= set(left["ts_ns"].tolist())
    assert len(counting.filter(block_of(doubled)).frames) == len(doubled)
    assert counting.duplicates_total == found


def test_the_frames_that_stay_keep_their_order_and_fields():
    r = random.Random(4)
    frames, expected = [], []
    for i in range(400):
        each = frame(i * 10 * US, ethernet(data_packet(ident=i % 65535 + 1, payload=r.randbytes(r.randrange(200)))))
        frames.append(each)
        expected.append(each)
        if r.random() < 0.4:
            frames.append(each._replace(ts_ns=each.ts_ns + US))
    block = block_of(frames)
    left = DuplicateFinder(drop=True).filter(block)
    assert left.buffer is block.buffer
    found = [
        frame(int(row["ts_ns"]), bytes(memoryview(left.buffer)[int(row["offset"]) :][: int(row["captured_bytes"])]))
        for row in np.asarray(left.frames)
    ]
    assert found == expected


def test_more_packets_than_the_table_holds_push_out_the_oldest():
    count = 3 * SETS * WAYS if COMPILED else 500
    packet = ethernet(data_packet(payload=bytes(4)))
    frames = [frame(i, packet[:-4] + i.to_bytes(4)) for i in range(count)]
    finder = DuplicateFinder(drop=True)
    assert len(finder.filter(block_of(frames)).frames) == count
    assert len(finder.filter(block_of(frames[-200:])).frames) < 20  # but for those that met others of their set
