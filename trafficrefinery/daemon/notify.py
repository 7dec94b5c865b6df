"""What the daemon tells systemd of itself: the datagrams of sd_notify(3). Without systemd nothing is sent."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

_SEND_TIMEOUT_S = 1.0
"""A service manager that does not read for so long misses a message; the daemon goes on."""


class Notifier:
    """Speaks to the service manager that `$NOTIFY_SOCKET` names, if any. Nothing here raises.

    Each method returns whether the message was handed over.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_us = environment.get("WATCHDOG_USEC", "")
        self._watchdog_pid = environment.get("WATCHDOG_PID", "")

    def notify(self, **state: str | int) -> bool:
        """Send assignments, such as `READY=1`, in one datagram."""
        if not self._address:
            return False
        lines = (f"{name}={' '.join(str(value).splitlines())}" for name, value in state.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_manager:
                to_manager.settimeout(_SEND_TIMEOUT_S)
                to_manager.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except (OSError, ValueError):  # ValueError: an address with a null character in its middle
            return False
        return True

    def ready(self, status: str = "running") -> bool:
        """The daemon has started, or is done with a reload."""
        return self.notify(READY=1, STATUS=status)

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self.notify(STATUS=text)

    def watchdog(self) -> bool:
        """A sign of life, to be given twice in each `watchdog_interval_s`."""
        return self.notify(WATCHDOG=1)

    def reloading(self) -> bool:
        """A reload begins; `ready` ends it."""
        return self.notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000, STATUS="reloading")

    def stopping(self) -> bool:
        """The daemon is about to end."""
        return self.notify(STOPPING=1, STATUS="stopping")

    def watchdog_interval_s(self) -> float | None:
        """Seconds without a sign of life after which systemd restarts this process; None: it does not watch it."""
        if not self._watchdog_us.isdecimal() or self._watchdog_pid not in ("", str(os.getpid())):
            return None
        return int(self._watchdog_us) / 1e6 or None
