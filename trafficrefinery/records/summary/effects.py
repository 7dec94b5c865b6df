"""Keys of a configuration that are set but have no effect in what is being done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from trafficrefinery.config import Config

from .findings import NOTE, Finding

RUN, RUN_FILE, REPLAY, PROFILE, DATASET = "run", "run --file", "replay", "profile", "dataset build"
_RECORDED = (RUN_FILE, REPLAY, PROFILE, DATASET)
_NOT_DAEMON = (REPLAY, PROFILE, DATASET)
_MODES = (RUN, *_RECORDED)
_OF_FILES = ("Capture.Duplicates",)
"""Of Capture, what holds for recorded traces too."""
_OF_DAEMON = ("Capture.Workers", "Capture.Cpus", "Capture.RealtimePriority")
_OF_LIBPCAP = ("Capture.Fanout", "Capture.BlockSize", "Capture.Workers")
_NOT_OF_XDP = {
    "Capture.BlockSize": "AF_XDP has no blocks",
    "Capture.IgnoreOutgoing": "AF_XDP shows no frame that this machine sends",
}


class _Rule(NamedTuple):
    """Keys below `key`, but for `others`, have no effect where `holds`."""

    key: str
    why: str
    holds: Callable[[Config, str], bool]
    others: tuple[str, ...] = ()

    def concerns(self, key: str) -> bool:
        return _is_below(key, self.key) and not any(_is_below(key, one) for one in self.others)


def _collects(config: Config, name: str) -> bool:
    return any(item.name == name for service in config.services for item in service.collect)


def _has_names(config: Config) -> bool:
    return any(service.filter.has_names for service in config.services)


_RULES = (
    _Rule("Capture", "packets come from recorded traces", lambda _, mode: mode in _NOT_DAEMON, _OF_FILES),
    _Rule("Capture", "packets come from recorded traces", lambda _, mode: mode == RUN_FILE, (*_OF_FILES, *_OF_DAEMON)),
    *(_Rule(key, "libpcap has one worker and a buffer of its own",
            lambda config, mode: mode == RUN and config.capture.source == "pcap") for key in _OF_LIBPCAP),
    *(_Rule(key, why, lambda config, mode: mode == RUN and config.capture.source == "afxdp")
      for key, why in _NOT_OF_XDP.items()),
    *(_Rule(key, "only `run` reads such keys", lambda _, mode: mode in _NOT_DAEMON)
      for key in ("Sinks", "Metrics", "Daemon", "OutFolder")),
    _Rule("Inference", "models are given with --model", lambda _, mode: mode == PROFILE),
    _Rule("Inference", "a dataset has labels, and no model is asked", lambda _, mode: mode == DATASET),
    _Rule("Inference.Smoothing", "there are no models", lambda config, _: not config.inference.models),
    _Rule("Sessions", "no service collects the feature class that makes sessions",
          lambda config, _: bool(cls := config.sessions.opening_class) and not _collects(config, cls)),
    _Rule("ServiceMap", "no service has DomainsString, DomainsRegex or MediaDomains",
          lambda config, _: not _has_names(config)),
)  # fmt: skip


def _of_sinks(config: Config) -> Iterator[_Rule]:
    for sink in config.sinks.defaults().keys() - config.sinks.enabled.keys():
        key = f"Sinks.{sink}.Enabled"
        yield _Rule(f"Sinks.{sink}", f"{key} is false", lambda *_: True, (key,))


class Unused(NamedTuple):
    """A key that is set to something else than its default, and why that changes nothing."""

    key: str
    why: str


def without_effect(config: Config, mode: str) -> list[Unused]:
    """Keys that differ from their defaults, in the order of the file's sections, but change nothing in this mode."""
    defaults = type(config).model_construct(services=()).model_dump(by_alias=True, mode="json", warnings=False)
    defaults["Sinks"] = config.sinks.defaults()
    rules, found = (*_RULES, *_of_sinks(config)), []
    for key in _changed(config.to_dict(), defaults):
        rule = next((rule for rule in rules if rule.concerns(key) and rule.holds(config, mode)), None)
        if rule is not None:
            found.append(Unused(key, rule.why))
    return found


def findings_of(config: Config, mode: str) -> list[Finding]:
    """What of a configuration a user may believe to have an effect, one finding for each reason."""
    if mode not in _MODES:
        return []
    by_why: dict[str, list[str]] = {}
    for key, why in without_effect(config, mode):
        by_why.setdefault(why, []).append(key)
    found = [
        Finding("keys_without_effect", NOTE, len(keys), 0,
                f"{{}} [key|keys] of the configuration [has|have] no effect, as {why}", "", tuple(keys))
        for why, keys in by_why.items()
    ]  # fmt: skip
    if config.ignored:
        message = "{} [key|keys] of the original system [is|are] ignored or changed"
        found.append(Finding("keys_ignored", NOTE, len(config.ignored), 0, message, "", tuple(config.ignored)))
    return found


def _is_below(key: str, section: str) -> bool:
    return key == section or key.startswith(section + ".")


def _changed(value: Any, default: Any, path: str = "") -> list[str]:  # Any: JSON values
    if isinstance(value, dict) and isinstance(default, dict):
        return [
            key
            for name, inner in value.items()
            for key in _changed(inner, default.get(name), f"{path}.{name}" if path else name)
        ]
    return [path] if value != default else []
