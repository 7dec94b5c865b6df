"""What a set of feature classes costs on packets that are parsed already."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import UsageError
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.records.sinks.files import encode_json_lines

from .clock import Distribution, Repeated
from .feeding import Feed, Rows
from .recording import Packets

_COLLECTIONS, _COLLECTED = 15, 4096
_NEVER = 1 << 62


class Costs(NamedTuple):
    """Of one representation: the classes of a plan, with its interval.

    Args:
        state_bytes: of one flow, as declared.
        ns_per_packet: of `add_packet` of all classes together, net of parsing, lookup and the call.
        collect_ns_per_flow: of `collect_features` of all classes, of one flow and interval.
        record_bytes: of a record as a JSON line, on average.
        noise: how far repetitions of `ns_per_packet` lie apart, as a share of it.
    """

    state_bytes: float
    ns_per_packet: float
    collect_ns_per_flow: float
    record_bytes: float
    noise: float


class Processing(NamedTuple):
    """What the classes of one profile take of the CPU.

    Args:
        packet_ns: of a packet, net of a class that does nothing.
        batches: ns a packet, distribution over batches.
        batch_ns: the same, of each batch: the least of the repetitions.
        collect_ns: of a flow and interval, likewise net.
        rows: a sample of what was collected.
    """

    packets: int
    packet_ns: Repeated
    batches: Distribution
    batch_ns: NDArray[np.float64]
    collect_ns: Repeated
    rows: Rows


def measure(plan: Plan, packets: Packets, repetitions: int = 5) -> Costs:
    """Measure the classes of a plan, on packets of the same services. They may be measured on again, one at a time.

    Where services collect different classes, figures are means over the packets, flows and records of all.

    Raises:
        UsageError: no packets, or those of other services.
        FeatureError: a class cannot be compiled.
    """
    if not len(packets):
        raise UsageError("no packets of any service to measure")
    if packets.services != tuple(service.name for service in plan.config.services):
        raise UsageError(f"the packets were recorded with other services: {', '.join(packets.services)}")
    parts = []
    for number, profile in enumerate(plan.profiles):
        chosen = of_profile(plan, number, packets)
        if chosen.any():
            feed = Feed(profile, packets, chosen)
            found = processing(feed, repetitions)
            parts.append((found, feed.flow_count, profile.state_dtype().itemsize, record_bytes(plan, number, found.rows,
                          packets.names)))  # fmt: skip
    counts = [float(found.packets) for found, *_ in parts]
    rows = [float(found.rows.total) for found, *_ in parts]
    repeated = np.average([found.packet_ns.values for found, *_ in parts], axis=0, weights=counts)
    return Costs(
        float(np.average([size for *_, size, _ in parts], weights=[flows for _, flows, *_ in parts])),
        float(np.average([found.packet_ns.value for found, *_ in parts], weights=counts)),
        float(np.average([found.collect_ns.value for found, *_ in parts], weights=rows)),
        float(np.average([size for *_, size in parts], weights=rows)),
        Repeated.of(repeated).noise,
    )


def of_profile(plan: Plan, number: int, packets: Packets) -> NDArray[np.bool_]:
    """Which packets belong to a service that collects a profile."""
    services = np.flatnonzero(np.array(plan.service_profile) == number)
    chosen: NDArray[np.bool_] = np.isin(packets.headers["service"], services)[packets.flows]
    return chosen


def processing(feed: Feed, repetitions: int) -> Processing:
    """Time the classes of a feed and a class that does nothing, in turn, so that both meet the same load."""
    rows = feed.collect()  # warms up
    sizes = np.diff(feed.bounds)
    pairs = [(feed.time_batches(feed.step), feed.time_batches(feed.nothing)) for _ in range(repetitions)]
    taken, nothing = (np.array(turns) for turns in zip(*pairs, strict=True))
    net = taken - nothing.min(axis=0)
    by_batch = net.min(axis=0) / sizes
    states = np.resize(rows.states, max(len(rows.states), _COLLECTED))
    collected = np.array([
        [feed.time_collect(states, feed.step), feed.time_collect(states, feed.nothing)] for _ in range(_COLLECTIONS)
    ])  # fmt: skip
    return Processing(
        feed.packet_count, Repeated.of_parts(net, feed.packet_count), Distribution.of(by_batch, sizes), by_batch,
        Repeated.of_parts(collected[:, :1] - collected[:, 1:].min(), len(states)), rows,
    )  # fmt: skip


def record_bytes(plan: Plan, number: int, rows: Rows, names: Any) -> float:
    """Bytes of a record as a JSON line, of a sample of rows of one profile."""
    aggregator = Aggregator(plan, 1)
    aggregator.rows(0, number, rows.rows.copy(), list(names))
    aggregator.done_until(0, _NEVER)
    return sum(len(encode_json_lines(batch)) for batch in aggregator.ready()) / len(rows.rows)
