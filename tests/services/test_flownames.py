"""Hellos of several packets, flow by flow beside each other, within bounds."""

from __future__ import annotations

import pytest

from support.naive.tlsnames import quic_initial
from support.tls_hellos import client_hello, record
from trafficrefinery.services import FlowNames
from trafficrefinery.services.names import Status
from trafficrefinery.services.sources import MATCHED_BY

NAME = "www.video.example"
HELLO = record(client_hello(NAME))
QUIC = MATCHED_BY.index("quic_sni")


def test_a_hello_over_several_segments_is_put_together_beside_others():
    flows = FlowNames()
    begun = flows.segment(1, 1000, 1000, HELLO[:20])
    assert (begun.status, begun.name, begun.has_begun, begun.ready_bytes) == (Status.NEED_MORE, None, True, 20)
    other = flows.segment(2, 1000, 1000, b"GET / HTTP/1.1")
    assert (other.status, other.passed_bytes) == (Status.OTHER, 14)
    assert flows.segment(3, 1000, 1020, HELLO[20:])[:5] == (Status.NEED_MORE, None, 0, 0, False)
    assert flows.segment(1, 1000, 1020, HELLO[20:])[:2] == (Status.FOUND, NAME)
    assert flows.segment(3, 1000, 1000, HELLO[:20])[:2] == (Status.FOUND, NAME)
    assert flows.segment(4, 5, 5, HELLO[:60], truncated=True)[:2] == (Status.NOT_FOUND, None)
    assert (len(flows), flows.memory_bytes) == (0, 0)
    assert flows.counters.not_found_total == 1


def test_a_hello_that_begins_elsewhere_is_another():
    flows = FlowNames()
    flows.segment(1, 1000, 1000, HELLO[:20])
    assert flows.segment(1, 1020, 1020, HELLO[20:]).status is Status.OTHER
    assert flows.segment(1, 5000, 5000, HELLO).name == NAME


@pytest.mark.parametrize("max_flows", [1, 2, 3])
def test_flows_in_progress_are_bounded_and_the_longest_unused_gives_way(max_flows):
    flows = FlowNames(max_flows=max_flows)
    for key in range(10):
        flows.segment(key, 0, 0, HELLO[:20])
        flows.datagram(("udp", key), b"\xc0\0\0\0\x01" + bytes(1200), QUIC)
        assert len(flows) <= max_flows
    assert flows.counters.evicted_total == 20 - max_flows


def test_the_memory_of_flows_in_progress_is_bounded():
    flows = FlowNames(max_bytes=100_000)
    for key in range(50):
        flows.segment(key, 0, 16_000, b"x")  # one byte that takes 32 KiB
        assert flows.memory_bytes <= 100_000
    assert len(flows) == 3
    assert flows.counters.evicted_total == 47


def test_a_flow_that_goes_on_is_kept_before_one_that_does_not():
    flows = FlowNames(max_flows=2)
    for key, start in ((1, 0), (2, 0), (1, 20), (3, 0)):
        flows.segment(key, 0, start, HELLO[start : start + 20])
    assert flows.segment(1, 0, 40, HELLO[40:]).name == NAME
    assert flows.counters.evicted_total == 1


def test_work_beyond_that_of_a_usual_datagram_is_reported():
    flows = FlowNames()
    assert flows.datagram(1, quic_initial(b"8 bytes!", 0, 0, client_hello(NAME)), QUIC).units == 0


def test_initials_that_no_key_opens_are_counted_apart_from_hellos_without_end():
    flows = FlowNames()
    for number in range(40):
        told = flows.datagram(1, b"\xc0\0\0\0\x01\x08" + bytes([number // 2]) * 8 + bytes(1200), QUIC)
        assert told.status is Status.NEED_MORE
        assert flows.counters.quic_unread_total == (number >= 2 * 13)
    assert flows.counters.not_found_total == 0
    assert flows.counters.quic_attempts_total == 40


def test_a_datagram_of_many_packets_that_no_key_opens_is_paid_for_by_their_number():
    packet = b"\xc0\0\0\0\x01\x08" + bytes(8) + b"\0\0\x40\x96" + bytes(150)
    units = [FlowNames().datagram(1, (packet * count).ljust(1200, b"\0"), QUIC).units for count in (1, 2, 3, 8, 9)]
    assert units == [0, 0, 2, 12, 12]  # of 10 µs; two tries are usual


def test_a_segment_that_shows_many_others_to_be_no_hello_is_paid_for_by_their_number():
    """Each of them is looked at, as a hello may begin where a segment does."""
    flows = FlowNames()
    for number in range(1, 200):
        assert flows.segment(1, 0, 10 * number, b"\x05" * 10).units == 0
    assert flows.segment(1, 0, 0, b"\x05" * 10).units == 4 * 199
