"""How messages write values and keys: on one line, whatever is in them."""

from __future__ import annotations

import json
import re

Location = tuple[int | str, ...]
"""The keys and list indices that lead to a value."""


def quoted(value: object) -> str:
    """A value as JSON, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
        if not text.isprintable():  # line ends of Unicode, terminal controls
            text = json.dumps(value, default=str)
    except (ValueError, RecursionError):
        text = "[..."  # contains itself, or is nested too deeply
    return text if len(text) <= 60 else text[:57] + "..."


def key_path(location: Location) -> str:
    """`Services[2].Collect[0]`."""
    path = ""
    for part in location:
        name = str(part) if re.fullmatch(r"\w+", str(part)) else quoted(part)
        path += f"[{part}]" if isinstance(part, int) else f".{name}" if path else name
    return path
