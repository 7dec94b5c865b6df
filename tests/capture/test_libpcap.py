"""Capture through libpcap gives the frames that the ring gives."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from support.networks import Wire, wire
from support.ring_cases import capture, frames_of, numbered, read, rings_at, sample
from support.traces import ethernet, ip, tagged, udp
from trafficrefinery.capture import libpcap
from trafficrefinery.capture.libpcap import PcapReader
from trafficrefinery.capture.rings.afpacket import RingReader
from trafficrefinery.errors import UsageError

__all__ = ["wire"]
if sys.version_info >= (3, 12):
    pytest.skip("pypcap is for Python up to 3.11", allow_module_level=True)


def reader_at(wire: Wire, **keys) -> PcapReader:
    with wire.far.inside():
        return wire.keep([PcapReader(wire.far_name, capture(**keys))])[0]


def test_libpcap_and_the_ring_give_equal_frames_and_times(wire):
    frames = sample()
    ours, theirs = RingReader(rings_at(wire)), reader_at(wire)
    before = time.time_ns()
    wire.send(frames)
    found, expected = read(theirs, len(frames)), read(ours, len(frames))
    assert [frame.data for frame in found] == [frame.data for frame in expected] == frames
    assert [frame[2:] for frame in found] == [frame[2:] for frame in expected]
    # Each socket has its own stamp of a frame unless the first was shared; they are of the same moment.
    apart = np.array([a.ts_ns - b.ts_ns for a, b in zip(found, expected, strict=True)])
    assert abs(apart).max() < 50_000_000
    assert before <= found[0].ts_ns <= found[-1].ts_ns <= time.time_ns()
    assert any(frame.ts_ns % 1000 for frame in found), "the times are not in nanoseconds"


def test_tags_are_back_in_their_place(wire):
    packet = ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2, bytes(50)))
    frames = [ethernet(packet), tagged(packet, 0x8100), tagged(packet, 0x88A8, 0x8100)]
    reader = reader_at(wire)
    wire.send(frames)
    found = read(reader, 3)
    assert [frame.data for frame in found] == frames
    assert [frame.wire_bytes for frame in found] == [len(data) for data in frames]


def test_sent_packets_are_received_or_counted_as_dropped(wire):
    reader = reader_at(wire, RingSize="128KiB", BlockSize="32KiB")
    sent = 4000
    wire.send(numbered(sent, 1000))
    found = read(reader, 1)
    losses = reader.losses()
    assert losses.received == len(found)
    assert losses.received + losses.drops == sent
    assert losses.drops > 0
    assert reader.losses() == (0, 0, 0)


def test_a_block_stays_valid_after_the_next(wire):
    reader = reader_at(wire)
    wire.send(numbered(1))
    first = reader.poll(5)
    reader.release()
    wire.send(numbered(2)[1:])
    second = reader.poll(5)
    assert [f.data for block in (first, second) for f in frames_of(block)] == numbered(2)


def test_filters_and_directions(wire):
    wanted = ethernet(ip("10.0.0.1", "10.0.0.2", 17, udp(5, 80, bytes(30))))
    reader = reader_at(wire, Filter="port 80", IgnoreOutgoing=True)
    wire.send([*numbered(2), wanted])
    assert [frame.data for frame in read(reader, 1)] == [wanted]


def test_an_interface_that_goes_away_does_not_stop_the_reader(wire):
    reader = reader_at(wire)
    wire.send(numbered(3))
    assert len(read(reader, 3)) == 3
    with wire.far.inside():
        assert reader.states()[wire.far_name] in ("up", "down")
        wire.far.run("ip", "link", "del", wire.far_name)
        started = time.process_time()
        assert [reader.poll(0.2) for _ in range(3)] == [None, None, None]
        assert time.process_time() - started < 0.4, "it spins"
        assert reader.states() == {wire.far_name: "removed"}


def test_link_types_are_found_by_the_numbers_that_libpcap_has_for_them():
    known = libpcap._LINK_TYPES
    numbers = {0: 0, 1: 1, 11: 100, 12: 101, 113: 113, 127: 127, 276: 276}
    assert {dlt: known[dlt].number for dlt in numbers} == numbers
    assert [known[dlt].most_header_bytes for dlt in (0, 1, 12, 113, 276)] == [4, 14, 0, 16, 20]
    assert known[127].most_header_bytes > 1 << 20  # nobody knows: no frame is taken for an oversized one


def test_a_missing_pypcap_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pcap", None)
    with pytest.raises(UsageError) as caught:
        PcapReader("lo", capture())
    assert str(caught.value) == (
        'Capture.Source: "pcap" needs the package pypcap, which there is up to Python 3.11; set Source to "afpacket", '
        "or use that"
    )


def test_what_libpcap_refuses_is_said(wire):
    with wire.far.inside():
        with pytest.raises(UsageError, match=r'there is no interface "miror0"; did you mean "mirror0"\?'):
            PcapReader("miror0", capture())
        with pytest.raises(UsageError, match=r'^Capture\.Filter: "prot 5" is not a filter expression: .*syntax error'):
            PcapReader(wire.far_name, capture(Filter="prot 5"))
        wire.set_far("down")
        with pytest.raises(UsageError, match=r"^Capture\.Interfaces: mirror0: libpcap refuses it \(.*not up.*\)"):
            PcapReader(wire.far_name, capture())


def test_words_of_libpcap_are_found_in_what_pypcap_raises():
    assert libpcap._reason(OSError(b"no such thing")) == "no such thing"
    assert libpcap._reason(OSError("Error returned was b'down'")) == "down"
    assert libpcap._reason(OSError("plain")) == "plain"
