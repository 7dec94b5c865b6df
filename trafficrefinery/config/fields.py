"""What all sections of the configuration have in common, and single values, in the form that the program works with."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from trafficrefinery.services.expressions import check_expression

from .text import quoted
from .units import (
    DURATION_PATTERN,
    NS_PER_UNIT,
    RATE_PATTERN,
    SIZE_OR_SHARE_PATTERN,
    SIZE_PATTERN,
    Share,
    format_duration,
    format_rate,
    format_size,
    format_size_or_share,
    parse_duration_ns,
    parse_rate_bps,
    parse_size_bytes,
    parse_size_or_share,
)


class Section(BaseModel):
    """Keys that are not known are errors; values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


CLASS_ALIASES = {
    "VideoCounters": "VideoSegments",
    "TCPState": "TCPCounters",
    "LatencyJitterCounter": "LatencyCounters",
}
"""Feature classes of the original system, and what they are called in the paper and here."""

T = TypeVar("T")
Network = IPv4Network | IPv6Network
Scalar = bool | int | float | str
ParameterValue = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class CollectItem:
    """A feature class to collect and its parameters; equal items make equal profiles wherever they stand."""

    name: str
    params: Mapping[str, ParameterValue] = field(default_factory=dict, hash=False)
    key_path: str = field(default="", compare=False)
    """Where it stands, such as `Services[2].Collect[0]`: the key of errors about it."""

    def to_json(self) -> str | dict[str, dict[str, Any]]:  # Any: JSON values
        if not self.params:
            return self.name
        return {self.name: {key: list(v) if isinstance(v, tuple) else v for key, v in self.params.items()}}

    def __str__(self) -> str:
        settings = ", ".join(f"{key}={quoted(value)}" for key, value in self.params.items())
        return f"{self.name}({settings})" if settings else self.name


def parse_collect_item(value: object) -> CollectItem:
    """`"Class"` or `{"Class": {"Parameter": value}}`."""
    if isinstance(value, CollectItem):
        return value
    name: object = value
    params: object = {}
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, params),) = value.items()
    if not isinstance(name, str) or not name or not isinstance(params, Mapping):
        raise ValueError(
            f"{quoted(value)} is not a feature class; "
            'write its name, "PacketCounters", or its name and parameters, {"VideoSegments": {"MinBytes": 30000}}'
        )
    return CollectItem(CLASS_ALIASES.get(name, name), {key: _parameter(key, v) for key, v in params.items()})


def parse_parameters(value: object) -> dict[str, dict[str, ParameterValue]]:
    """Parameters of classes: `{"Class": {"Parameter": value}}`."""
    if not isinstance(value, Mapping):
        example = '{"SessionTraffic": {"MediaBytes": 30000}}'
        raise ValueError(f"{quoted(value)} is not an object of classes with their parameters, such as {example}")
    items = [parse_collect_item({name: params}) for name, params in value.items()]
    return {item.name: dict(item.params) for item in items}


def _parameter(key: object, value: object) -> ParameterValue:
    many = isinstance(value, list | tuple)
    values: tuple[Any, ...] = tuple(value) if isinstance(value, list | tuple) else (value,)
    for one in values:
        if not isinstance(one, Scalar) or (isinstance(one, float) and not math.isfinite(one)):
            raise ValueError(
                f"parameter {quoted(key)} is {quoted(value)}; allowed are numbers, strings, true, false, lists of them"
            )
    result: ParameterValue = values if many else values[0]
    return result


def check_interval(interval_ns: int) -> int:
    if interval_ns < NS_PER_UNIT["ms"] or interval_ns % NS_PER_UNIT["ms"]:
        raise ValueError(
            f"{quoted(format_duration(interval_ns))} is not allowed; "
            'an interval is a whole number of milliseconds, at least "1ms"'
        )
    return interval_ns


def check_positive(duration_ns: int) -> int:
    if duration_ns == 0:
        raise ValueError("must be longer than 0")
    return duration_ns


