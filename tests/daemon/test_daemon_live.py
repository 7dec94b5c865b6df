"""The running daemon on a wire: what it records is what a replay of the same packets gives, and what is lost is told."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest

from support import replay_runs
from support.daemon_runs import (
    COMPILE_TIMEOUT_S,
    Daemon,
    Dump,
    Noted,
    answer,
    configuration,
    datagrams,
    noting_blocks,
    replayed,
    run,
    sent_packets,
)
from support.naive.frames import Frame
from support.networks import needs_command, wire
from support.replays import blocks_of, config_of
from support.trace_clock_cases import START_NS, sessions
from support.traces import SECOND, Conversation, Spoiling, make_trace, write_trace
from support.wrappings import NOT_FOR_DNS, NOT_FOR_DNS_TWICE
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker
from trafficrefinery.jit import COMPILED
from trafficrefinery.records.aggregate import Aggregator

__all__ = ["run", "wire"]

RINGS = {
    "one ring": {"Workers": 1},
    "two rings": {"Workers": 2, "Cpus": [0, 1]},
}
XDP = {f"AF_XDP, {name}": {**keys, "Source": "afxdp"} for name, keys in RINGS.items()}
SOURCES = {**RINGS, **XDP, "libpcap": {"Workers": 1, "Source": "pcap"}}


def conversations(kinds: list[str], count: int, without: Collection[str] = ()) -> list[Frame]:
    """Frames of about a minute, in every wrapping of Ethernet but some, out of order here and there."""
    r = random.Random(5)
    wrappings = ["ethernet"] * 8 + [name for name in replay_runs.ETHERNET if name not in without]
    return make_trace(
        (
            Conversation(r.choice(kinds), r.choice(wrappings), r.randrange(50_000), r.randrange(2**32))
            for _ in range(count)
        ),
        Spoiling(late=count // 4),
    )


def known_addresses(frames: list[Frame]) -> int:
    """How many addresses a worker knows after some frames."""
    plan = Plan.of(config_of())
    worker = Worker(plan, Aggregator(plan, 1))
    for block in blocks_of(frames):
        worker.process(block)
    known = len(worker.services.addresses)
    worker.finish()
    return known


def differences(records, expected):
    """Field by field, for records of the same flow and interval."""
    found, wanted = ({(r["flow_start"], r["flow_id"], r["ts_start"]): r for r in part} for part in (records, expected))
    odd = [("only here", found[key]) for key in found.keys() - wanted] + [
        ("missing", wanted[key]) for key in wanted.keys() - found
    ]
    for key in found.keys() & wanted:
        odd += [
            (key, name, found[key][name], value) for name, value in wanted[key].items() if found[key][name] != value
        ]
    return odd


def packets_of(intervals):
    """What summaries say of packets; the clock makes some of intervals without any as well."""
    return {i["ts_start"]: (i["packets"], i["wire_bytes"], i["late_packets"]) for i in intervals if i["packets"]}


@pytest.mark.parametrize("source", SOURCES)
def test_a_trace_sent_over_the_wire_gives_the_records_of_its_replay(wire, run, tmp_path, source, monkeypatch):
    needs_command("tcpreplay")
    answers = conversations(["dns"], 20, (*NOT_FOR_DNS, *NOT_FOR_DNS_TWICE))
    others = conversations(["tcp", "tcp", "tcp", "quic", "udp", "fragments", "junk"], 80)
    if source in XDP:  # nobody else sees what it takes, so its workers note what they got
        monkeypatch.setenv("PYTHONPATH", str(notes := noting_blocks(tmp_path / "notes")))
    daemon = run(Capture=SOURCES[source])
    dump = Noted(notes) if source in XDP else wire.keep([Dump(tmp_path, wire.far, "mirror0")])[0]
    sent = sent_packets(wire.replay(write_trace(tmp_path / "answers.pcap", answers)))
    known, workers = known_addresses(answers), SOURCES[source]["Workers"]
    daemon.wait_until(
        lambda: daemon.metrics()["worker_service_map_entries"] == workers * known, f"{known} addresses are not known"
    )
    sent += sent_packets(wire.replay(write_trace(tmp_path / "others.pcap", others), "--multiplier", "10"))
    daemon.wait_for_packets(sent)
    trace = dump.stop(sent)
    assert daemon.stop() == 0
    assert [interval for interval in daemon.intervals() if not interval["loss_free"]] == []
    records, intervals = replayed(trace, configuration(), tmp_path)
    odd = differences(daemon.records(), records)
    assert not odd, "\n".join(map(str, odd[:4]))
    assert daemon.records() == records
    assert packets_of(daemon.intervals()) == packets_of(intervals)
    assert {record["matched_by"] for record in records} == {"dns", "sni", "quic_sni", "prefix"}


@pytest.mark.parametrize("source", {**RINGS, **XDP})
def test_what_a_full_ring_loses_is_counted_exactly(wire, run, source):
    tiny = {"RingSize": "256KiB" if source in XDP else "64KiB", "BlockSize": "4KiB", "BlockTimeout": "5ms"}
    daemon = run(Capture=SOURCES[source] | tiny, Interval="1s")
    workers = [pid for name, pid in daemon.processes().items() if name.startswith("worker")]
    wire.send(datagrams(50))
    daemon.wait_for_packets(50)
    daemon.wait_until(lambda: any(i["packets"] for i in daemon.intervals()), "nothing was written")
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    sent = [frame for host in range(8) for frame in datagrams(500, client=f"10.0.1.{host}")]
    wire.send(sent)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    daemon.wait_for_packets(50 + len(sent))
    lost = daemon.metrics()["kernel_drops_total"]
    assert lost > 0
    written = len(daemon.intervals())
    daemon.wait_for_intervals(written + 3)
    wire.send(datagrams(50))
    daemon.wait_for_packets(100 + len(sent))
    metrics = daemon.metrics()
    assert daemon.stop() == 0
    intervals, total = daemon.intervals(), 100 + len(sent)
    assert sum(i["received"] + i["kernel_drops"] for i in intervals) == total
    assert sum(i["packets"] for i in intervals) == sum(i["received"] for i in intervals) == total - lost
    assert metrics["received_packets_total"] + metrics["kernel_drops_total"] == total
    assert [i["loss_free"] for i in intervals] == [i["kernel_drops"] == 0 for i in intervals]
    assert sum(i["kernel_drops"] > 0 for i in intervals) <= 2  # the time of the pause, that of its end
    assert sum(i["ring_freezes"] for i in intervals) > 0 or source in XDP
    told = Counter(record["client_ip"] for record in daemon.records())
    assert told["10.0.0.1"] >= 2  # before and after


@pytest.mark.parametrize("source", ["afpacket", "afxdp"])
@pytest.mark.parametrize("workers", [1, 2])
def test_counting_begins_when_the_workers_are_ready(wire, tmp_path, workers, source):
    ring = {"RingSize": {"afpacket": "64KiB", "afxdp": "256KiB"}[source], "BlockSize": "4KiB", "BlockTimeout": "5ms"}
    tiny = {**ring, "Workers": workers, "Source": source}
    wire.far.run(needs_command("ip", "iproute2"), "link", "set", "lo", "up")
    daemon = Daemon(tmp_path, configuration(Capture=tiny, Interval="1s"), wire.far).start(wait=False)
    try:
        daemon.wait_for("starting", COMPILE_TIMEOUT_S)  # the sockets are open; workers compile, or load
        before = [frame for host in range(4) for frame in datagrams(400, client=f"10.0.1.{host}")]
        wire.send(before)  # more than the rings hold
        daemon.wait_for("capturing", COMPILE_TIMEOUT_S)
        metrics = daemon.metrics()
        assert (metrics["kernel_drops_total"], metrics["received_packets_total"]) == (0, 0)
        wire.send(datagrams(50))
        daemon.wait_for_packets(50)
        daemon.wait_until(lambda: any(i["packets"] for i in daemon.intervals()), "nothing was written")
        assert daemon.stop() == 0
    finally:
        daemon.end()
    intervals = daemon.intervals()
    assert all(interval["loss_free"] for interval in intervals)
    for name, count in (("kernel_drops", 0), ("received", 50), ("packets", 50)):
        assert sum(interval[name] for interval in intervals) == count, name


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_a_worker_that_compiled_starts_anew_without_the_compiler(wire, tmp_path):
    number = time.time_ns() % 10**9  # a class that is in no cache
    (tmp_path / "fresh.py").write_text(f"""
