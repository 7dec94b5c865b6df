"""Errors that a user can cause, each with the words that tell what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrafficRefineryError(Exception):
    """Base of all errors that the command line prints as one line."""

    exit_code = 1


class UsageError(TrafficRefineryError):
    """A wrong option or argument, found before any work is done."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file that cannot be used.

    Args:
        file: the configuration file, or `<config>` for one made in Python.
        key: the path of the offending key, such as `Services[2].Collect[0]`; empty for the whole file.
        message: what is wrong and what is allowed.
    """

    def __init__(self, file: str, key: str, message: str) -> None:
        super().__init__(": ".join(part for part in (file, key, message) if part))
        self.file, self.key, self.message = file, key, message


class FeatureError(UsageError):
    """A feature class that cannot be loaded or compiled; `where` is `FILE:LINE` or a class name."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where, self.message = where, message


class PluginError(UsageError):
    """A plugin of another distribution that cannot be used; it names the distribution, the group and the entry."""


class TraceError(TrafficRefineryError):
    """A trace that is damaged, truncated, or none at all; `position` is in (uncompressed) bytes."""

    def __init__(self, file: str, position: int | None, message: str) -> None:
        at = "" if position is None else f"byte {position}: "
        super().__init__(f"{file}: {at}{message}")
        self.file, self.position, self.message = file, position, message


class OutputError(TrafficRefineryError):
    """Output that cannot be written."""


class FolderError(UsageError, OutputError):
    """A folder that cannot be written to, found before any work is done."""


class ElsewhereError(RuntimeError):
    """An exception that nobody expected, in another process.

    Args:
        message: its type and its words.
        trace: its traceback as text.
    """

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message)
        self.trace = trace


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message: `; did you mean "X"?`, or nothing when no known word is near."""
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return f'; did you mean "{folded[near[0]]}"?' if near else ""
