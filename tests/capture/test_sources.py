"""A source of recorded traces hands out each packet once, and not before it is due."""

from __future__ import annotations

import numpy as np
import pytest

from support.traces import ethernet, ip, udp
from trafficrefinery.capture import sources
from trafficrefinery.capture.sources import Pacer, TraceSource
from trafficrefinery.capture.traces.reader import PcapWriter, TraceReader

S = 10**9


@pytest.fixture
def clock(monkeypatch):
    """The time in s; sleeping lets it pass."""

    class Clock:
        now_s = 100.0

        def monotonic(self) -> float:
            return self.now_s

        def sleep(self, duration_s: float) -> None:
            self.now_s += duration_s

    clock = Clock()
    monkeypatch.setattr(sources, "time", clock)
    return clock


@pytest.fixture
def trace(tmp_path):
    """A packet a second, the third one earlier than the second."""
    path = tmp_path / "a.pcap"
    with PcapWriter(path) as out:
        for ts_s in (1000, 1002, 1001, 1003):
            out.write(ts_s * S, ethernet(ip("192.0.2.1", "198.51.100.1", 17, udp(1024, 53, b"question"))))
    return path


def times_of(source: TraceSource, timeout_s: float = 0.01) -> list[int]:
    """Seconds of the packets that come; ends with the source."""
    found: list[int] = []
    while not source.has_ended:
        block = source.poll(timeout_s)
        found += [] if block is None else (block.frames["ts_ns"] // S).tolist()
    return found


@pytest.mark.parametrize(("speed", "takes_s"), [(None, 0), (1, 3), (2, 1.5), (30, 0.1)])
def test_each_packet_comes_once_and_when_it_is_due(trace, clock, speed, takes_s):
    with TraceReader([str(trace)]) as reader:
        source = TraceSource(reader, speed)
        assert times_of(source) == [1000, 1002, 1001, 1003]
        assert source.traces is reader
    assert clock.now_s - 100 == pytest.approx(takes_s, abs=0.02)


def test_a_source_does_not_wait_longer_than_it_is_asked_to(trace, clock):
    with TraceReader([str(trace)]) as reader:
        source = TraceSource(reader, 0.001)
        assert source.poll(0) is not None
        before_s = clock.now_s
        assert source.poll(0) is None
        assert clock.now_s == before_s
        assert source.poll(5) is None
        assert clock.now_s - before_s < 0.02
        assert not source.has_ended


def test_a_pacer_hands_out_in_order_what_is_due(clock):
    pacer = Pacer(2.0)
    assert pacer.due(np.array([10, 10, 12, 11, 13]) * S) == 2
    clock.now_s += 0.5
    assert pacer.due(np.array([12, 11, 13]) * S) == 0  # the one behind the first waits with it
    clock.now_s += 0.5
    assert pacer.due(np.array([12, 11, 13]) * S) == 2
    clock.now_s += 0.5
    assert pacer.due(np.array([13]) * S) == 1
    assert Pacer(None).due(np.array([5, 4]) * S) == 2


@pytest.mark.parametrize("counts_them", [True, False])
def test_of_several_that_read_the_same_one_counts_duplicates(tmp_path, counts_them):
    path = tmp_path / "twice.pcap"
    with PcapWriter(path) as out:
        for ts_ns in (S, S + 1000):
            out.write(ts_ns, ethernet(ip("192.0.2.1", "198.51.100.1", 17, udp(1024, 53, b"question"))))
    with TraceReader([str(path)], duplicates="count") as reader:
        source = TraceSource(reader, None, counts_them)
        assert len(times_of(source)) == 2
        assert source.counts() == {"duplicates": int(counts_them)}
        assert source.counts() == {"duplicates": 0}
