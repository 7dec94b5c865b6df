"""`Sinks`: where records go. Each sink declares its own section; it is one of the package, or a plugin.

A sink is a class (see `records.sinks.base.Sink`) that `BUILT_IN` or an entry point of the group `trafficrefinery.sinks`
names. It is imported when a configuration names it, so this room needs none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    StrictBool,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from trafficrefinery.errors import did_you_mean
from trafficrefinery.system import plugins

from .fields import Section

BUILT_IN = {
    "JSONLines": "trafficrefinery.records.sinks.json_lines:JsonLinesSink",
    "Parquet": "trafficrefinery.records.sinks.parquet:ParquetSink",
    "StandardOutput": "trafficrefinery.records.sinks.standard_output:StandardOutput",
    "NATS": "trafficrefinery.records.sinks.jetstream:JetStream",
}
"""Key of the configuration: the sink, as an entry point names it."""


class SinkSettings(Section):
    """Keys that every sink has. A sink with more of them has a class of its own."""

    enabled: StrictBool = Field(default=False, alias="Enabled", description="Whether records go there.")


def installed() -> list[str]:
    """The keys of all sinks."""
    return list(plugins.installed(plugins.SINKS, BUILT_IN))


def sink_class(key: str) -> Any:  # type[Sink], which stands in a room above
    """The sink of a key.

    Raises:
        ValueError: there is none; it names those that are installed.
        PluginError: it cannot be loaded.
    """
    found = plugins.installed(plugins.SINKS, BUILT_IN)
    if key not in found:
        near = did_you_mean(key, found)
        raise ValueError(f"no sink of this name is installed; installed are {', '.join(found)}{near}")
    return found[key].load(_checked)


def _checked(sink: Any) -> Any:
    settings = getattr(sink, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, SinkSettings)):
        raise TypeError("is not a sink: it has no Settings, a subclass of SinkSettings")
    if not isinstance(getattr(sink, "name", None), str):
        raise TypeError("is not a sink: it has no name, a string by which metrics and the log call it")
    return sink


class _Given(NamedTuple):
    """A section as it stands in the file."""

    key: str
    value: object


def _settings(given: Any, _: Any, info: ValidationInfo) -> SinkSettings:
    if isinstance(given, SinkSettings):
        return given
    model: type[SinkSettings] = sink_class(given.key).Settings
    return model.model_validate(given.value, context=info.context)


class Sinks(Section, extra="allow"):
    """Where the daemon's records go: a section for each sink."""

    __pydantic_extra__: dict[str, Annotated[Any, WrapValidator(_settings)]]

    @model_validator(mode="before")
    @classmethod
    def _with_those_of_the_package(cls, given: object) -> object:
        """Those of the package are there with their defaults; plugins, where the file names them."""
        if not isinstance(given, Mapping):
            return given
        sections = {**{key: {} for key in BUILT_IN}, **given}
        return {key: one if isinstance(one, SinkSettings) else _Given(key, one) for key, one in sections.items()}

    def section(self, key: str) -> Any:  # of the sink's own class
        """The section of a sink, or its defaults.

        Raises:
            ValueError: there is no such sink, or it has keys without a default.
            PluginError: it cannot be loaded.
        """
        found = (self.__pydantic_extra__ or {}).get(key)
        if found is not None:
            return found
        try:
            return sink_class(key).Settings.model_validate({})
        except ValidationError as error:
            raise ValueError(f"has keys without a default; give them in the section Sinks.{key}") from error

    def without(self, keys: Iterable[str]) -> Sinks:
        """The same, with the defaults in place of some sections, or without them."""
        left = {key: one for key, one in (self.__pydantic_extra__ or {}).items() if key not in set(keys)}
        return Sinks.model_validate(left)

    @property
    def enabled(self) -> dict[str, Any]:
        """Key and section of the sinks that records go to."""
        return {key: settings for key, settings in (self.__pydantic_extra__ or {}).items() if settings.enabled}

    @property
    def names(self) -> tuple[str, ...]:
        """What metrics call the sinks that records go to."""
        return tuple(sink_class(key).name for key in self.enabled)

    def defaults(self) -> dict[str, Any]:  # JSON values
        """The defaults of all sections that are here."""
        made = {key: type(settings).model_construct() for key, settings in (self.__pydantic_extra__ or {}).items()}
        return {key: one.model_dump(by_alias=True, mode="json", warnings=False) for key, one in made.items()}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """All that are installed."""
        made = handler(schema)
        section = handler.resolve_ref_schema(made)
        section["properties"] = {key: handler(sink_class(key).Settings.__pydantic_core_schema__) for key in installed()}
        section["additionalProperties"] = False
        return made
