"""Everything that can go wrong with a running daemon, one after the other with the same one: what is lost, and how it
is told. The last test prints that as a table."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from support.daemon_runs import Daemon, answer, configuration, datagrams, wait_until
from support.nats_server import NatsServer
from support.networks import Wire, needs_command, needs_root
from trafficrefinery.daemon import supervisor as supervisor_module
from trafficrefinery.daemon.supervisor import Supervisor

PREFIXED = "192.0.2.5"  # an address of the service Net


class Row(NamedTuple):
    fault: str
    lost: str
    told: str


class House:
    """The daemon, its wire, its disk and its message bus; and what was sent."""

    def __init__(self, folder: Path) -> None:
        self.wire = Wire()
        self.wire.far.run(needs_command("ip", "iproute2"), "link", "set", "lo", "up")
        self.disk = folder / "disk"
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", self.disk], check=True)
        with self.wire.far.inside():
            self.bus = NatsServer(folder / "nats")
            self.bus.start()
        self.config = configuration(
            Interval="1s", OutFolder=str(self.disk), Daemon={"HangTimeout": "5s"},
            Sinks={"NATS": {"Enabled": True, "Servers": [self.bus.url]}},
        )  # fmt: skip
        self.daemon = Daemon(folder, self.config, self.wire.far)
        self.rows: list[Row] = []
        self.sent = 0

    def send(self, count: int, **options: Any) -> None:
        self.wire.send(datagrams(count, **options))
        self.sent += count

    def pass_an_interval(self) -> None:
        """Until one that begins from now on is written."""
        now_s = time.time()
        self.daemon.wait_until(
            lambda: any(i["ts_start"] >= now_s for i in self.daemon.intervals()[-5:]), "no interval is written"
        )

    def taken(self) -> int:
        """Packets in all intervals that were written."""
        return sum(interval["packets"] for interval in self.daemon.intervals())

    def missing(self) -> int:
        return self.sent - self.taken()

    def metric(self, name: str) -> float:
        return self.daemon.metrics()[name]

    def wait_for_restart(self, name: str, before: float) -> None:
        metric = f"process_restarts_total{{{name}}}"
        self.daemon.wait_until(lambda: self.metric(metric) == before + 1, f"{name} is not restarted")
        self.daemon.wait_until(lambda: self.metric("ready") == 1, f"{name} does not become ready")

    def close(self) -> None:
        self.daemon.end()
        self.bus.stop()
        self.wire.close()
        subprocess.run(["umount", "-l", self.disk], check=True)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    needs_root()
    made = House(tmp_path_factory.mktemp("house"))
    try:
        made.daemon.start()
        made.send(20)
        made.pass_an_interval()
        assert made.missing() == 0
        yield made
    finally:
        made.close()


def restarts(house: House, name: str) -> float:
    return house.metric(f"process_restarts_total{{{name}}}")


def test_a_killed_worker_is_replaced_and_finds_the_packets_that_came_meanwhile(house):
    before, lost_before = restarts(house, "worker0"), house.missing()
    house.send(100)
    house.pass_an_interval()
    assert house.missing() == lost_before
    start_s = time.time()
    os.kill(house.daemon.processes()["worker0"], signal.SIGKILL)
    house.send(200, server="192.0.2.6")
    house.wait_for_restart("worker0", before)
    house.send(50)
    house.pass_an_interval()
    assert house.missing() == lost_before  # the ring is the supervisor's
    intervals = house.daemon.intervals()
    assert sum(i["worker_restarts"] for i in intervals) == 1
    (hit,) = [i for i in intervals if i["ts_start"] <= start_s < i["ts_end"]]
    assert not hit["loss_free"]
    assert intervals[-1]["loss_free"]
    house.rows.append(Row("kill -9 of a worker", "what it had of the open interval; packets meanwhile: 0 of 200",
                          "log, process_restarts_total, interval: worker_restarts, loss_free false"))  # fmt: skip


def test_a_killed_dns_process_learns_the_answers_that_came_meanwhile(house):
    before, known = restarts(house, "names"), house.metric("worker_service_map_entries")
    house.wire.send([answer("www.video.example", "203.0.113.1")])
    house.sent += 1
    house.daemon.wait_until(lambda: house.metric("worker_service_map_entries") > known, "the first name is not learnt")
    known = house.metric("worker_service_map_entries")
    os.kill(house.daemon.processes()["names"], signal.SIGKILL)
    house.wire.send([answer("cdn1.video.example", "203.0.113.2")])
    house.sent += 1
    house.wait_for_restart("names", before)
    house.daemon.wait_until(lambda: house.metric("worker_service_map_entries") > known, "the second is not learnt")
    for server in ("203.0.113.1", "203.0.113.2"):
        house.send(5, server=server)
    house.pass_an_interval()
    names = {r["server_ip"]: r["domain"] for r in house.daemon.records()}
    assert (names["203.0.113.1"], names["203.0.113.2"]) == ("www.video.example", "cdn1.video.example")
    house.rows.append(Row("kill -9 of the DNS process", "nothing: names before and meanwhile are known",
                          "log, process_restarts_total"))  # fmt: skip


def test_a_killed_aggregator_loses_no_interval_that_was_written_or_comes_later(house):
    before, lost_before = restarts(house, "aggregator"), house.missing()
    written = house.daemon.records()
    start_s = time.time()
    os.kill(house.daemon.processes()["aggregator"], signal.SIGKILL)
    house.send(100, server="203.0.113.2", flows=10)
    house.wait_for_restart("aggregator", before)
    house.send(100, server="203.0.113.1", flows=10)
    house.pass_an_interval()
    records = house.daemon.records()
    assert records[: len(written)] == written
    later = {r["server_ip"]: r["domain"] for r in records[len(written) :]}
    assert later["203.0.113.1"] == "www.video.example"
    assert later.get("203.0.113.2", "cdn1.video.example") == "cdn1.video.example"
    assert house.missing() - lost_before <= 100
    partial = {path.name.split("-")[1] for path in house.disk.glob("*.partial")}
    assert len(partial) == 1  # those of the one before were completed
    ended = [i for i in house.daemon.intervals() if i["ts_end"] >= start_s]
    assert house.missing() == lost_before or not all(i["loss_free"] for i in ended)
    house.rows.append(Row("kill -9 of the aggregator", f"at most the interval it was at: {house.missing() - lost_before} packets' records",
                          "log, process_restarts_total, loss_free false"))  # fmt: skip


def test_a_worker_that_hangs_is_replaced(house):
    before, lost_before = restarts(house, "worker0"), house.missing()
    house.pass_an_interval()
    os.kill(house.daemon.processes()["worker0"], signal.SIGSTOP)
    house.send(150)
    house.wait_for_restart("worker0", before)
    house.pass_an_interval()
    assert "a process does not respond and is killed" in house.daemon.log
    assert house.missing() == lost_before
    house.rows.append(Row("a worker hangs (SIGSTOP)", "what it had of the open interval; packets meanwhile: 0 of 150",
                          "log, process_restarts_total, loss_free false"))  # fmt: skip


def away_and_back(house: House, since_s: float) -> None:
    """From then on, intervals are not free of losses until the interface is captured on again."""
    wait_until(lambda: not house.daemon.intervals()[-1]["interface_away"], "no interval had the interface again")
    later = [i for i in house.daemon.intervals() if i["ts_end"] > since_s]
    assert later[0]["interface_away"]
    away = [i["interface_away"] for i in later]
    assert away == sorted(away, reverse=True), "once"
    assert [i["loss_free"] for i in later] == [not i["interface_away"] for i in later]


def test_an_interface_may_go_down_and_up(house):
    lost_before = house.missing()
    down_s = time.time()
    house.wire.set_far("down")
    house.daemon.wait_for("capture failed on an interface")
    house.pass_an_interval()
    house.wire.set_far("up")
    wait_until(lambda: "LOWER_UP" in house.wire.near.run("ip", "link", "show", house.wire.near_name), "no carrier")
    house.send(100)
    house.pass_an_interval()
    assert house.missing() == lost_before
    assert restarts(house, "worker0") == house.metric("process_restarts_total{worker0}")
    away_and_back(house, down_s)
    house.rows.append(
        Row("interface down and up", "what is sent while it is down", "log, interval: interface_away, loss_free false")
    )


def test_an_interface_that_is_removed_and_made_again_is_captured_on(house):
    lost_before = house.missing()
    house.pass_an_interval()
    removed_s = time.time()
    house.wire.near.run(needs_command("ip", "iproute2"), "link", "delete", house.wire.near_name)
    house.pass_an_interval()
    house.wire.connect()
    house.daemon.wait_for("an interface came back")
    house.daemon.wait_for("capturing again")
    house.send(100)
    house.pass_an_interval()
    assert house.missing() == lost_before
    away_and_back(house, removed_s)
    house.rows.append(Row("interface removed, and made again", "what is sent before its sockets are open anew",
                          "log, interval: interface_away, loss_free false"))  # fmt: skip


def test_a_full_disk_stops_writing_and_not_capturing(house):
    lost_before = house.missing()
    house.pass_an_interval()
    filler = house.disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    house.daemon.wait_until(lambda: house.metric("sink_failing{jsonl}") == 1, "writing does not fail")
    packets = house.metric("packets_total")
    house.send(100)
    house.daemon.wait_until(lambda: house.metric("packets_total") == packets + 100, "nothing is captured")
    house.daemon.wait_until(lambda: house.metric("sink_dropped_records_total{jsonl}") > 0, "no record is dropped")
    filler.unlink()
    house.daemon.wait_until(lambda: house.metric("sink_failing{jsonl}") == 0, "writing does not resume")
    house.send(100)
    house.pass_an_interval()
    assert house.missing() - lost_before == 100
    house.sent -= 100  # their interval is the lost one
    house.rows.append(Row("disk full", f"intervals while it is full: {house.metric('sink_dropped_records_total{jsonl}'):.0f} records",
                          "log, sink_failing, sink_dropped_records_total"))  # fmt: skip


def test_a_message_bus_that_is_away_gets_all_records_later(house):
    house.bus.stop()
    house.send(40, server="192.0.2.7", flows=4)
    house.pass_an_interval()
    house.daemon.wait_until(lambda: house.metric("sink_waiting_bytes{nats}") > 0, "nothing waits")
    with house.wire.far.inside():
        house.bus.start()
    house.daemon.wait_until(lambda: house.metric("sink_waiting_bytes{nats}") == 0, "it does not catch up", 120)
    with house.wire.far.inside():
        stored = [message.data for message in house.bus.stored()]
    assert sum(data.count(b'"server_ip":"192.0.2.7"') for data in stored) >= 4
    house.rows.append(Row("NATS away, and back", "nothing", "sink_failing, sink_waiting_bytes"))


def test_a_scrape_that_is_broken_off_is_no_fault(house):
    for _ in range(20):
        with house.wire.far.inside(), socket.create_connection(("127.0.0.1", 9464)) as half:
            half.send(b"GET /metr")
    assert house.metric("ready") == 1
    house.rows.append(Row("Prometheus away, or broken off", "nothing: it asks, nobody waits for it", "(no fault)"))


def test_a_bad_configuration_is_refused_and_the_old_one_goes_on(house):
    lost_before, before = house.missing(), house.metric("config_reload_failures_total")
    house.daemon.write({**house.config, "Intervall": "1s"})
    house.daemon.signal(signal.SIGHUP)
    house.daemon.wait_until(lambda: house.metric("config_reload_failures_total") == before + 1, "it is not refused")
    assert "Intervall: " in house.daemon.log
    assert house.metric("config_last_reload_successful") == 0
    house.daemon.write(house.config)
    house.send(100)
    house.pass_an_interval()
    assert house.missing() == lost_before
    house.rows.append(Row("reload with a bad configuration", "nothing", "log, config_reload_failures_total"))


def test_a_reload_counts_each_packet_once(house):
    house.pass_an_interval()
    lost_before, before = house.missing(), house.metric("config_reloads_total")
    services = [*house.config["Services"], {"Name": "New", "Filter": {"Prefixes": ["203.0.113.77/32"]},
                                            "Collect": ["PacketCounters"]}]  # fmt: skip
    house.daemon.write({**house.config, "Services": services})
    done = threading.Event()

    def keep_sending() -> None:
        while not done.is_set():
            house.send(5, server="203.0.113.77")
            time.sleep(0.005)

    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        house.daemon.signal(signal.SIGHUP)
        house.daemon.wait_until(lambda: house.metric("config_reloads_total") == before + 1, "not reloaded", 300)
        house.pass_an_interval()
    finally:
        done.set()
        sender.join()
    house.pass_an_interval()
    assert house.missing() == lost_before
    new = [r for r in house.daemon.records() if r["service"] == "New"]
    assert new
    assert all(i["loss_free"] for i in house.daemon.intervals() if i["ts_start"] >= new[0]["ts_end"])
    house.rows.append(
        Row("reload with a good configuration", "nothing: each packet is counted once", "log, config_reloads_total")
    )


def test_sigusr1_completes_the_files(house):
    complete = set(house.disk.glob("*.jsonl"))
    house.send(5)
    house.pass_an_interval()
    house.daemon.signal(signal.SIGUSR1)
    house.daemon.wait_until(lambda: len(set(house.disk.glob("*.jsonl")) - complete) == 2, "no file is completed")


def test_kill_9_of_the_supervisor_leaves_no_process_and_files_that_the_next_start_completes(house):
    house.send(50)
    house.pass_an_interval()
    missing, processes = house.missing(), [*house.daemon.processes().values()]
    house.daemon.signal(signal.SIGKILL)
    house.daemon.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), "processes are left")
    assert list(house.disk.glob("*.partial"))
    house.daemon.start()
    assert "recovered as" in house.daemon.log
    house.send(50)
    house.pass_an_interval()
    assert house.missing() == missing
    house.rows.append(
        Row("kill -9 of the supervisor", "the interval in progress", "log of the next start: recovered as ...")
    )


def test_sigterm_writes_the_last_interval(house):
    lost_before = house.missing()
    house.send(77)
    house.daemon.wait_until(lambda: house.metric("received_packets_total") >= 127, "the packets never came")
    assert house.daemon.stop() == 0
    assert house.missing() == lost_before
    assert not list(house.disk.glob("*.partial"))
    house.rows.append(Row("SIGTERM", "nothing: the last interval is written", "log"))


class Clock:
    """A time of day that is set, and the board that it is published on."""

    def __init__(self, monkeypatch) -> None:
        self.wall_ns = 10**18
        started_ns = time.monotonic_ns()
        self.monotonic_ns = started_ns
        fake = SimpleNamespace(time_ns=lambda: self.wall_ns, monotonic_ns=lambda: self.monotonic_ns)
        monkeypatch.setattr(supervisor_module, "time", fake)
        board = SimpleNamespace(supervisor={"wall_ns": 0, "beat_ns": 0, "clock_steps_total": 0})
        self.board = board.supervisor
        self.daemon = SimpleNamespace(
            _offset_ns=self.wall_ns - self.monotonic_ns, _generation=SimpleNamespace(board=board), _next=None
        )

    def passes(self, monotonic_ns: int, step_ns: int = 0) -> None:
        self.monotonic_ns += monotonic_ns
        self.wall_ns += monotonic_ns + step_ns
        Supervisor._publish_time(self.daemon)


def test_only_a_clock_that_is_set_back_is_a_step(monkeypatch):
    clock = Clock(monkeypatch)
    for step_ns in (0, 10**9, -100_000_000):  # forward, and adjusted slowly
        clock.passes(20_000_000, step_ns)
    assert clock.board["clock_steps_total"] == 0
    clock.passes(20_000_000, -3600 * 10**9)
    clock.passes(20_000_000)
    assert clock.board["clock_steps_total"] == 1
    assert clock.board["wall_ns"] == clock.wall_ns


def test_the_table_of_faults(house, capsys):
    house.rows.append(
        Row(
            "clock set back", "nothing: open intervals end, new ones begin (test_worker_live)", "log, clock_steps_total"
        )
    )
    lines = [Row("fault", "lost", "told by"), *house.rows]
    widths = [max(len(line[part]) for line in lines) for part in range(3)]
    with capsys.disabled():
        for line in lines:
            told = "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            sys.stdout.write(f"\n{told}")
    assert len({row.fault for row in house.rows}) == len(house.rows)
