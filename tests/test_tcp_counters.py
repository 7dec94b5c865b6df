"""TCPCounters: the laws of sequence numbers, and equality with a twin that keeps everything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive.packets import P, arbitrary_packets, as_packet, conversations, in_intervals
from naive.running import load, run
from naive.tcp_counters import tcp_counters

from trafficrefinery.api import TCP, state_dtype

TCPCounters: Any = load("tcp_counters").TCPCounters


class Everything(TCPCounters):
    HigherMoments = True
    Quantiles = True


def outputs_of(intervals: list[list[P]], cls: Any = TCPCounters) -> list[dict[str, Any]]:
    return run(cls, [[as_packet(p) for p in packets] for packets in intervals])


def assert_same(output: dict[str, Any], naive: dict[str, Any], crowded: bool) -> None:
    assert all(output[name] != output[name] for name in output.keys() - naive.keys()), "options are off"
    for name, value in naive.items():
        if crowded and name.startswith(("unique_bytes", "goodput")):
            assert output[name] >= value or value != value
        else:
            assert output[name] == pytest.approx(value, rel=1e-9, abs=1e-3 if "_std_" in name else 1e-9, nan_ok=True), name


@given(st.one_of(conversations(), conversations(), arbitrary_packets()))
def test_equal_to_the_twin_that_keeps_everything(packets: list[P]) -> None:
    intervals = in_intervals(packets)
    expected, crowded = tcp_counters(intervals)
    for output, naive in zip(outputs_of(intervals), expected, strict=True):
        assert_same(output, naive, crowded)
