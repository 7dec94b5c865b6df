"""Laws of the whole replay: what records must not depend on, and that no packet is lost unseen."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.accounting import accounted, packets_of
from support.naive.frames import Frame
from support.replays import ALL_TRAFFIC, PACKET_LOG, Run, config_of, replay_files, replay_frames, usual_plan
from support.tls_hellos import client_hello, record
from support.traces import (
    ACK,
    SECOND,
    START_NS,
    SYN,
    ethernet,
    ip,
    seeded_trace,
    tcp,
    traces,
    udp,
    write_trace,
)  # fmt: skip
from trafficrefinery.engine import kernel, partition
from trafficrefinery.engine import worker as worker_module
from trafficrefinery.engine.flow_cache import KEPT_PACKETS
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings
from trafficrefinery.jit import COMPILED
from trafficrefinery.replaying.single import ReplayOptions, replay_to_directory

modes = pytest.mark.modes
CONVERSATIONS = 120 if COMPILED else 15


@cache
def trace() -> list[Frame]:
    return seeded_trace(11, CONVERSATIONS)


@cache
def ethernet_trace() -> list[Frame]:
    return seeded_trace(12, CONVERSATIONS, wrappings=("ethernet", "vlan", "qinq", "mpls", "gre", "vxlan", "gtpu"))


@cache
def usual() -> Run:
    run = replay_frames(usual_plan(), trace())
    assert len(run.lines) > CONVERSATIONS / 2
    return run


# What records do not depend on


@modes
@pytest.mark.parametrize("sizes", [(1,), (2, 61, 7), (64,), (65, 1, 127), (10**9,)], ids=str)
def test_records_do_not_depend_on_how_frames_are_split_into_blocks(sizes):
    assert replay_frames(usual_plan(), trace(), sizes=sizes).lines == usual().lines


@modes
@pytest.mark.skipif(COMPILED, reason="the batch size is compiled in; blocks of all sizes split the batches here")
@pytest.mark.parametrize("batch", [1, 4, 256])
def test_records_do_not_depend_on_the_batch_size(monkeypatch, batch):
    for module in (partition, kernel):
        monkeypatch.setattr(module, "BATCH", batch)
        monkeypatch.setattr(module, "RING", 4 * batch)
        monkeypatch.setattr(module, "RING_MASK", 4 * batch - 1)
    margin = batch * (KEPT_PACKETS + 3)
    monkeypatch.setattr(partition, "ROW_MARGIN", margin)
    monkeypatch.setattr(worker_module, "_ROWS", 2 * margin)
    assert replay_frames(usual_plan(), trace()).lines == usual().lines


@modes
@pytest.mark.parametrize("partitions", [2, 3, 5])
def test_records_do_not_depend_on_the_number_of_workers(partitions):
    run = replay_frames(usual_plan(), trace(), partitions=partitions)
    assert run.lines == usual().lines
    assert sum(worker.counters["packets"] > 0 for worker in run.workers) > 1


@given(traces(), st.sampled_from([2, 3]))
@settings(max_examples=12)
def test_made_traces_have_the_same_records_and_counters_with_several_workers(frames, partitions):
    one, several = (replay_frames(usual_plan(), frames, partitions=n) for n in (1, partitions))
    assert several.lines == one.lines
    of_caches = {"fragments_forgotten", "first_packets_given_up", "flows_evicted_idle"}
    assert {k: v for k, v in several.counters.items() if k not in of_caches} == {
        k: v for k, v in one.counters.items() if k not in of_caches
    }


@modes
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_records_do_not_depend_on_the_hash_seed(seed):
    def prepare(worker):
        worker._p["seed"] = np.uint64(seed)

    assert replay_frames(usual_plan(), trace(), prepare=prepare).lines == usual().lines


@modes
def test_records_do_not_depend_on_more_sweeps_in_smaller_slices(monkeypatch):
    monkeypatch.setattr(worker_module, "_SWEEP_SLICE", 3)

    def sweep_again(worker):
        if worker._closing_ns is None and worker._interval_start is not None:
            control = worker._p["control"]
            worker._begin_sweep(int(control["watermark_ns"] - control["grace_ns"]))

    run = replay_frames(usual_plan(), trace(), sizes=(17,), between=sweep_again)
    assert run.lines == usual().lines


@modes
def test_records_do_not_depend_on_there_being_any_sweep():
    run = replay_frames(usual_plan(), trace(), prepare=no_sweep)
    assert run.counters["flows_evicted_idle"] <= usual().counters["flows_evicted_idle"]
    assert run.lines == usual().lines


def scan(flows_per_second: int, seconds: int) -> list[Frame]:
    """Flows that one server names late: each has a packet, 5 s later a second one, after that its ClientHello."""
    hello = record(client_hello("www.video.example"))
    made = []
    for number in range(flows_per_second * seconds):
        begin = START_NS + number * SECOND // flows_per_second
        for after_ns, flags, at, payload in ((0, SYN, 0, b""), (5 * SECOND, ACK, 1, b""), (9 * SECOND, ACK, 1, hello)):
            packet = ethernet(ip("10.0.0.1", "198.51.100.7", 6, tcp(10_000 + number, 443, 5 + at, 0, flags, payload)))
            made.append(Frame(begin + after_ns, packet, len(packet), 1))
    return sorted(made, key=lambda frame: frame.ts_ns)


def no_sweep(worker):
    worker._schedule_close = lambda now_ns: None


def of_a_small_pool(frames: list[Frame], **options: Any) -> tuple[list[str], dict[str, int]]:
    run = replay_frames(usual_plan(), frames, **options)
    for worker in run.workers:
        owner, free = worker._tables["pool_owner"], worker._tables["pool_free"]
        free = free[: int(worker._p["control"]["pool_free"])]
        assert (owner == -1).all()  # no flow is left
        assert len(set(free.tolist())) == len(free)
    return run.lines, {name: count for name, count in run.counters.items() if name != "flows_evicted_idle"}


@modes
@pytest.mark.parametrize("rate", [1, 3, 5])
def test_which_first_packets_are_given_up_does_not_depend_on_when_intervals_are_closed(monkeypatch, rate):
    frames = scan(rate, 45)
    plenty = of_a_small_pool(frames)
    monkeypatch.setattr(worker_module, "_POOL_ENTRIES", 16)
    monkeypatch.setattr(worker_module, "_SWEEP_SLICE", 3)
    found = of_a_small_pool(frames, sizes=(10**9,))
    assert plenty[1]["first_packets_given_up"] == 0
    assert (found[1]["first_packets_given_up"] > 0) == (rate > 1)  # of one a second, fewer than 16 are not over
    assert rate > 1 or found == plenty
    for sizes in ((1,), (7, 61)):
        assert of_a_small_pool(frames, sizes=sizes) == found
    assert of_a_small_pool(frames, prepare=no_sweep) == found


@modes
@pytest.mark.parametrize("flows", [1, 4])
def test_records_do_not_depend_on_how_the_index_grows(monkeypatch, flows):
    monkeypatch.setattr(worker_module, "_FIRST_FLOWS", flows)
    run = replay_frames(usual_plan(), trace())
    assert run.lines == usual().lines
    assert len(run.workers[0]._index.array) > 2 * flows


@modes
def test_records_do_not_depend_on_the_room_for_rows(monkeypatch):
    monkeypatch.setattr(worker_module, "_ROWS", partition.ROW_MARGIN + 2)
    monkeypatch.setattr(worker_module, "whole_pages", lambda count, dtype: count)
    assert replay_frames(usual_plan(), trace()).lines == usual().lines


@modes
@pytest.mark.parametrize("suffix", [".pcap", ".pcap.gz", ".pcap.zst"])
def test_records_of_a_trace_in_two_files_are_those_of_one(tmp_path, suffix):
    frames = ethernet_trace()
    whole = replay_frames(usual_plan(), frames).lines
    # Where the times of both parts do not overlap: the reader merges by time.
    latest = np.maximum.accumulate([frame.ts_ns for frame in frames])
    earliest = np.minimum.accumulate([frame.ts_ns for frame in frames][::-1])[::-1]
    cuts = [i for i in range(1, len(frames)) if latest[i - 1] <= earliest[i]]
    cut = min(cuts, key=lambda i: abs(i - len(frames) // 2))
    parts = [write_trace(tmp_path / f"{i}{suffix}", part) for i, part in enumerate((frames[:cut], frames[cut:]))]
    assert replay_files(usual_plan(), [write_trace(tmp_path / f"whole{suffix}", frames)]).lines == whole
    assert replay_files(usual_plan(), parts).lines == whole
    assert replay_files(usual_plan(), parts[::-1]).lines == whole


def test_records_do_not_depend_on_the_frames_per_block_of_the_reader(tmp_path):
    path = write_trace(tmp_path / "trace.pcap", ethernet_trace())
    whole = replay_frames(usual_plan(), ethernet_trace()).lines
    for frames_per_block in (1, 10, 4_096):
        assert replay_files(usual_plan(), [path], frames_per_block=frames_per_block).lines == whole


def test_files_of_several_processes_are_byte_for_byte_those_of_one(tmp_path):
    config = config_of(rest=ALL_TRAFFIC, FeaturePaths=[str(PACKET_LOG)])
    path = write_trace(tmp_path / "trace.pcap.zst", ethernet_trace())
    outputs = []
    for workers in (1, 2):
        replay_to_directory(config, [path], tmp_path / f"{workers}", ReplayOptions(workers=workers))
        outputs.append((tmp_path / f"{workers}" / "records.jsonl").read_bytes())
    assert outputs[0] == outputs[1]
    assert outputs[0].decode().splitlines() == replay_frames(Plan.of(config), ethernet_trace()).lines


# No packet is lost unseen


@modes
@pytest.mark.parametrize("partitions", [1, 3])
def test_every_packet_is_attributed_or_counted_by_reason(partitions):
    run = replay_frames(usual_plan(), trace(), partitions=partitions)
    assert run.counters["packets"] == len(trace())
    assert run.counters["wire_bytes"] == sum(frame.wire_bytes for frame in trace())
    for worker in run.workers:
        assert worker.counters["packets"] == accounted(worker.counters)
        assert worker.counters["waiting_for_service"] == 0
    in_records = sum(
        record["features"]["PacketCounters"][f"packets_{side}"] for record in run.records for side in ("up", "down")
    )
    assert in_records == run.counters["attributed"] > 0
    assert sum(totals.packets for totals in run.aggregator.totals.values()) == run.counters["attributed"]
    octets = sum(
        record["features"]["PacketCounters"][f"bytes_{side}"] for record in run.records for side in ("up", "down")
    )
    assert sum(totals.bytes for totals in run.aggregator.totals.values()) == octets


@modes
@pytest.mark.parametrize("partitions", [1, 3])
def test_interval_summaries_account_for_every_packet(partitions):
    run = replay_frames(usual_plan(), trace(), partitions=partitions)
    for interval in run.intervals:
        assert interval["packets"] == accounted(interval)
        for part in interval["workers"]:
            assert part["packets"] == accounted(part)
    for name, total in run.counters.items():
        assert sum(interval[name] for interval in run.intervals) == total, name


@given(traces(), st.sampled_from([1, 2]))
@settings(max_examples=12)
def test_every_packet_of_a_made_trace_is_accounted_for(frames, partitions):
    run = replay_frames(usual_plan(), frames, partitions=partitions, sizes=(37,))
    assert run.counters["packets"] == len(frames) == accounted(run.counters)
    assert all(interval["packets"] == accounted(interval) for interval in run.intervals)


def at_capacity(policy):
    return Plan.of(config_of(rest=ALL_TRAFFIC, FlowCache={"MaxFlows": 8, "IdleTimeout": "30s", "AtCapacity": policy}))


@modes
@pytest.mark.parametrize(
    ("policy", "counter"), [("evict-oldest", "flows_evicted_at_capacity"), ("refuse", "flow_cache_full")]
)
def test_a_full_flow_cache_keeps_to_its_policy_and_accounts_for_every_packet(policy, counter):
    run = replay_frames(at_capacity(policy), trace(), sizes=(50,))
    assert run.counters[counter] > 0
    assert run.counters["packets"] == len(trace()) == accounted(run.counters)
    assert max(interval["flows_active"] for interval in run.intervals) <= 8
    in_records = sum(sum(r["features"]["PacketCounters"][f"packets_{s}"] for s in ("up", "down")) for r in run.records)
    assert in_records == run.counters["attributed"]


# The service of a flow


def found(kinds: str, plan: Plan, **options) -> list[tuple[str, str, int]]:
    """(service, how it was identified, packets) of the flow's records."""
    run = replay_frames(plan, packets_of(kinds, **options))
    return [
        (r["service"], r["matched_by"], sum(r["features"]["PacketCounters"][f"packets_{s}"] for s in ("up", "down")))
        for r in run.records
        if r["client_port"] == 4_001 or r["server_port"] == 4_001
    ]


