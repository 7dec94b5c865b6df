"""Confidence intervals in words."""

from __future__ import annotations

from collections.abc import Sequence


def in_brackets(between: Sequence[float] | None, digits: int = 3) -> str:
    """An interval behind its figure, `(0.807 to 0.912)`; rows of one group have none."""
    if between is None:
        return "(one group)"
    low, high = between
    return f"({low:.{digits}f} to {high:.{digits}f})"
