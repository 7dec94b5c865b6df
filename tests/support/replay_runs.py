"""`trafficrefinery replay` as a user runs it, in tests: a trace, a configuration, a command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from support import replays, traces
from support.naive.frames import Frame
from trafficrefinery.cli import main as cli

ETHERNET = tuple(name for name, (link_type, _) in traces.WRAPPINGS.items() if link_type == 1)
SPAN_S = 72  # of a made trace, at most


def frames(seed: int = 1, size: int = 60) -> list[Frame]:
    """Ethernet frames of about a minute, of all four services of `configuration`."""
    return traces.seeded_trace(seed, size, ETHERNET)


def configuration(folder: Path, rest: Sequence[str] = ("198.51.100.0/24",)) -> Path:
    """A file of the configuration of all tests: two profiles, two lengths of interval, four services; without `rest`
    some packets have none."""
    path = folder / "config.json"
    config = replays.config_of(rest=rest)
    path.write_text(json.dumps(config.to_dict()))
    return path


class Done(NamedTuple):
    status: int
    out: str
    err: str


def replay(capsys: Any, *arguments: object) -> Done:
    """Run the command in this process; that the compiler worked, the first time, is left out of `err`."""
    capsys.readouterr()
    status = cli._run(["replay", *map(str, arguments)])
    out, err = capsys.readouterr()
    return Done(status, out, err.removeprefix("compiling feature classes (first run only)...\n"))


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Run the command as a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "trafficrefinery", "replay", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options,
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> Done:
    try:
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return Done(process.returncode, out, err)


def wait_for_content(path: Path, process: subprocess.Popen[str]) -> None:
    """Until a file has some."""
    until = time.monotonic() + 120
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a file of JSON lines, none of which is cut off."""
    data = path.read_bytes()
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line, parse_constant=_refuse) for line in data.splitlines()]


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON number")
