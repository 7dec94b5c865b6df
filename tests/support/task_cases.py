"""Tasks for tests, in a module that other processes find by its name."""

from __future__ import annotations

import os
import signal
import time

from trafficrefinery.errors import UsageError

SLEEPS_S = {"slow": 0.5, "endless": 600}


def behave(what: str) -> str:
    """A task: `what` tells what becomes of it."""
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "refused":
        raise UsageError("x.pcap: is none;\n give another")
    if what == "mistaken":
        raise LookupError("no such thing")
    if what in SLEEPS_S:
        time.sleep(SLEEPS_S[what])
    return f"did {what}"
