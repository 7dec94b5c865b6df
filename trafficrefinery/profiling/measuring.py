"""What a set of feature classes costs on packets that are parsed already."""

from __future__ import annotations

from typing import NamedTuple

from trafficrefinery.profiling.recording import Packets
from trafficrefinery.worker import Plan


class Costs(NamedTuple):
    """Of one representation: the classes of a plan, with its interval.

    Args:
        state_bytes: of one flow, as declared.
        ns_per_packet: of `add_packet` of all classes together, net of parsing, lookup and the call.
        collect_ns_per_flow: of `collect_features` of all classes, of one flow and interval.
        record_bytes: of a record as a JSON line, on average.
        noise: spread of `ns_per_packet` between repetitions, as a share of it.
    """

    state_bytes: float
    ns_per_packet: float
    collect_ns_per_flow: float
    record_bytes: float
    noise: float


def measure(plan: Plan, packets: Packets, repetitions: int = 5) -> Costs:
    """Measure the classes of a plan, which has the services that the packets were recorded with."""
    raise NotImplementedError
