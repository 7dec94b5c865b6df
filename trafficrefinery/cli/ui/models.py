"""Options that name models."""

from __future__ import annotations

from pathlib import Path

from trafficrefinery.errors import UsageError


def model_folder(model: str, option: str = "--model") -> Path:
    """The folder of a model that an option names by its path, or as a bundled one.

    Raises:
        UsageError: there is none.
    """
    from trafficrefinery.config.inference import find_model

    try:
        return find_model(model)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
