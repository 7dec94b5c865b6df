"""The daemon with AF_XDP: workers and daemons that are killed, reloads, and interfaces that come and go."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from support.daemon_runs import configuration, datagrams, run
from support.networks import needs_command, send_frames, wire

__all__ = ["run", "wire"]


def is_attached(wire, name: str = "mirror0") -> bool:
    return "xdp" in wire.far.run("ip", "link", "show", name).split("qdisc")[0]


def counted(daemon) -> int:
    metrics = daemon.metrics()
    return int(metrics["received_packets_total"] + metrics["kernel_drops_total"])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_replaced_on_the_same_sockets(wire, run, workers):
    daemon = run(Capture={"Source": "afxdp", "Workers": workers, "RingSize": "16MiB"}, Interval="1s")
    pairs = [datagrams(1, client=f"10.0.1.{host}")[0] for host in range(40)]
    sent = 0
    for _ in range(3):
        victim = daemon.processes()["worker0"]
        os.kill(victim, signal.SIGKILL)
        for _ in range(20):
            wire.send(pairs)
            sent += len(pairs)
            time.sleep(0.01)
        daemon.wait_until(
            lambda victim=victim: daemon.processes().get("worker0", victim) != victim, "no other worker came"
        )
    daemon.wait_until(lambda: counted(daemon) == sent, "not all is counted")
    daemon.wait_until(lambda: daemon.metrics()["packets_total"] >= sent - 40, "not all is read")
    metrics = daemon.metrics()
    assert metrics["kernel_drops_total"] == 0
    assert daemon.stop() == 0
    assert not is_attached(wire)


def test_the_program_goes_with_a_killed_daemon_and_another_one_starts(wire, run):
    daemon = run(Capture={"Source": "afxdp"})
    assert is_attached(wire)
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.process.wait()
    daemon.start()  # at once
    wire.send(datagrams(5))
    daemon.wait_for_packets(5)
    os.kill(daemon.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while is_attached(wire):
        assert time.monotonic() < end, "it is still attached"
        time.sleep(0.05)


def test_a_reload_counts_each_packet_once_and_leaves_the_sockets_as_they_are(wire, run):
    daemon = run(Capture={"Source": "afxdp", "Workers": 2, "RingSize": "16MiB"}, Interval="1s")
    done, sent = threading.Event(), []

    def keep_sending() -> None:
        while not done.is_set():
            frames = datagrams(5, client=f"10.0.1.{len(sent) % 250}")
            wire.send(frames)
            sent.append(len(frames))
            time.sleep(0.005)

    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        daemon.write(configuration(Capture={"Source": "afxdp", "Workers": 2, "RingSize": "16MiB"}, Interval="1s",
                                   Sensor="another"))  # fmt: skip
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("reloaded", 300)
        time.sleep(1)
    finally:
        done.set()
        sender.join()
    daemon.wait_until(lambda: sum(i["packets"] for i in daemon.intervals()) >= sum(sent), "not all is written")
    assert sum(i["packets"] for i in daemon.intervals()) == sum(sent)
    assert sum(i["kernel_drops"] for i in daemon.intervals()) == 0
    before = daemon.metrics()["config_reload_failures_total"]
    daemon.write(configuration(Capture={"Source": "afpacket", "Workers": 2}, Interval="1s"))
    daemon.signal(signal.SIGHUP)
    daemon.wait_until(lambda: daemon.metrics()["config_reload_failures_total"] == before + 1, "it is not refused")
    assert "Capture: has changed, which a reload does not take over" in daemon.log
    assert daemon.stop() == 0


def test_one_of_two_interfaces_is_removed_and_made_again(wire, run):
    ip = needs_command("ip", "iproute2")
    path = f"/proc/{os.getpid()}/fd/{wire.near.fd}"
    wire.far.run(ip, "link", "add", "mirror1", "type", "veth", "peer", "name", "other1", "netns", path)
    wire.far.run(ip, "link", "set", "mirror1", "up")
    wire.near.run(ip, "link", "set", "other1", "up")
    daemon = run(Capture={"Source": "afxdp", "Interfaces": ["mirror0", "mirror1"]}, Interval="1s")
    wire.send(datagrams(5))
    send_frames(wire.near, "other1", datagrams(7))
    daemon.wait_for_packets(12)
    wire.far.run(ip, "link", "del", "mirror0")
    daemon.wait_for("an interface is gone")
    send_frames(wire.near, "other1", datagrams(7))  # the other one goes on
    daemon.wait_for_packets(19)
    wire.connect()
    daemon.wait_for("capturing again", 300)
    assert is_attached(wire)
    assert is_attached(wire, "mirror1")
    before = daemon.metrics()["packets_total"]
    wire.send(datagrams(5))
    send_frames(wire.near, "other1", datagrams(7))
    daemon.wait_until(lambda: daemon.metrics()["packets_total"] == before + 12, "not both are captured")
    assert daemon.stop() == 0
    assert not is_attached(wire)
    assert not is_attached(wire, "mirror1")


def test_an_idle_daemon_sleeps(wire, run):
    daemon = run(Capture={"Source": "afxdp"})
    worker = daemon.processes()["worker0"]

    def cpu_s() -> float:
        fields = Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    time.sleep(1)
    before = cpu_s()
    time.sleep(3)
    assert cpu_s() - before < 0.3
    assert daemon.stop() == 0
