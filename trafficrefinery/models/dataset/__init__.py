"""Tables of labelled session-intervals: from traces with labels."""

__all__ = ["BuildOptions", "build"]
