"""What a configuration says: one class a section, keys as the user writes them, values as the program uses them.

A new section is a class here and one field of `Config`; errors, defaults, the JSON schema and `config show` follow.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    StrictBool,
    StrictInt,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from trafficrefinery.errors import ConfigError
from trafficrefinery.services.sources import FLOW_SOURCES

from .daemon import Capture, Daemon, Metrics, Privacy
from .decapsulation import DESCRIPTION as DECAPSULATE
from .decapsulation import Decapsulation
from .fields import (
    MAC,
    ClassParameters,
    Collected,
    Domain,
    Duration,
    Interval,
    PositiveDuration,
    Prefix,
    Regex,
    Section,
)
from .inference import Inference
from .sinks import Sinks
from .text import quoted
from .units import NS_PER_UNIT

MAX_ENTRIES = 10**9
SECOND_NS, MINUTE_NS = NS_PER_UNIT["s"], NS_PER_UNIT["m"]


class FlowCache(Section):
    """The table of flows of each worker."""

    max_flows: StrictInt = Field(
        default=1_000_000, alias="MaxFlows", ge=1, le=MAX_ENTRIES, description="Maximum number of flows in each worker."
    )
    idle_timeout_ns: PositiveDuration = Field(
        default=10 * MINUTE_NS, alias="IdleTimeout", description="A longer gap in a flow starts a new flow."
    )
    at_capacity: Literal["evict-oldest", "refuse"] = Field(
        default="evict-oldest",
        alias="AtCapacity",
        description="At MaxFlows: end the flow that has been idle longest, or refuse the new one and count it.",
    )


S = TypeVar("S", bound=Section)


def _with_switches(section: type[S]) -> type[S]:
    """The section, with a key for each source of names that can be switched on and off."""
    switches: dict[str, Any] = {  # Any: as `create_model` has it
        source.key.lower(): (StrictBool, Field(default=source.is_on, alias=source.key, description=source.description))
        for source in FLOW_SOURCES.values()
        if source.key
    }
    return create_model(
        section.__name__, __base__=section, __doc__=section.__doc__, __module__=section.__module__, **switches
    )


@_with_switches
class ServiceMapSection(Section):
    """How names and addresses in the traffic are mapped to services."""

    min_ttl_ns: Duration = Field(
        default=10 * MINUTE_NS,
        alias="MinTTL",
        description="An address stays known for the TTL of its DNS answer, but at least this long.",
    )
    max_addresses: StrictInt = Field(
        default=1_000_000,
        alias="MaxAddresses",
        ge=1,
        le=MAX_ENTRIES,
        description="Maximum number of addresses learnt from DNS.",
    )

    @property
    def sources(self) -> int:
        """A bit for each source in the packets of flows that is read, see `services.sources`."""
        keys = {number: source.key.lower() for number, source in FLOW_SOURCES.items()}
        return sum(1 << number for number, key in keys.items() if not key or getattr(self, key))


class Direction(Section):
    """How upstream packets (from the client) are distinguished from downstream packets."""

    mode: Literal["service", "host", "router", "mirror"] = Field(
        default="service",
        alias="Mode",
        description="service: the end that matched the service is the server. "
        "host, router, mirror: by the MAC address of the host, router or mirrored router.",
    )
    mac: MAC | None = Field(
        default=None, alias="MAC", description="The MAC address of the modes host, router and mirror."
    )
    client_networks: tuple[Prefix, ...] = Field(
        default=(), alias="ClientNetworks", description="Networks of the clients, used when both ends match a service."
    )
    service_ports: tuple[Annotated[int, Field(ge=0, le=65535)], ...] = Field(
        default=(),
        alias="ServicePorts",
        description="Ports of servers, beside the well-known ones below 1024. When both ends match a service and no "
        "SYN was seen, the end with the higher port is the client, if the other's port is one of these.",
    )

    @field_validator("mac")
    @classmethod
    def _mac_fits_mode(cls, mac: str | None, info: ValidationInfo) -> str | None:
        mode = info.data.get("mode", "service")
        if mode == "service" and mac is not None:
            raise ValueError('is not used in Mode "service"; remove it, or set Mode to "host", "router" or "mirror"')
        return mac

    @model_validator(mode="after")
    def _mode_has_mac(self) -> Self:
        if self.mode != "service" and self.mac is None:
            raise ValueError(f'Mode "{self.mode}" needs a MAC, such as "e4:ce:8f:01:4c:54"')
        return self


class Filter(Section):
    """Which flows belong to a service; any match is enough."""

    domains_string: tuple[Domain, ...] = Field(
        default=(),
        alias="DomainsString",
        description='Domains: "netflix.com" matches itself and the names below it; without a dot, any part of a label.',
    )
    domains_regex: tuple[Regex, ...] = Field(
        default=(),
        alias="DomainsRegex",
        description="Regular expressions (RE2 syntax), searched anywhere in the name; letter case does not matter.",
    )
    media_domains: tuple[Domain, ...] = Field(
        default=(),
        alias="MediaDomains",
        description="Domains that media come from, as in DomainsString; they belong to the service as those do. Flows "
        "with another name then have no media; those without a name are judged by their segments.",
    )
    prefixes: tuple[Prefix, ...] = Field(
        default=(), alias="Prefixes", description="IPv4 and IPv6 prefixes of the servers."
    )

    @property
    def domains(self) -> tuple[str, ...]:
        """All domains that belong to the service, those of media among them."""
        return tuple(dict.fromkeys(self.domains_string + self.media_domains))

    @property
    def has_names(self) -> bool:
        """Whether names are looked at."""
        return bool(self.domains or self.domains_regex)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not (self.has_names or self.prefixes):
            raise ValueError("needs at least one entry in DomainsString, DomainsRegex, MediaDomains or Prefixes")
        return self


MEDIA, PACKET = "VideoSegments", "packet"
"""What opens a session, beside an output of a feature class."""


class Sessions(Section):
    """When a session of a client and a service starts and ends; media segments are those of VideoSegments, in flows of
    MediaDomains where a filter has them.
    """

    opened_by: str = Field(
        default=MEDIA,
        alias="OpenedBy",
        pattern=rf"^({MEDIA}|{PACKET}|[A-Za-z_]\w*\.[A-Za-z_]\w*)$",
        description="What opens a session: VideoSegments, a media segment; packet, any packet; or CLASS.OUTPUT of a "
        "feature class, an interval in which this output of a flow is above 0.",
    )
    start_gap_ns: PositiveDuration = Field(
        default=30 * SECOND_NS,
        alias="StartGap",
        description="Minimum gap before what opens a session starts a new one, unless one is open.",
    )
    end_gap_ns: PositiveDuration = Field(
        default=60 * SECOND_NS, alias="EndGap", description="A session ends after this long without a packet."
    )
    max_sessions: StrictInt = Field(
        default=1_000_000,
        alias="MaxSessions",
        ge=1,
        le=MAX_ENTRIES,
        description="Maximum number of open sessions of a service.",
    )
    parameters: ClassParameters = Field(
        default={},
        alias="Parameters",
        description="Parameters of session features, where they differ from defaults; `features show NAME` lists them.",
    )

    @property
    def opening_class(self) -> str:
        """The feature class without which a service has no sessions; empty where any packet opens one."""
        return "" if self.opened_by == PACKET else self.opened_by.partition(".")[0]


def _without_default(schema: JsonDict) -> None:
    del schema["default"]


class Service(Section):
    """Which flows are of interest, and what is collected for them."""

    name: str = Field(alias="Name", min_length=1, max_length=200, description="Unique name, written to every record.")
    filter: Filter = Field(alias="Filter")
    collect: tuple[Collected, ...] = Field(
        alias="Collect", min_length=1, description="Feature classes, with parameters where they differ from defaults."
    )
    interval_ns: Interval = Field(
        default=10 * SECOND_NS,
        alias="Interval",
        description="How often a record is written for each flow; default: the top-level Interval.",
        json_schema_extra=_without_default,
    )
    first_packets: StrictInt | None = Field(
        default=None,
        alias="FirstPackets",
        ge=1,
        le=MAX_ENTRIES,
        description="Number of first packets of each flow and interval that features see; default: all.",
    )

    @field_validator("name")
    @classmethod
    def _printable(cls, name: str) -> str:
        if not name.isprintable() or name != name.strip():
            raise ValueError("must be printable text without space at its ends")
        return name


def _host_name_if_none(name: object) -> object:
    return socket.gethostname() if name is None else name


def _existing_path(path: object, info: ValidationInfo) -> Path:
    if not isinstance(path, str | Path):
        raise ValueError("must be the path of a folder or file")
    base: Path = (info.context or {}).get("base", Path())
    found = (base / path).absolute()
    if not found.exists():
        raise ValueError(f"there is no folder or file {quoted(str(found))}")
    return found


FeaturePath = Annotated[Path, BeforeValidator(_existing_path), PlainSerializer(str)]


class Config(Section):
    """Configuration of Traffic Refinery. Durations and sizes are strings with units."""

    description: str = Field(default="", alias="Description", description="What this configuration is for.")
    interval_ns: Interval = Field(
        default=10 * SECOND_NS,
        alias="Interval",
        description="How often records are written; services may set their own.",
    )
    sensor: Annotated[str, Field(min_length=1), BeforeValidator(_host_name_if_none)] = Field(
        default_factory=socket.gethostname,
        alias="Sensor",
        description="Name of this sensor, written to every record; default: the host name.",
        json_schema_extra={"type": ["string", "null"]},
    )
    grace_ns: Duration = Field(
        default=SECOND_NS, alias="Grace", description="How long after its end an interval stays open for late packets."
    )
    flow_cache: FlowCache = Field(default=FlowCache(), alias="FlowCache")
    service_map: ServiceMapSection = Field(default=ServiceMapSection(), alias="ServiceMap")
    direction: Direction = Field(default=Direction(), alias="Direction")
    decapsulate: Decapsulation = Field(
        default=(),
        alias="Decapsulate",
        description=DECAPSULATE,
    )
    feature_paths: tuple[FeaturePath, ...] = Field(
        default=(),
        alias="FeaturePaths",
        description="Further folders or files with feature classes, relative to this file.",
    )
    out_folder: Path | None = Field(
        default=None, alias="OutFolder", description="Where records are written, unless -o is given."
    )
    capture: Capture = Field(default=Capture(), alias="Capture")
    sinks: Sinks = Field(default_factory=lambda: Sinks.model_validate({}), alias="Sinks")
    metrics: Metrics = Field(default=Metrics(), alias="Metrics")
    privacy: Privacy = Field(default=Privacy(), alias="Privacy")
    daemon: Daemon = Field(default=Daemon(), alias="Daemon")
    sessions: Sessions = Field(default=Sessions(), alias="Sessions")
    inference: Inference = Field(default=Inference(), alias="Inference")
    services: tuple[Service, ...] = Field(
        alias="Services", min_length=1, description="If several services match a flow, the first one counts."
    )

    _file: str = PrivateAttr("<config>")
    _ignored: tuple[str, ...] = PrivateAttr(())

    @property
    def file(self) -> str:
        """Where this was read from, as errors name it."""
        return self._file

    @property
    def ignored(self) -> list[str]:
        """Keys of the original system that have no meaning here, or another one: `KEY: what becomes of it`."""
        return list(self._ignored)

    def error(self, key_path: str, message: str) -> ConfigError:
        """An error about one of this configuration's keys, such as the `key_path` of a `CollectItem`; to be raised."""
        return ConfigError(self._file, key_path, message)

    def to_dict(self) -> dict[str, Any]:  # Any: JSON values
        """The effective configuration, every key named, as JSON values; `parse_config` reads it again."""
        return self.model_dump(by_alias=True, mode="json")
