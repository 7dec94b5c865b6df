"""Figures as people read them."""

from __future__ import annotations

import math

NONE = "–"
"""Shown in place of a missing figure."""


def number(value: float | None) -> str:
    """Three digits that count, thousands with commas."""
    if value is None or not math.isfinite(value):
        return NONE
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def nanoseconds(value: float | None) -> str:
    """To a tenth, which is more than is certain; whole ones from 100 on."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def human_bytes(size: float | None) -> str:
    """With a unit, powers of 1,000."""
    if size is None or not math.isfinite(size):
        return NONE
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"


def noise(share: float) -> str:
    """How far a measured figure may be off."""
    return f"±{100 * share:.1f} %"
