"""The JSON schema of configuration files, for editors and other tools."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import WithDefaultSchema

from .model import Config
from .units import (
    DURATION_PATTERN,
    SIZE_OR_SHARE_PATTERN,
    SIZE_PATTERN,
    Share,
    format_duration,
    format_size,
    format_size_or_share,
)

_FORMATS = {
    DURATION_PATTERN: format_duration,
    SIZE_PATTERN: format_size,
    SIZE_OR_SHARE_PATTERN: format_size_or_share,
}


class _Generator(GenerateJsonSchema):
    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        """Defaults are written as in a file: `"10s"`, not nanoseconds."""
        made = super().default_schema(schema)
        if "default" in made and made.get("pattern") in _FORMATS:
            made["default"] = _FORMATS[made["pattern"]](made["default"])
        return made

    def encode_default(self, dft: Any) -> Any:
        """As it is, for `default_schema`."""
        return dft if isinstance(dft, Share) else super().encode_default(dft)

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 (pydantic names no type)
        return False


def config_schema(classes: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:  # Any: JSON values
    """The JSON schema of new files; keys of the original system, which are accepted too, are not in it.

    Args:
        classes: names of known feature classes with the schemas of their parameters; any class is allowed beside them.
    """
    schema = Config.model_json_schema(schema_generator=_Generator)
    if classes:
        collected = schema["$defs"]["Service"]["properties"]["Collect"]["items"]["anyOf"]
        (with_parameters,) = (kind for kind in collected if kind["type"] == "object")
        with_parameters["properties"] = dict(classes)
    return {"$schema": _Generator.schema_dialect, **schema}
