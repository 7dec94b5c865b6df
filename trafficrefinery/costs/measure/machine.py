"""What measured figures depend on besides the code."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from trafficrefinery.records.summary.versions import versions


def machine() -> dict[str, Any]:
    """Processor, memory, kernel, and the versions of what computes."""
    return {
        "cpu": _cpu_model(), "cores": os.cpu_count(), "memory_gib": round(_memory_bytes() / 2**30, 1),
        "kernel": platform.release(), **versions(),
    }  # fmt: skip


def _cpu_model() -> str:
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in facts.items()}
    return (
        f"{names.get('model name', platform.machine())} (family {names.get('cpu family')}, model {names.get('model')})"
    )


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
