"""What systemd hears of the daemon, by a socket in systemd's place."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest

from trafficrefinery.daemon.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path) -> Iterator[tuple[socket.socket, Notifier]]:
    """A socket like systemd's, and who speaks to it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@trafficrefinery-{os.getpid()}-{time.time_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(name.replace("@", "\0", 1))
        bound.settimeout(10)
        yield bound, Notifier({"NOTIFY_SOCKET": name})


def heard(bound: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in bound.recv(4096).decode().split("\n"))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("ready", {"READY": "1", "STATUS": "running"}),
        ("watchdog", {"WATCHDOG": "1"}),
        ("stopping", {"STOPPING": "1", "STATUS": "stopping"}),
    ],
)
def test_a_change_of_state_is_one_datagram(manager, method, expected):
    bound, notifier = manager
    assert getattr(notifier, method)()
    assert heard(bound) == expected


def test_a_reload_tells_the_monotonic_time_at_which_it_began(manager):
    bound, notifier = manager
    before_us = time.monotonic_ns() // 1000
    assert notifier.reloading()
    state = heard(bound)
    assert state["RELOADING"] == "1"
    assert before_us <= int(state["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_a_status_is_one_line_whatever_is_in_it(manager):
    bound, notifier = manager
    assert notifier.status("2 workers\nREADY=0\r\n3 services \udcff")
    assert heard(bound) == {"STATUS": "2 workers READY=0 3 services ?"}


def test_without_systemd_nothing_is_sent_and_nothing_fails():
    notifier = Notifier({})
    assert not notifier.ready()
    assert notifier.watchdog_interval_s() is None


@pytest.mark.parametrize("name", ["/nowhere/notify", "/", "@" + "x" * 200, "vsock:2:1234", "@a\0b", "/a\0b", "@"])
def test_a_manager_that_cannot_be_reached_does_not_stop_the_daemon(name):
    assert not Notifier({"NOTIFY_SOCKET": name}).ready()


def test_a_manager_that_does_not_read_does_not_stop_the_daemon(manager):
    _, notifier = manager
    queue_datagrams = 10_000
    assert not all(notifier.watchdog() for _ in range(queue_datagrams))


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_watches_whom_systemd_named(environment, interval_s):
    assert Notifier(environment).watchdog_interval_s() == interval_s
