"""A configuration with its feature classes: what workers and the aggregator share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from trafficrefinery.api import FeatureClass
from trafficrefinery.api.parameters import size_text
from trafficrefinery.config import Config
from trafficrefinery.errors import TrafficRefineryError

from .feature_classes.fields import source_file
from .feature_classes.fuse import Profile
from .feature_classes.key import lasting_name
from .feature_classes.registry import Registry
from .flow_cache import HEADER

_ADDRESS_SPACE_BYTES = 1 << 45  # of the 47 bits that a process has


@dataclass(frozen=True)
class Plan:
    """A configuration with its feature classes: what workers and the aggregator share."""

    config: Config
    profiles: tuple[Profile, ...]
    service_profile: tuple[int, ...]

    @classmethod
    def of(cls, config: Config, classes: Sequence[type[FeatureClass]] = ()) -> Plan:
        """Look up the feature classes of a configuration; `classes` are further ones, not from files."""
        registry = Registry(config.feature_paths, classes)
        wanted = [
            Profile(registry.collect(service.collect, config.file), service.interval_ns, service.first_packets)
            for service in config.services
        ]
        profiles = tuple(dict.fromkeys(wanted))
        _check_room(config, profiles)
        return cls(config, profiles, tuple(profiles.index(profile) for profile in wanted))

    def classes_of(self, services: Collection[str] = ()) -> dict[str, list[type[FeatureClass]]]:
        """The feature classes that some services collect, all if none is named, by class name; one that services
        give different parameters stands there as several classes. A class of other services only has an empty list."""
        found: dict[str, list[type[FeatureClass]]] = {}
        for service, number in zip(self.config.services, self.service_profile, strict=True):
            for cls in self.profiles[number].classes:
                alike = found.setdefault(cls.__name__, [])
                if cls not in alike and (not services or service.name in services):
                    alike.append(cls)
        return found

    def raised(self, counts: Mapping[str, int]) -> list[TrafficRefineryError]:
        """What `Worker.class_errors` says, as errors; none of classes that never raised."""
        files = {cls.__name__: lasting_name(source_file(cls)) for profile in self.profiles for cls in profile.classes}
        return [
            TrafficRefineryError(
                f"{files[name]}: {name}: {count:,} calls of its methods ended with an error, most likely an index "
                "outside its array; what it says of these packets is wrong. The same traffic replayed with "
                f"TRAFFICREFINERY_JIT=off, or `trafficrefinery features check {files[name]}`, finds the line"
            )
            for name, count in counts.items()
            if count
        ]


def _check_room(config: Config, profiles: Sequence[Profile]) -> None:
    """Raise ConfigError when the flow cache would not fit into the addresses that a process has."""
    flow_bytes = HEADER.itemsize + sum(profile.state_dtype().itemsize for profile in profiles)
    most = _ADDRESS_SPACE_BYTES // flow_bytes
    if config.flow_cache.max_flows > most:
        raise config.error(
            "FlowCache.MaxFlows",
            f"{config.flow_cache.max_flows:,} flows of {size_text(flow_bytes)} are more than a process can address; "
            f"with these classes the most is {most:,}",
        )
