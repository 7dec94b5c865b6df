"""The versions of what computes."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from trafficrefinery import __version__

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
