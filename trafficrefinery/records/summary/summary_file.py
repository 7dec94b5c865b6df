"""`summary.json`: whole or not there at all, and never one of an earlier run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from trafficrefinery.system.writing import write_file

FILE = "summary.json"
SCHEMA = 1


def remove(directory: Path) -> None:
    """What is there of an earlier run says nothing of this one."""
    with contextlib.suppress(OSError):  # where it cannot be removed, the records cannot be written either
        (directory / FILE).unlink(missing_ok=True)


def write(content: Mapping[str, Any], directory: Path) -> Path:
    """Write a summary beside the records.

    Raises:
        OutputError: it cannot be written.
    """
    return write_file(directory / FILE, orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
