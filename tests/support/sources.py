"""The source files of the package."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "trafficrefinery"


def package_files() -> list[Path]:
    return sorted(path for path in (ROOT / PACKAGE).rglob("*.py") if "_data" not in path.parts)
