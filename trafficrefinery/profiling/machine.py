"""What measured figures depend on besides the code."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trafficrefinery import __version__


def machine() -> dict[str, Any]:
    """Processor, memory, kernel, and the versions of what computes."""
    return {
        "cpu": _cpu_model(), "cores": os.cpu_count(), "memory_gib": round(_memory_bytes() / 2**30, 1),
        "kernel": platform.release(), "python": platform.python_version(), "trafficrefinery": __version__,
        **{name: _version(name) for name in ("numpy", "numba", "llvmlite", "polars", "pyarrow")},
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in facts.items()}
    return (
        f"{names.get('model name', platform.machine())} (family {names.get('cpu family')}, model {names.get('model')})"
    )


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
