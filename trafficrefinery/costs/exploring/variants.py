"""Configurations that collect one representation, made from the user's."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trafficrefinery.config import Config, load_config, parse_config
from trafficrefinery.config.fields import CollectItem
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.config.units import format_duration
from trafficrefinery.errors import ConfigError
from trafficrefinery.models.targets import Unit
from trafficrefinery.records.inferences import SESSION
from trafficrefinery.system.writing import write_file

from .space import Sampling

Json = dict[str, Any]  # Any: JSON values
PAPER = ("PacketCounters", "PacketTimes", "TCPCounters", "LatencyCounters", "VideoSegments", "FirstSeconds")
"""Classes that the session features are made from."""


def default_config() -> Config:
    """Eleven video services, with all classes of the paper's study."""
    config = load_config(configs_dir() / "video.json")
    content = _content(config)
    for service in content["Services"]:
        service["Collect"] = list(PAPER)
    return parse_config(content, config.file)


def collected(config: Config, unit: Unit) -> dict[str, CollectItem]:
    """What the services with units of a kind collect together; each class as the first of them has it.

    Raises:
        ConfigError: none has any.
    """
    found: dict[str, CollectItem] = {}
    for service in config.services:
        if _has(config, unit, service.collect):
            for item in service.collect:
                found.setdefault(item.name, item)
    if not found:
        raise ConfigError(
            config.file,
            "Services",
            f"none collects {config.sessions.opening_class}, which make {unit.many}; add it to Collect",
        )
    return found


def collecting(
    config: Config, classes: Sequence[str], source: Sampling, unit: Unit, models: Sequence[str] = ()
) -> Json:
    """The configuration in which services with units of a kind collect some classes; others stay, but for Interval.

    Args:
        models: of its `Inference`.
    """
    items = collected(config, unit)
    content = _content(config)
    content["Interval"] = format_duration(round(source.interval_s * 1e9))
    for service, parsed in zip(content["Services"], config.services, strict=True):
        service["Interval"] = content["Interval"]
        if _has(config, unit, parsed.collect):
            service["Collect"] = [items[name].to_json() for name in classes]
            service["FirstPackets"] = source.first_packets
    content["Inference"] = {**content.get("Inference", {}), "Models": list(models)}
    return content


def only_services_of(config: Config, unit: Unit, content: Json) -> Json:
    """Without the services that have no units of a kind: what is measured is the cost of the representation alone."""
    named = [{next(iter(item)) if isinstance(item, dict) else item for item in service["Collect"]}
             for service in content["Services"]]  # fmt: skip
    kept = [service for service, names in zip(content["Services"], named, strict=True)
            if not (opening := _opening(config, unit)) or opening in names]  # fmt: skip
    return {**content, "Services": kept}


def of_prefixes(content: Json, prefixes: Sequence[str]) -> Json:
    """The first service only, for all traffic with some servers."""
    service = {**content["Services"][0], "Name": "generated", "Filter": {"Prefixes": list(prefixes)}}
    return {**content, "Services": [service]}


def _has(config: Config, unit: Unit, items: Sequence[CollectItem]) -> bool:
    opening = _opening(config, unit)
    return not opening or any(item.name == opening for item in items)


def _opening(config: Config, unit: Unit) -> str:
    """The feature class without which a service has no units of a kind; empty for none."""
    return config.sessions.opening_class if unit.name == SESSION else ""


def _content(config: Config) -> Json:
    """What differs from the defaults, to be read anywhere: the name of this host is not in it."""
    content: Json = config.model_dump(by_alias=True, mode="json", exclude_defaults=True)
    if config.sensor == socket.gethostname():
        content.pop("Sensor", None)
    return content


def write_config(content: Json, path: Path) -> Config:
    """Write a configuration, and load it once."""
    import json

    write_file(path, json.dumps(content, indent=2) + "\n")
    return load_config(path)
