"""A Dask cluster for tests: the scheduler and each worker are the programs that come with Dask, as processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import distributed

_START_S = 60


class Cluster(NamedTuple):
    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]


def _dask(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip


@contextlib.contextmanager
def cluster(folder: Path, workers: int = 3) -> Iterator[Cluster]:
    """Workers end for good when they are killed: none comes in their place."""
    file = folder / "scheduler.json"
    place = ("--scheduler-file", str(file), "--no-dashboard")
    started = [_dask("scheduler", "--host", "127.0.0.1", "--port", "0", *place)]
    try:
        started += [
            _dask("worker", *place, "--no-nanny", "--nthreads", "1", "--local-directory", str(folder))
            for _ in range(workers)
        ]
        until = time.monotonic() + _START_S
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.05)
        with distributed.Client(scheduler_file=str(file), timeout=_START_S) as client:
            client.wait_for_workers(workers, timeout=_START_S)
            address = client.scheduler.address
        yield Cluster(address, started[0], started[1:])
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()