def names_only() -> Plan:
    return Plan.of(config_of())


@modes
def test_a_name_in_the_fourth_packet_classifies_the_flow_with_all_its_packets():
    assert found("udunud", names_only()) == [("Video", "sni", 6)]


@modes
def test_a_dns_answer_that_comes_late_classifies_the_flow_with_all_its_packets():
    assert found("uduDud", names_only()) == [("Video", "dns", 5)]


@modes
def test_the_first_sixteen_packets_change_to_a_service_that_is_found_later():
    assert found("u" * 15 + "n" + "u", names_only()) == [("Video", "sni", 17)]
    assert found("u" * 15 + "D" + "u", names_only()) == [("Video", "dns", 16)]


@modes
def test_a_name_that_comes_behind_them_counts_from_there_on():
    assert found("u" * 16 + "n" + "u", names_only()) == [("Video", "sni", 2)]
    assert found("u" * 20 + "n" + "u", usual_plan()) == [("Rest", "prefix", 20), ("Video", "sni", 2)]


@modes
def test_a_better_match_replaces_a_provisional_one_and_a_worse_one_does_not():
    assert found("uuu", usual_plan()) == [("Rest", "prefix", 3)]
    assert found("uuDuu", usual_plan()) == [("Video", "dns", 4)]
    assert found("uuDun", usual_plan()) == [("Video", "sni", 4)]
    assert found("unDu", usual_plan()) == [("Video", "sni", 3)]


