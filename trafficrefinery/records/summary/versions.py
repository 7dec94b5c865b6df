"""What computes: its versions, and the digest of its sources."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from trafficrefinery import __version__
from trafficrefinery.config.paths import features_dir

_PACKAGES = ("numpy", "numba", "llvmlite", "polars", "pyarrow")


def versions() -> dict[str, str | None]:
    """Of this program, Python and the packages that compute; None for one that is not installed."""
    return {
        "trafficrefinery": __version__, "python": platform.python_version(), **{one: _version(one) for one in _PACKAGES}
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def sources_digest(more: Iterable[Path] = ()) -> str:
    """Of all that decides what the figures are: the package, the built-in features, and further ones."""
    digest = hashlib.sha256(__version__.encode())
    for place in (Path(__file__).parents[2], features_dir(), *more):
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
