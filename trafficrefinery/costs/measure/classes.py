"""What each feature class costs alone, and all of them together, on recorded packets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trafficrefinery.api import state_dtype
from trafficrefinery.costs.profiling.storage import classes_of
from trafficrefinery.engine.feature_classes.fuse import Profile
from trafficrefinery.engine.plan import Plan

from .clock import Repeated
from .feeding import Feed
from .measuring import Processing, of_profile, processing
from .recording import Packets


class ClassCosts(NamedTuple):
    """Of a feature class, or of all classes of a profile in one step.

    Args:
        state_bytes: of one flow, as declared.
        services: that collect it.
    """

    state_bytes: int
    services: list[str]
    flows: int
    processing: Processing


def each_class(plan: Plan, packets: Packets, repetitions: int) -> dict[str, ClassCosts]:
    """Of each class, on the packets of the services that collect it."""
    found = {}
    for name, cls in classes_of(plan).items():
        numbers = [
            number for number, profile in enumerate(plan.profiles) if name in [c.__name__ for c in profile.classes]
        ]
        measured = _costs(plan, packets, Profile((cls,), plan.profiles[numbers[0]].interval_ns), numbers, repetitions)
        if measured is not None:
            found[name] = measured._replace(state_bytes=state_dtype(cls).itemsize)
    return found


def each_profile(plan: Plan, packets: Packets, repetitions: int) -> dict[str, ClassCosts]:
    """Of all classes of a service in one step, as the packet loop calls them."""
    found = {}
    for number, profile in enumerate(plan.profiles):
        measured = _costs(plan, packets, profile, [number], repetitions)
        if measured is not None:
            found[" + ".join(cls.__name__ for cls in profile.classes)] = measured
    return found


def _costs(plan: Plan, packets: Packets, profile: Profile, numbers: list[int], repetitions: int) -> ClassCosts | None:
    chosen = np.any([of_profile(plan, number, packets) for number in numbers], axis=0)
    if not chosen.any():
        return None
    feed = Feed(profile, packets, chosen)
    services = [
        service.name
        for service, number in zip(plan.config.services, plan.service_profile, strict=True)
        if number in numbers
    ]
    return ClassCosts(profile.state_dtype().itemsize, services, feed.flow_count, processing(feed, repetitions))


def call_ns(plan: Plan, packets: Packets, repetitions: int) -> Repeated:
    """What the call of a step takes, that does nothing, of a packet of a service."""
    number = int(np.argmax([of_profile(plan, number, packets).sum() for number in range(len(plan.profiles))]))
    feed = Feed(plan.profiles[number], packets, of_profile(plan, number, packets))
    feed.time_batches(feed.nothing)
    pairs = [
        (feed.time_batches(feed.nothing), feed.time_batches(feed.nothing, calls=False)) for _ in range(repetitions)
    ]
    calling, without = (np.array(turns) for turns in zip(*pairs, strict=True))
    return Repeated.of_parts(calling - without.min(axis=0), feed.packet_count)


def classes_not_measured(plan: Plan, found: dict[str, ClassCosts]) -> list[str]:
    """Classes of services without a packet in the trace."""
    return [name for name in classes_of(plan) if name not in found]