def once_each(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise ValueError("names the same twice")
    return values


_DOMAIN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def parse_domain(name: str) -> str:
    """In lower case: letter case never matters."""
    name = name.lower()
    if _DOMAIN.fullmatch(name):
        return name
    bare = name.lstrip("*.").rstrip(".")
    if bare != name and _DOMAIN.fullmatch(bare):
        hint = f"write {quoted(bare)}, which also matches all names below it"
    else:
        hint = 'write labels of letters, digits, "-" and "_" with single dots between them, such as "netflix.com"'
    raise ValueError(f"{quoted(name)} is not a domain name; {hint}")


def check_regex(pattern: str) -> str:
    if not pattern:
        raise ValueError('is empty and would match every name; write ".*" to mean that')
    try:
        check_expression(pattern)
    except ValueError as error:
        raise ValueError(f"{quoted(pattern)} {error}") from None
    return pattern


def read_network(value: object) -> tuple[Network, bool]:
    """The network of an IP prefix, and whether host bits were set in it; ValueError when it is none."""
    if not isinstance(value, str) or "%" in value:
        raise ValueError("not an IP prefix")
    network = ip_network(value, strict=False)
    return network, network.network_address != ip_address(value.partition("/")[0])


def parse_network(value: object) -> Network:
    """An IPv4-mapped IPv6 prefix is the IPv4 prefix that it means."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    try:
        network, has_host_bits = read_network(value)
    except ValueError:
        allowed = 'write an address, a slash and a prefix length, such as "23.246.0.0/18" or "2a00:86c0::/32"'
        raise ValueError(f"{quoted(value)} is not an IP prefix; {allowed}") from None
    if has_host_bits:
        raise ValueError(f"{quoted(value)} has host bits set; the network is {quoted(str(network))}")
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def parse_mac(value: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", value):
        raise ValueError(f'{quoted(value)} is not a MAC address; write it as "e4:ce:8f:01:4c:54"')
    return value.lower().replace("-", ":")


Duration = Annotated[
    int,
    BeforeValidator(parse_duration_ns),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["10s", "500ms", "1h"]}),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size_bytes),
    PlainSerializer(format_size, return_type=str),
    WithJsonSchema({"type": "string", "pattern": SIZE_PATTERN, "examples": ["256MiB", "4KB"]}),
]
SizeOrShare = Annotated[
    int | Share,
    PlainValidator(parse_size_or_share),
    PlainSerializer(format_size_or_share, return_type=str),
    WithJsonSchema({"type": "string", "pattern": SIZE_OR_SHARE_PATTERN, "examples": ["20GB", "40%"]}),
]
Rate = Annotated[
    int,
    BeforeValidator(parse_rate_bps),
    PlainSerializer(format_rate, return_type=str),
    WithJsonSchema({"type": "string", "pattern": RATE_PATTERN, "examples": ["10Gbit", "200Mbit"]}),
]
Interval = Annotated[Duration, AfterValidator(check_interval)]
PositiveDuration = Annotated[Duration, AfterValidator(check_positive)]
Domain = Annotated[str, AfterValidator(parse_domain)]
Regex = Annotated[str, AfterValidator(check_regex), WithJsonSchema({"type": "string", "format": "regex"})]
Prefix = Annotated[
    Network,
    PlainValidator(parse_network),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$", "examples": ["23.246.0.0/18"]}),
]
MAC = Annotated[
    str,
    AfterValidator(parse_mac),
    WithJsonSchema({"type": "string", "pattern": "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$"}),
]
ClassParameters = Annotated[
    dict[str, dict[str, ParameterValue]],
    PlainValidator(parse_parameters),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": {"type": ["boolean", "number", "string", "array"]},
            },
            "examples": [{"SessionTraffic": {"MediaBytes": 30000}}],
        }
    ),
]
Collected = Annotated[
    CollectItem,
    PlainValidator(parse_collect_item),
    PlainSerializer(CollectItem.to_json),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": {
                        "type": "object",
                        "additionalProperties": {"type": ["boolean", "number", "string", "array"]},
                    },
                },
            ],
            "examples": ["PacketCounters", {"VideoSegments": {"MinBytes": 30000}}],
        }
    ),
]
