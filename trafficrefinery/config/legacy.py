"""Configuration files of the original system: its keys, in the keys of this one.

Keys are translated wherever they stand, so that a file can be moved over key by key. What has no meaning here is
not an error but a note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from trafficrefinery.errors import ConfigError, did_you_mean

from .fields import check_interval, parse_mac, read_network
from .text import key_path, quoted
from .units import MAX_DURATION_NS, format_duration

Json = dict[str, Any]  # Any: JSON values
T = TypeVar("T")

_PARSER_KEYS = ("Driver", "Ifname", "Mode", "Replay", "ReplayMAC")
KEYS = {
    "": ("Sys", "Parsers", "Stats", "DNSCache"),
    "Sys": ("CPUProf", "MemProf", "InterfaceStats", "OutFolder"),
    "Parsers": ("DNSParser", "TrafficParsers"),
    "Parsers.DNSParser": _PARSER_KEYS,
    "Parsers.TrafficParsers": _PARSER_KEYS,
    "FlowCache": ("CacheType", "EvictTime", "CleanupTime", "ShardsCount", "Anonymize"),
    "Stats": ("Run", "Mode", "Append"),
    "DNSCache": ("EvictTime", "CleanupTime"),
    "Services": ("Features", "Emit"),
}
"""Keys of the original, by the section that they stand in (without list indices)."""
_MODES = ("host", "router", "mirror")


def translate(data: Mapping[str, Any], file: str) -> tuple[Json, list[str]]:
    """A copy of `data` with only keys of this system, and notes on what was ignored or changed.

    Raises:
        ConfigError: a key of the original that is unknown or wrong, or says the same as a new one beside it.
    """
    translation = _Translation(file, dict(data))
    translation.sys()
    translation.parsers()
    translation.flow_cache()
    translation.dns_cache()
    translation.ignore("Stats", translation.take("Stats"))
    translation.services()
    return translation.out, translation.notes


class _Translation:
    def __init__(self, file: str, out: Json) -> None:
        self.file, self.out = file, out
        self.notes: list[str] = []
        self.is_legacy = False

    def sys(self) -> None:
        section = self.take("Sys")
        if "OutFolder" in section:
            self.put(("OutFolder",), section.pop("OutFolder"), "Sys.OutFolder")
        self.ignore("Sys", section)

    def parsers(self) -> None:
        section = self.take("Parsers")
        dns = self.known("Parsers.DNSParser", section.get("DNSParser", {}))
        self.ignore("Parsers.DNSParser", dns)
        parsers = section.get("TrafficParsers", [])
        if not isinstance(parsers, list | tuple):
            raise self.error("Parsers.TrafficParsers", f"must be a list, not {quoted(parsers)}")
        directions = []
        for index, parser in enumerate(parsers):
            path = f"Parsers.TrafficParsers[{index}]"
            keys = self.known(path, parser)
            directions.append((keys.pop("Mode", None), keys.pop("ReplayMAC", None)))
            self.ignore(path, keys)
            if directions[index] != directions[0]:
                raise self.error(path, "Mode and ReplayMAC differ from the first parser's; one direction is allowed")
        if directions:
            self.direction(*directions[0])

    def direction(self, mode: object, mac: object) -> None:
        path = "Parsers.TrafficParsers[0]"
        if mode not in _MODES and (mode, mac) != (None, None):
            raise self.error(f"{path}.Mode", f"must be one of {', '.join(map(quoted, _MODES))}, not {quoted(mode)}")
        if mac is not None:
            mac = self.checked(parse_mac, str(mac), f"{path}.ReplayMAC")
            self.put(("Direction",), {"Mode": mode, "MAC": mac}, f"{path}.ReplayMAC")
        elif mode is not None:
            self.notes.append(f"{path}.Mode: tells no direction without ReplayMAC; the end that matches is the server")

    def flow_cache(self) -> None:
        section = self.out.get("FlowCache")
        if not isinstance(section, Mapping) or not section.keys() & set(KEYS["FlowCache"]):
            return
        self.is_legacy = True
        old = {key: value for key, value in section.items() if key in KEYS["FlowCache"]}
        self.out["FlowCache"] = {key: value for key, value in section.items() if key not in old}
        if old.get("Anonymize"):
            self.anonymize()
            del old["Anonymize"]
        self.evict_time("FlowCache", old, ("FlowCache", "IdleTimeout"))
        self.ignore("FlowCache", old)

    def anonymize(self) -> None:
        """The original had one key for everybody, in its source."""
        privacy = self.out.get("Privacy")
        if not (isinstance(privacy, Mapping) and privacy.get("KeyFile")):
            raise self.error(
                "FlowCache.Anonymize",
                "needs a key of your own here: name its file in Privacy.KeyFile, such as one made with "
                "`head -c 32 /dev/urandom > FILE; chmod 600 FILE`; or set this to false",
            )

    def dns_cache(self) -> None:
        section = self.take("DNSCache")
        self.evict_time("DNSCache", section, ("ServiceMap", "MinTTL"))
        self.ignore("DNSCache", section)

    def evict_time(self, name: str, section: Json, target: tuple[str, str]) -> None:
        if "EvictTime" in section:
            key = f"{name}.EvictTime"
            self.put(target, format_duration(self.duration_ns(section.pop("EvictTime"), "nanoseconds", key)), key)

    def services(self) -> None:
        services = self.out.get("Services")
        if not isinstance(services, list | tuple):
            return
        translated = [self.service(f"Services[{i}]", service) for i, service in enumerate(services)]
        if self.is_legacy:
            for index, service in enumerate(translated):
                self.mask_prefixes(f"Services[{index}]", service)
        self.out["Services"] = translated

    def service(self, path: str, service: object) -> object:
        if not isinstance(service, Mapping):
            return service
        service = dict(service)
        self.is_legacy |= bool(service.keys() & set(KEYS["Services"]))
        for old, new in (("Features", "Collect"), ("Emit", "Interval")):
            if old in service and new in service:
                raise self.error(f"{path}.{old}", f"says the same as {new} beside it; only one is allowed")
        if "Features" in service:
            service["Collect"] = service.pop("Features")
        if "Emit" in service:
            key = f"{path}.Emit"
            interval_ns = self.duration_ns(service.pop("Emit"), "microseconds", key)
            service["Interval"] = format_duration(self.checked(check_interval, interval_ns, key))
        return service

    def mask_prefixes(self, path: str, service: object) -> None:
        """The original took prefixes with host bits set; in new files they are errors."""
        filters = service.get("Filter") if isinstance(service, dict) else None
        if not isinstance(filters, Mapping) or not isinstance(filters.get("Prefixes"), list | tuple):
            return
        prefixes = [self.masked(f"{path}.Filter.Prefixes[{i}]", prefix) for i, prefix in enumerate(filters["Prefixes"])]
        service["Filter"] = {**filters, "Prefixes": prefixes}  # type: ignore[index]  # a dict, see above

    def masked(self, key: str, prefix: object) -> object:
        try:
            network, has_host_bits = read_network(prefix)
        except ValueError:
            return prefix  # reported by the check that all prefixes get
        if has_host_bits:
            self.notes.append(f"{key}: {quoted(prefix)} has host bits set, taken as {quoted(str(network))}")
            return str(network)
        return prefix

    def take(self, section: str) -> Json:
        """Remove a section that only the original has."""
        if section not in self.out:
            return {}
        self.is_legacy = True
        return self.known(section, self.out.pop(section))

    def known(self, path: str, section: object) -> Json:
        """A copy of a section, after a look at its keys."""
        if not isinstance(section, Mapping):
            raise self.error(path, f"must be an object, not {quoted(section)}")
        allowed = KEYS[path.partition("[")[0]]
        for key in section:
            if key not in allowed:
                near = did_you_mean(str(key), allowed) or f"; allowed are {', '.join(allowed)}"
                raise self.error(f"{path}.{key_path((key,))}", f"unknown key{near}")
        return dict(section)

    def ignore(self, path: str, section: Json) -> None:
        self.notes += [f"{path}.{key}: has no meaning here, ignored" for key in section]

    def put(self, target: tuple[str, ...], value: object, source: str) -> None:
        """Set a key of this system, unless the file has it too."""
        section = self.out
        for name in target[:-1]:
            inner = section.get(name, {})
            if not isinstance(inner, Mapping):
                return  # reported by the check that all sections get
            section[name] = dict(inner)
            section = section[name]
        if target[-1] in section:
            raise self.error(source, f"says the same as {'.'.join(target)}; only one is allowed")
        section[target[-1]] = value

    def duration_ns(self, value: object, unit: str, key: str) -> int:
        """A bare number, as the original has them."""
        factor = {"nanoseconds": 1, "microseconds": 1000}[unit]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_DURATION_NS // factor:
            raise self.error(key, f"must be a whole number of {unit} above 0, not {quoted(value)}")
        return value * factor

    def checked(self, check: Callable[[T], T], value: T, key: str) -> T:
        try:
            return check(value)
        except ValueError as error:
            raise self.error(key, str(error)) from None

    def error(self, key: str, message: str) -> ConfigError:
        return ConfigError(self.file, key, message)
