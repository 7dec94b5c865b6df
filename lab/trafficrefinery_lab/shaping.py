"""Rates of access links, set while a session runs."""

from __future__ import annotations

import asyncio
import subprocess
import time

from trafficrefinery.errors import TrafficRefineryError
from trafficrefinery.system.processes import end_with_parent

from .links import Link
from .namespaces import command_path

_BURST_BYTES = 8192
_UP_QUEUE_S = 0.2


class Shaper:
    """Sets the rate towards a client as its link says: one `tc` that reads its commands, in this namespace."""

    def __init__(self, link: Link, device: str) -> None:
        self._link, self._device = link, device
        self._tc = subprocess.Popen(
            [command_path("tc", "iproute2"), "-force", "-batch", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 (no other thread)
        )
        self._set(link.rates[0][1])

    def _set(self, rate_kbps: int) -> None:
        assert self._tc.stdin is not None, "it is a pipe"
        self._tc.stdin.write(_command(self._device, rate_kbps, self._link.queue_s) + "\n")
        self._tc.stdin.flush()

    async def run(self, started_s: float) -> None:
        """Set each rate when its time has come, counted from a wall-clock time in s."""
        for at_s, rate_kbps in self._link.rates[1:]:
            await asyncio.sleep(max(0.0, started_s + at_s - time.time()))
            self._set(rate_kbps)

    def close(self) -> None:
        """Wait for its end.

        Raises:
            TrafficRefineryError: a rate could not be set.
        """
        _, words = self._tc.communicate()
        if words:
            raise TrafficRefineryError(f"tc: {' '.join(words.split())}")


def _command(device: str, rate_kbps: int, queue_s: float) -> str:
    return (
        f"qdisc replace dev {device} root tbf rate {rate_kbps}kbit burst {_BURST_BYTES} latency {queue_s * 1e3:.0f}ms"
    )


def limit_upstream(link: Link, device: str) -> None:
    """Set the rate from a client, in its namespace.

    Raises:
        TrafficRefineryError: it cannot be set.
    """
    command = [command_path("tc", "iproute2"), *_command(device, link.up_kbps, _UP_QUEUE_S).split()]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise TrafficRefineryError(f"tc: {done.stderr.strip()}")
