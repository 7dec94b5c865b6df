"""What is kept of an exception that nobody expected: a file that can be sent with a report of the bug."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from trafficrefinery.errors import ElsewhereError
from trafficrefinery.records.summary.versions import versions

SHOW = "TRAFFICREFINERY_TRACEBACK"
"""When this variable is set, the traceback is printed too; `--traceback` sets it for all processes of a command."""
FOLDER = "TRAFFICREFINERY_BUG_REPORTS"
"""Where the files are written, in place of the state folder."""
_MOST_WORDS = 300
_SECRET_WORDS = ("password", "secret", "token", "credential")


def one_line(error: BaseException, trace: str = "") -> str:
    """The message for an exception that nobody expected; the file that it names was written.

    Args:
        trace: the traceback as text, when the exception comes from another process.
    """
    said = " ".join(str(error).split())[:_MOST_WORDS]
    if not isinstance(error, ElsewhereError):
        said = f"{type(error).__name__}{f': {said}' if said else ''}{_place(error)}"
    trace = trace or "".join(traceback.format_exception(error))
    path = write(trace)
    kept = f"the details for a bug report are in {path}" if path else "no file with the details could be written"
    return f"unexpected {said}; {kept}{'' if shows() else ' (or give --traceback)'}"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def shows() -> bool:
    """Whether tracebacks are to be printed."""
    return bool(os.environ.get(SHOW))


def write(trace: str) -> Path | None:
    """Write a bug report that only its owner can read; None when no place for it can be written to."""
    content = _content(trace)
    name = f"trafficrefinery-bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in _places():
        with contextlib.suppress(OSError):  # the next place, then
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / name
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as opened:
                opened.write(content)
            return path.absolute()
    return None


def _places() -> Iterator[Path]:
    """The state folder, the working directory, and that of temporary files: the first that can be written to."""
    given = os.environ.get(FOLDER)
    if given:
        yield Path(given)
    state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if state:
        yield Path(state) / "bugs"
    base = os.environ.get("XDG_STATE_HOME") or (f"{os.environ['HOME']}/.local/state" if os.environ.get("HOME") else "")
    if base:
        yield Path(base) / "trafficrefinery" / "bugs"
    yield Path()
    yield Path(tempfile.gettempdir())


def _content(trace: str) -> str:
    lines = [f"{name} {number}" for name, number in versions().items()]
    lines += [f"system {platform.platform()}", f"jit {os.environ.get('TRAFFICREFINERY_JIT', 'on')}", ""]
    lines += ["command line", " ".join(map(repr, _without_secrets(sys.argv))), "", "traceback", trace.rstrip(), ""]
    for path in _configurations():
        lines += [f"configuration {path}, effective", _configuration(path), ""]
    return "\n".join(lines)


def _without_secrets(arguments: list[str]) -> list[str]:
    return [_hidden(argument) if "://" in argument else argument for argument in arguments]


def _configurations() -> list[str]:
    """The files that the command line names with -c, or as `config check FILE`."""
    arguments = sys.argv[1:]
    found = [after for before, after in itertools.pairwise(arguments) if before in ("-c", "--config")]
    found += [one.removeprefix("--config=") for one in arguments if one.startswith("--config=")]
    if arguments[:1] == ["config"]:
        found += [one for one in arguments[2:] if not one.startswith("-")]
    return found


def _configuration(path: str) -> str:
    """The effective configuration. Keys are in files of their own; what is in URLs is hidden."""
    from trafficrefinery.config import load_config

    try:
        content = load_config(path).to_dict()
    except Exception as error:  # noqa: BLE001 (it may be what went wrong)
        return f"cannot be read: {' '.join(_hidden(str(error)).split())}"
    return json.dumps(_masked(content), indent=1, ensure_ascii=False)


def _masked(value: object) -> object:
    if isinstance(value, dict):
        return {
            key: "(hidden)" if any(word in str(key).lower() for word in _SECRET_WORDS) and inner else _masked(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_masked(one) for one in value]
    return _hidden(value) if isinstance(value, str) else value


def _hidden(text: str) -> str:
    """Without the user and password of a URL."""
    return re.sub(r"([a-z][a-z0-9+.-]*://)[^/\s@]*@", r"\1(hidden)@", text, flags=re.IGNORECASE)
