"""What a flow transfers in its first seconds, step by step: what the startup delay of a video hangs on."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from trafficrefinery.api import (
    DOWN,
    NOT_QUIC,
    Array,
    FeatureClass,
    Packet,
    array,
    int64,
    parameter,
    uint8,
    uint16,
    uint32,
    up_to,
)

UINT16_MAX, UINT32_MAX = 0xFFFF, 0xFFFFFFFF


class FirstSecondsOutput(NamedTuple):
    payload_bytes_down: Annotated[list[int], up_to("Steps")]  # bytes in each step; none if no payload in any
    requests: Annotated[list[int], up_to("Steps")]  # upstream packets with payload in each step
    since_start_ms: int  # ms from the flow's start to the interval's, negative if the flow starts in it


class FirstSeconds(FeatureClass):
    """Payload and requests in the first `Steps` steps of `StepMs` ms of a flow; later packets change nothing.

    An interval has what came in it: over the intervals of a flow, lists are to be added. They end with the last step in
    which something came. Payload counts as it comes, retransmissions as well. A request is an upstream packet in which
    a TLS record of more than 100 bytes begins, or with more than 100 bytes of other payload. Control records and ACKs
    have at most 101 bytes; a ClientHello has more, and a browser's request for a short path on a connection that has
    asked before has less (`benchmarks/results/request_sizes.md`).

    >>> output = feed(FirstSeconds, [
    ...     packet(direction=UP, ts_s=5.0, payload_bytes=400),
    ...     packet(direction=DOWN, ts_s=5.1, payload_bytes=1_000),
    ...     packet(direction=DOWN, ts_s=6.2, payload_bytes=500),
    ...     packet(direction=DOWN, ts_s=60.0, payload_bytes=500),
    ... ])
    >>> output.payload_bytes_down, output.requests
    ([1000, 0, 500], [1, 0, 0])
    """

    Steps = parameter(20, at_least=1, at_most=3_600, unit="steps")
    StepMs = parameter(500, at_least=1, at_most=3_600_000, unit="ms")
    RequestBytes = parameter(101, at_least=1, at_most=65_535, unit="bytes")

    start_ns: int64  # time of the flow's first packet
    known: uint8  # 0 before it
    steps: uint16  # with something in them, in this interval
    since_start_ms: int64
    payload_bytes_down: Array[int] = array(uint32, "Steps")
    requests: Array[int] = array(uint16, "Steps")

    def add_packet(self, pkt: Packet) -> None:
        if not self.known:
            self.known = 1
            self.start_ns = pkt.ts_ns
        self.since_start_ms = (pkt.interval_start_ns - self.start_ns) // 1_000_000
        step = max(pkt.ts_ns - self.start_ns, 0) // (self.StepMs * 1_000_000)
        if step < self.Steps and pkt.payload_bytes > 0:
            if pkt.direction == DOWN:
                self.payload_bytes_down[step] = min(self.payload_bytes_down[step] + pkt.payload_bytes, UINT32_MAX)
                self.steps = max(self.steps, step + 1)
            elif (pkt.record_bytes if pkt.record_bytes > NOT_QUIC else pkt.payload_bytes) >= self.RequestBytes:
                self.requests[step] = min(self.requests[step] + 1, UINT16_MAX)
                self.steps = max(self.steps, step + 1)

    def clear(self) -> None:
        self.steps = 0
        for step in range(self.Steps):
            self.payload_bytes_down[step] = 0
            self.requests[step] = 0

    def collect_features(self, interval_s: float) -> FirstSecondsOutput:
        return FirstSecondsOutput(
            payload_bytes_down=self.payload_bytes_down[: self.steps],
            requests=self.requests[: self.steps],
            since_start_ms=self.since_start_ms,
        )
