"""Where the built-in feature classes, configurations and models are: in the checkout, or in the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent.parent


def _folder(name: str) -> Path:
    """The wheel has its copy under `_data`; a checkout has none, and the folder lies beside the package."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def features_dir() -> Path:
    """The folder of the built-in feature classes, one file each."""
    return _folder("features")


def configs_dir() -> Path:
    """The folder of the built-in configurations, one JSON file per use case."""
    return _folder("configs")


def models_dir() -> Path:
    """The folder of the bundled models, a directory each."""
    return _PACKAGE / "models" / "bundled"