@modes
def test_a_record_that_is_written_keeps_its_service_and_what_follows_gets_the_better_one():
    # Packets are 2 s apart and the record of the service is made every 5 s.
    assert found("uuun", usual_plan(), every_ns=2 * SECOND) == [("Rest", "prefix", 1), ("Video", "sni", 3)]
    assert found("un", usual_plan(), every_ns=1) == [("Video", "sni", 2)]


@modes
def test_the_sender_of_a_hello_is_the_client_also_when_the_other_end_was_seen_first():
    run = replay_frames(usual_plan(), packets_of("ddnu"))
    assert {(r["client_ip"], r["server_ip"]) for r in run.records} >= {("10.0.0.77", "203.0.113.9")}
    (record,) = [r for r in run.records if r["client_port"] == 4_001]
    assert (record["features"]["PacketCounters"]["packets_up"], record["matched_by"]) == (2, "sni")


@modes
def test_the_sender_of_the_syn_is_the_client_when_the_service_is_all_traffic():
    for flags, sender in ((SYN, "203.0.113.1"), (SYN | ACK, "203.0.113.2"), (ACK, "203.0.113.1")):
        data = ethernet(ip("203.0.113.1", "203.0.113.2", 6, tcp(40_001, 40_002, 3, 4, flags)))
        (record,) = replay_frames(usual_plan(), [Frame(START_NS, data, len(data))]).records
        assert record["client_ip"] == sender


