"""Tables of labelled session-intervals: from traces with labels."""

from .build import BuildOptions, build

__all__ = ["BuildOptions", "build"]
