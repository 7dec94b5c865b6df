"""The section of the configuration that says which models run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, StrictBool, ValidationInfo

from trafficrefinery.errors import did_you_mean

from .fields import Section, once_each
from .paths import models_dir
from .text import quoted


def find_model(model: str | Path, base: Path = Path()) -> Path:
    """The folder of a model: the bundled one of that name, else one of that path, relative to `base`.

    Raises:
        ValueError: there is none, and which ones there would be.
    """
    folder = models_dir()
    bundled = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if str(model) in bundled:
        return folder / model
    beside = (base / model).absolute()
    if beside.exists():
        return beside
    hint = did_you_mean(str(model), bundled) or (f"; bundled are {', '.join(bundled)}" if bundled else "")
    raise ValueError(f"there is no folder {quoted(str(beside))}, and no bundled model of that name{hint}")


def _model(model: object, info: ValidationInfo) -> Path:
    if not isinstance(model, str | Path):
        raise ValueError("must be the folder of a model, or the name of a bundled one")
    return find_model(model, (info.context or {}).get("base", Path()))


Model = Annotated[Path, BeforeValidator(_model), PlainSerializer(str)]


class Inference(Section):
    """Trained models that run on sessions, flows or clients, interval by interval; sessions need VideoSegments."""

    models: Annotated[tuple[Model, ...], AfterValidator(once_each)] = Field(
        default=(),
        alias="Models",
        description="Model folders, relative to this file, or names of bundled models: "
        "at most one for each target and service.",
    )
    smoothing: StrictBool = Field(
        default=True,
        alias="Smoothing",
        description="Take earlier intervals of a session, flow or client into account for its labels.",
    )
