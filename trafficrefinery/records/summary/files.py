"""`summary.json`: whole or not there at all, and never one of an earlier run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from trafficrefinery.errors import OutputError

FILE = "summary.json"
SCHEMA = 1
_PARTIAL = ".partial"


def remove(directory: Path) -> None:
    """What is there of an earlier run says nothing of this one."""
    for name in (FILE, FILE + _PARTIAL):
        with contextlib.suppress(OSError):  # where it cannot be removed, the records cannot be written either
            (directory / name).unlink(missing_ok=True)


def write(content: Mapping[str, Any], directory: Path) -> Path:
    """Write a summary beside the records.

    Raises:
        OutputError: it cannot be written.
    """
    path = directory / FILE
    partial = directory / (FILE + _PARTIAL)
    try:
        partial.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    return path