@modes
def test_of_two_services_that_match_the_server_decides():
    plan = Plan.of(config_of(rest=["10.0.0.0/8"]))  # the client is in Rest, the server in Net
    data = ethernet(ip("10.0.0.1", "192.0.2.5", 6, tcp(1, 2, 3, 4, SYN)))
    (record,) = replay_frames(plan, [Frame(START_NS, data, len(data))]).records
    assert (record["service"], record["server_ip"]) == ("Net", "192.0.2.5")
    data = ethernet(ip("192.0.2.5", "10.0.0.1", 6, tcp(1, 2, 3, 4, SYN)))
    (record,) = replay_frames(plan, [Frame(START_NS, data, len(data))]).records
    assert (record["service"], record["server_ip"]) == ("Rest", "10.0.0.1")


# Time


def lone(*times_s: float) -> list[Frame]:
    data = ethernet(ip("203.0.113.1", "203.0.113.2", 17, udp(40_001, 40_002, b"")))
    return [Frame(START_NS // SECOND // 100 * 100 * SECOND + round(s * SECOND), data, len(data)) for s in times_s]


def starts(run: Run) -> list[tuple[float, int]]:
    return [(r["ts_start"] % 100, r["features"]["PacketCounters"]["packets_up"]) for r in run.records]


@modes
def test_a_late_packet_counts_in_its_interval_up_to_the_grace_and_then_in_the_oldest_open_one():
    plan = usual_plan()  # 5 s intervals, 1 s of grace
    assert starts(replay_frames(plan, lone(4, 3))) == [(0, 2)]
    data = lone(0)[0].data
    other = ethernet(ip("203.0.113.8", "203.0.113.9", 17, udp(3, 4, b"")))

    def with_other(*times_s):
        frames = lone(*times_s)
        return [frames[0], frames[1]._replace(data=other, wire_bytes=len(other)), *frames[2:]]

    def of_first(frames):
        run = replay_frames(plan, frames)
        records = [r for r in run.records if r["client_port"] == 40_001]
        return [(r["ts_start"] % 100, r["features"]["PacketCounters"]["packets_up"]) for r in records], run.counters

    assert len(data) == len(other)
    assert of_first(with_other(4, 5.999, 4.5))[0] == [(0, 2)]
    late, counters = of_first(with_other(4, 6, 4.5))
    assert (late, counters["late_packets"]) == ([(0, 1), (5, 1)], 1)
    late, counters = of_first(with_other(4, 17, 4.5))
    assert (late, counters["late_packets"]) == ([(0, 1), (15, 1)], 1)


@modes
def test_a_packet_older_than_the_open_interval_of_its_flow_counts_in_the_open_one():
    run = replay_frames(usual_plan(), lone(4, 5.1, 4.9))
    assert (starts(run), run.counters["late_packets"]) == ([(0, 1), (5, 2)], 1)


@modes
def test_a_gap_longer_than_the_idle_time_starts_a_new_flow():
    for gap_s, flows in ((30.0, 1), (30.000_000_001, 2)):
        run = replay_frames(usual_plan(), lone(1, 1 + gap_s))
        assert len({r["flow_id"] for r in run.records}) == run.counters["flows_new"] == flows


@modes
def test_intervals_may_begin_with_the_first_packet():
    run = replay_frames(usual_plan(), lone(1.5, 6.4, 6.6), settings=Settings(first_packet_origin=True))
    assert starts(run) == [(1.5, 2), (6.5, 1)]


@modes
def test_a_trace_without_packets_has_no_records_and_no_intervals():
    run = replay_frames(usual_plan(), [])
    assert (run.lines, run.intervals, run.counters["packets"]) == ([], [], 0)


@modes
def test_records_are_json_with_numbers_only_and_no_packet_is_in_two():
    ids = set()
    for line in usual().lines:
        record = json.loads(line, parse_constant=pytest.fail)
        key = record["flow_id"], record["ts_start"]
        assert key not in ids
        ids.add(key)


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 9))
@example([0, 31, 62], 1)
@settings(max_examples=60 if COMPILED else 10)
def test_flows_of_any_pauses_do_not_depend_on_blocks(pauses, size):
    times = np.cumsum(pauses).tolist()
    assert starts(replay_frames(usual_plan(), lone(*times), sizes=(size,))) == starts(
        replay_frames(usual_plan(), lone(*times))
    )