from typing import NamedTuple
from trafficrefinery.api import FeatureClass, Packet, int64

class FreshOutput(NamedTuple):
    packets: int  # packets, and a number

class Fresh(FeatureClass):
    n: int64
    def add_packet(self, pkt: Packet) -> None:
        self.n += {number}
    def collect_features(self, interval_s: float) -> FreshOutput:
        return FreshOutput(packets=self.n)
""")
    services = [{"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["Fresh"]}]
    changes = {"FeaturePaths": [str(tmp_path / "fresh.py")], "Services": services}
    wire.far.run(needs_command("ip", "iproute2"), "link", "set", "lo", "up")
    daemon = Daemon(tmp_path, configuration(**changes), wire.far).start()
    try:
        assert daemon.log.count("compiling the feature classes, which takes up to a minute") == 1
        assert daemon.log.count("the worker starts anew, without the compiler") == 1
        assert "/numba/" not in Path(f"/proc/{daemon.processes()['worker0']}/maps").read_text()
        wire.send(datagrams(50))
        daemon.wait_for_packets(50)
        assert daemon.metrics()["process_restarts_total"] == 0
        assert daemon.stop() == 0
    finally:
        daemon.end()
    assert sum(record["features"]["Fresh"]["packets"] for record in daemon.records()) == 50 * number


@pytest.mark.parametrize("source", RINGS)
def test_a_flood_of_short_flows_is_counted_and_others_keep_their_records(wire, run, source):
    daemon = run(Capture=RINGS[source], Daemon={"MaxShortFlows": 100}, Interval="1s")
    flood, others = datagrams(3000, client="10.0.7.7", flows=3000), datagrams(60, client="10.0.0.1", flows=6)
    wire.send([answer("www.video.example", "203.0.113.1")])
    for turn in range(2):
        wire.send(flood[turn * 1500 : (turn + 1) * 1500])
        wire.send(others)
    sent = 1 + len(flood) + 2 * len(others)
    daemon.wait_for_packets(sent)
    daemon.wait_until(lambda: sum(i["packets"] for i in daemon.intervals()) == sent, "not all was written")
    daemon.wait_until(
        lambda: (
            daemon.metrics()["short_flows_capped_total"] == sum(i["short_flows_capped"] for i in daemon.intervals()) > 0
        ),
        "metrics and summaries do not agree on the flows that were left out",
    )
    metrics = daemon.metrics()
    assert daemon.stop() == 0
    intervals, records = daemon.intervals(), daemon.records()
    assert all(interval["loss_free"] for interval in intervals)
    clients = Counter(record["client_ip"] for record in records)
    assert clients["10.0.7.7"] + sum(i["short_flows_capped"] for i in intervals) == len(flood)
    assert metrics["short_flows_capped_total"] == sum(i["short_flows_capped"] for i in intervals)
    for end in {record["ts_end"] for record in records}:
        short = [r for r in records if r["ts_end"] == end and r["client_ip"] == "10.0.7.7"]
        assert len(short) <= 100
    packets = Counter()
    for record in records:
        packets[record["client_ip"]] += record["features"]["PacketCounters"]["packets_up"]
    assert packets["10.0.0.1"] == 2 * len(others)
    assert sum(i["names"]["dns_messages"] for i in intervals) == metrics["dns_messages_total"] == 1
    assert sum(i["names"]["dns_one_sided"] for i in intervals) == metrics["dns_one_sided_answers_total"] == 1


@pytest.mark.parametrize("source", ["afpacket", "afxdp"])
def test_names_survive_a_restart(wire, run, source):
    daemon = run(Capture={"Source": source})
    wire.send([answer("cdn1.video.example", "203.0.113.9")])
    daemon.wait_until(lambda: daemon.metrics()["service_map_entries"], "the name is not learnt")
    assert daemon.stop() == 0
    daemon.start()
    assert "restored the saved names" in daemon.log
    daemon.wait_until(lambda: daemon.metrics()["worker_service_map_entries"], "the worker does not know it")
    wire.send(datagrams(3, server="203.0.113.9"))
    daemon.wait_for_packets(3)
    assert daemon.stop() == 0
    (record,) = daemon.records()
    assert (record["service"], record["matched_by"], record["domain"]) == ("Video", "dns", "cdn1.video.example")


def test_a_paced_trace_gives_the_records_of_its_replay(tmp_path):
    trace = write_trace(tmp_path / "trace.pcap", conversations(["dns", "tcp", "tcp", "quic", "udp", "fragments"], 80))
    config = configuration((), Capture={"Workers": 2, "Cpus": [0, 1]}, Metrics={"Listen": None})
    daemon = Daemon(tmp_path, config, None, "--file", trace, "--speed", 20)
    try:
        daemon.start()
        assert daemon.wait() == 0
    finally:
        daemon.end()
    records, intervals = replayed(trace, config, tmp_path)
    assert daemon.records() == records
    assert packets_of(daemon.intervals()) == packets_of(intervals)


def test_a_trace_whose_clock_was_set_back_is_reported_as_in_its_replay(tmp_path):
    frames = [*sessions(6), *sessions(4, START_NS - 600 * SECOND, 10)]
    trace = write_trace(tmp_path / "trace.pcap", frames)
    services = [{"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["PacketCounters"]}]
    config = {
        **configuration((), Capture={"Workers": 2, "Cpus": [0, 1]}, Metrics={"Listen": None}),
        "Services": services,
    }
    daemon = Daemon(tmp_path, config, None, "--file", trace, "--speed", 100)
    try:
        daemon.start()
        assert daemon.wait() == 0
    finally:
        daemon.end()
    assert daemon.log.count("packet timestamps jumped back; intervals are restarted") == 1
    (step,) = json.loads((tmp_path / "out" / "summary.json").read_bytes())["times"]["steps_back"]
    assert round(step["from"] - step["to"]) == 650
    assert sum(interval["clock_set_back"] for interval in daemon.intervals()) == 1
    assert len(daemon.records()) == 10
