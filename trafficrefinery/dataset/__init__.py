"""Tables of labelled session-intervals: from traces with labels, and from the published tables."""

from .build import BuildOptions, build
from .importing import import_published

__all__ = ["BuildOptions", "build", "import_published"]
