"""Configuration: what to collect, of which services, how often. See `model.Config` for its parts."""

from .fields import CLASS_ALIASES, CollectItem, Network
from .load import load_config, parse_config
from .model import Config, Direction, Filter, FlowCache, Service, ServiceMapSection, Sessions
from .schema import config_schema
from .units import format_duration, format_size, parse_duration_ns, parse_size_bytes

__all__ = [
    "CLASS_ALIASES",
    "CollectItem",
    "Config",
    "Direction",
    "Filter",
    "FlowCache",
    "Network",
    "Service",
    "ServiceMapSection",
    "Sessions",
    "config_schema",
    "format_duration",
    "format_size",
    "load_config",
    "parse_config",
    "parse_duration_ns",
    "parse_size_bytes",
]
