"""The files that `features new` writes: small classes that work, to be changed."""

from __future__ import annotations

import re

_TEMPLATE = '''"""Payload of packets, in each direction."""

from __future__ import annotations

from typing import NamedTuple

from trafficrefinery.api import UP, FeatureClass, Packet, nan, parameter, uint32, uint64


class NAMEOutput(NamedTuple):
    packets_up: int  # packets with payload
    packets_down: int  # packets with payload
    payload_bytes_mean_up: float  # bytes a packet; null when there was none
    payload_bytes_mean_down: float  # bytes a packet
    payload_kbps_down: float  # 1,000 bit/s


class NAME(FeatureClass):
    """Mean payload of packets with at least `MinBytes` bytes of it, in each direction.

    Here stands what is measured, where it comes from (a paper, an RFC), and where it is not exact.

    >>> output = feed(NAME, [packet(direction=UP, payload_bytes=n) for n in (100, 300, 0)])
    >>> output.packets_up, output.payload_bytes_mean_up
    (2, 200.0)
    """

    MinBytes = parameter(1, at_least=0, at_most=65_535, unit="bytes")  # the configuration may set it

    packets_up: uint32  # state: what one flow keeps, all zero when an interval starts
    packets_down: uint32
    bytes_up: uint64
    bytes_down: uint64

    def add_packet(self, pkt: Packet) -> None:
        if pkt.payload_bytes >= self.MinBytes:
            if pkt.direction == UP:
                self.packets_up += 1
                self.bytes_up += pkt.payload_bytes
            else:
                self.packets_down += 1
                self.bytes_down += pkt.payload_bytes

    def mean(self, total: int, n: int) -> float:
        return total / n if n > 0 else nan

    def collect_features(self, interval_s: float) -> NAMEOutput:
        return NAMEOutput(
            packets_up=self.packets_up,
            packets_down=self.packets_down,
            payload_bytes_mean_up=self.mean(self.bytes_up, self.packets_up),
            payload_bytes_mean_down=self.mean(self.bytes_down, self.packets_down),
            payload_kbps_down=self.bytes_down * 8 / 1000 / interval_s,
        )
'''

_SESSION_TEMPLATE = '''"""How much of the traffic of a session goes up."""

from __future__ import annotations

from typing import NamedTuple

from trafficrefinery.api import float64, nan
from trafficrefinery.api.sessions import NETWORK, Flow, SessionFeature


class NAMEOutput(NamedTuple):
    PREFIX_bytes: int  # bytes in the interval, of both directions
    PREFIX_up_share: float  # of the bytes in the interval; null without any
    PREFIX_all_up_share: float  # of the bytes since the session's start


class NAME(SessionFeature):
    """Share of the bytes of a session that its client sends, in the interval and since the session's start.

    Here stands what is measured, where it comes from (a paper, an RFC), and where it is not exact.
    """

    group = NETWORK  # what the columns begin with: network.PREFIX_bytes
    needs = ("PacketCounters",)  # the feature classes whose outputs it is made from

    bytes_up: float64  # state: what one session keeps, all zero when it starts
    bytes_all: float64
    before_up: float64  # bytes of the intervals before
    before_all: float64

    def add_flow(self, flow: Flow) -> None:
        self.bytes_up += flow["PacketCounters.bytes_up"]
        self.bytes_all += flow["PacketCounters.bytes_up"] + flow["PacketCounters.bytes_down"]

    def share(self, part: float, whole: float) -> float:
        return part / whole if whole > 0 else nan

    def collect_features(self, interval_s: float) -> NAMEOutput:
        return NAMEOutput(
            PREFIX_bytes=self.bytes_all,
            PREFIX_up_share=self.share(self.bytes_up, self.bytes_all),
            PREFIX_all_up_share=self.share(self.before_up + self.bytes_up, self.before_all + self.bytes_all),
        )

    def clear(self) -> None:
        """Called after each interval; what the session keeps stays."""
        self.before_up += self.bytes_up
        self.before_all += self.bytes_all
        self.bytes_up = self.bytes_all = 0
'''


def scaffold(name: str, session: bool = False) -> str:
    """The source of a new class of that name: a feature class, or a session feature."""
    template = _SESSION_TEMPLATE if session else _TEMPLATE
    return template.replace("NAME", name).replace("PREFIX", file_name(name).removesuffix(".py"))


def file_name(name: str) -> str:
    """The name of a class's file: `PacketCounters` is in `packet_counters.py`, `TCPCounters` in `tcp_counters.py`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower() + ".py"
