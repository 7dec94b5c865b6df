"""All counters of a worker, by name: those of the packet loop, and those of what stands beside it.

A counter is declared once, with its help: in `partition.COUNTER_HELP`, or as a field of a dataclass whose name ends in
`Counters`, by `names.counter`. From there it is in metrics, in the summaries of intervals, and in `top`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any, NamedTuple

from trafficrefinery.services import AddressTableCounters, FlowNamesCounters, ServiceMapCounters
from trafficrefinery.services.dns.messages import DnsStreamsCounters

from .partition import COUNTERS as OF_PACKETS


class Counter(NamedTuple):
    """One counter beside the packet loop.

    Args:
        name: as it is shown, without `_total`.
        of: its dataclass.
        field: there.
    """

    name: str
    help: str
    of: type
    field: str


BESIDE: dict[type, Callable[[Any], Any]] = {  # Any: a `worker.Worker`, and an instance of the class
    FlowNamesCounters: lambda worker: worker.flow_names.counters,
    ServiceMapCounters: lambda worker: worker.services.counters,
    AddressTableCounters: lambda worker: AddressTableCounters(worker.services.addresses.replaced_total),
    DnsStreamsCounters: lambda worker: worker.dns_streams.counters,
}
"""Where a worker keeps the counters of each dataclass."""
_OF_ALL_WORKERS = {ServiceMapCounters, AddressTableCounters, DnsStreamsCounters}


def _declared(of: type) -> list[Counter]:
    found = []
    for field in fields(of):
        name = field.metadata.get("shown", field.name.removesuffix("_total"))
        help_ = field.metadata.get("help", f"{name.replace('_', ' ').capitalize()}.")
        found.append(Counter(name, help_, of, field.name))
    return found


COUNTED_BESIDE = tuple(counter for of in BESIDE for counter in _declared(of) if counter.name not in OF_PACKETS)
_VALUES = {
    of: attrgetter(*(counter.field for counter in COUNTED_BESIDE if counter.of is of), "__class__") for of in BESIDE
}  # the class, as of one attribute there would be no tuple
COUNTERS: tuple[str, ...] = (*OF_PACKETS, *(counter.name for counter in COUNTED_BESIDE))
"""All names, as the summaries of intervals have them."""


def counts_beside(worker: Any, *, is_first: bool) -> list[int]:
    """The values of COUNTED_BESIDE.

    Args:
        is_first: False for all but one of several workers that read the same DNS packets, which count once.
    """
    values: list[int] = []
    for of, read in BESIDE.items():
        counted = read(worker) if is_first or of not in _OF_ALL_WORKERS else of()
        values += _VALUES[of](counted)[:-1]
    return values
