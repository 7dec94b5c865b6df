"""What a representation costs: figures are those of the packets that the classes are really given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from support import replays, traces
from support.replay_runs import frames
from trafficrefinery.api import DOWN, UP, state_dtype
from trafficrefinery.capture.frames import FRAME, Block
from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.config import parse_config
from trafficrefinery.costs import profiling
from trafficrefinery.costs.measure.clock import Distribution, Repeated
from trafficrefinery.costs.measure.feeding import Feed
from trafficrefinery.costs.measure.measuring import of_profile
from trafficrefinery.costs.profiling import projecting
from trafficrefinery.costs.profiling.storage import FORMS, Storage
from trafficrefinery.costs.profiling.trace_totals import TraceWalk, blocks_of
from trafficrefinery.engine.flow_cache import HEADER
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker
from trafficrefinery.errors import UsageError
from trafficrefinery.jit import records
from trafficrefinery.records.aggregate import Aggregator

COUNTERS = ["PacketCounters"]
FLOWS = 1_000_000
FREE_LISTS_BYTES = 2 * 4


def plan_of(collect=COUNTERS, *, max_flows: int = 1_000_000, interval: str = "10s") -> Plan:
    service = {"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": list(collect)}
    return Plan.of(parse_config({"Interval": interval, "FlowCache": {"MaxFlows": max_flows}, "Services": [service]}))


def many_flows(count: int) -> Block:
    """A UDP packet of each of many clients, a microsecond apart."""
    frame = np.frombuffer(traces.ethernet(traces.ip("10.0.0.0", "192.0.2.1", 17, traces.udp(1000, 443, b"x" * 20))),
                          np.uint8)  # fmt: skip
    data = np.tile(frame, (count, 1))
    number = np.arange(count)
    for byte in range(3):
        data[:, 27 + byte] = number >> (16 - 8 * byte) & 0xFF  # of the source address
    where = records(np.zeros(count, FRAME))
    where["ts_ns"] = 1_600_000_000_000_000_000 + number * 1000
    where["offset"], where["captured_bytes"], where["wire_bytes"] = number * len(frame), len(frame), len(frame)
    where["link_type"] = 1
    return Block(data.ravel(), where)


def anonymous_bytes() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


def test_the_declared_state_is_what_many_flows_take_of_the_memory():
    plan = plan_of(["PacketCounters", "TCPCounters", "VideoSegments"], max_flows=FLOWS)
    worker = Worker(plan, Aggregator(plan, 1))
    worker.warm_up()
    worker._populator.close()
    state_bytes = plan.profiles[0].state_dtype().itemsize
    found = []
    for block in (many_flows(FLOWS // 10), many_flows(FLOWS)):  # when there are some, all of fixed size is in use
        worker.process(block)
        flows = worker.flows_active
        assert worker.flow_bytes == flows * (HEADER.itemsize + state_bytes)
        declared = worker.flow_bytes + flows * FREE_LISTS_BYTES + worker._index.array.nbytes
        found.append((flows, anonymous_bytes(), worker.resident_bytes, declared))
    flows, taken, told, declared = np.diff(found, axis=0)[0].tolist()
    assert flows == FLOWS - FLOWS // 10
    assert taken == pytest.approx(declared, rel=0.05)
    assert told == pytest.approx(declared, rel=0.05)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trace with all services of the tests' configuration, DNS and names that come late."""
    return traces.write_trace(tmp_path_factory.mktemp("trace") / "made.pcap", frames(3))


@pytest.fixture(scope="module")
def mixed():
    return Plan.of(replays.config_of(rest=["198.51.100.0/24"]))


def walked(plan: Plan, trace: Path) -> tuple[TraceWalk, list]:
    walk = TraceWalk(plan, [trace], lambda *_: None)
    return walk, list(walk.batches())


def test_the_recorded_packets_are_those_that_a_replay_attributes(mixed, made):
    walk, batches = walked(mixed, made)
    packets = profiling.record(mixed, [made])
    assert len(packets) == walk.counters["attributed"] > 0
    wanted = {
        (batch.service, *ends)
        for batch in batches
        for ends in zip(batch.flow["protocol"], batch.flow["client_port"], batch.flow["server_port"],
                        np.round(batch.flow["flow_start"].to_numpy() * 1e6), strict=True)
    }  # fmt: skip
    found = set()
    for header in packets.headers:
        ports = (int(header["a_port"]), int(header["b_port"]))
        client, server = ports if header["client_is_a"] else ports[::-1]
        found.add((packets.services[header["service"]], "tcp" if header["protocol"] == 6 else "udp", client, server,
                   np.round(header["first_ns"] / 1e9 * 1e6)))  # fmt: skip
    assert found == wanted


def test_rows_of_recorded_packets_are_the_records_of_a_replay(mixed, made):
    _, batches = walked(mixed, made)
    packets = profiling.record(mixed, [made])
    for number, profile in enumerate(mixed.profiles):
        feed = Feed(profile, packets, of_profile(mixed, number, packets))
        rows = feed.collect()
        names = [s.name for s, p in zip(mixed.config.services, mixed.service_profile, strict=True) if p == number]
        mine = [batch for batch in batches if batch.service in names]
        assert rows.total == len(rows.rows) == sum(len(batch.flow["flow_id"]) for batch in mine)
        expected = sorted(
            values
            for batch in mine
            for values in zip(batch.flow["ts_start"], *batch.features["PacketCounters"][:4], strict=True)
        )
        counters = rows.rows["PacketCounters"]
        made_here = sorted(
            (row["flow"]["start_ns"] / 1e9, *(int(counter[field]) for field in counters.dtype.names[:4]))
            for row, counter in zip(rows.rows, counters, strict=True)
        )
        assert made_here == expected


def test_raw_bytes_and_directions_are_recorded_with_the_packets(mixed, made):
    packets = profiling.record(mixed, [made])
    with TraceReader([made]) as reader:
        everything = b"".join(block.buffer.tobytes() for block in reader)
    for r in np.asarray(packets.packets)[:: max(len(packets) // 50, 1)]:
        raw = packets.raw[r["raw_offset"] : r["raw_offset"] + r["raw_bytes"]].tobytes()
        assert raw in everything
        assert raw[0] >> 4 == r["ip_version"]
        assert r["direction"] in (UP, DOWN)


def test_when_there_is_no_more_room_the_rest_is_left_out_and_counted(mixed, made):
    whole = profiling.record(mixed, [made])
    part = profiling.record(mixed, [made], most_packets=100)
    assert len(part) <= 100
    assert part.left_out > 0
    assert whole.left_out == 0


def test_joined_recordings_have_the_packets_and_flows_of_all(mixed, made):
    one = profiling.record(mixed, [made])
    both = profiling.join([one, one])
    assert len(both) == 2 * len(one)
    assert len(both.headers) == 2 * len(one.headers)
    assert set(both.flows.tolist()) == set(range(len(both.headers)))
    r = both.packets[len(one)]
    first = one.packets[0]
    assert both.raw[r["raw_offset"] : r["raw_offset"] + r["raw_bytes"]].tobytes() == (
        one.raw[first["raw_offset"] : first["raw_offset"] + first["raw_bytes"]].tobytes()
    )
    names = [both.names[header["name_id"]] for header in both.headers if header["name_id"] >= 0]
    known = [one.names[header["name_id"]] for header in one.headers if header["name_id"] >= 0]
    assert names == known * 2


def test_any_classes_and_intervals_are_measured_on_packets_that_were_parsed_once(made):
    packets = profiling.record(plan_of(), [made])
    costs = profiling.measure(plan_of(), packets, repetitions=3)
    assert costs.state_bytes == 32
    assert costs.record_bytes > 300
    assert all(np.isfinite(costs))
    wide = profiling.measure(plan_of(["PacketCounters", "PacketSizes"], interval="2s"), packets, repetitions=3)
    assert wide.state_bytes > costs.state_bytes
    assert wide.record_bytes > costs.record_bytes


def test_what_cannot_be_measured_on_is_refused(mixed, made):
    packets = profiling.record(plan_of(), [made])
    with pytest.raises(UsageError, match="recorded with other services: All"):
        profiling.measure(mixed, packets)
    nothing = replace(packets, packets=packets.packets[:0], flows=packets.flows[:0])
    with pytest.raises(UsageError, match="no packets of any service"):
        profiling.measure(plan_of(), nothing)


def test_the_flows_in_the_cache_at_the_ends_of_intervals_are_those_with_records_and_idle_ones(made):
    plan = plan_of()
    walk, batches = walked(plan, made)
    seen = walk.occupancy
    active = {batch.flow["ts_start"][0]: len(batch.flow["flow_id"]) for batch in batches}
    assert len(seen.starts_ns) == len(seen.flows[0]) > 3
    for start_ns, flows in zip(seen.starts_ns, seen.flows[0], strict=True):
        assert flows >= active.get(start_ns / 1e9, 0)
    counted = sum(flows * count for flows, count in seen.of_sessions[0].items())
    assert counted == sum(seen.flows[0])
    assert seen.peak_flows == max(seen.flows[0])
    assert seen.peak_bytes >= seen.peak_flows * (HEADER.itemsize + state_dtype(plan.profiles[0].classes[0]).itemsize)


def test_a_trace_is_as_large_as_told_and_its_headers_alone_are_smaller(made):
    walk, _ = walked(plan_of(), made)
    assert walk.traffic.captured_bytes == made.stat().st_size
    assert walk.traffic.headers_bytes < walk.traffic.captured_bytes <= walk.traffic.pcap_bytes
    blocks = blocks_of([made], 10**9, 1 << 30)
    assert sum(len(block.frames) for block in blocks) == walk.traffic.packets
    assert sum(len(block.frames) for block in blocks_of([made], 100, 1 << 30)) == 100


def test_storage_is_what_the_sinks_write_of_all_classes_and_of_each_alone(mixed, made, tmp_path):
    _, batches = walked(mixed, made)
    with Storage(tmp_path, mixed) as storage:
        assert len(list(storage.take(iter(batches)))) == len(batches)
        whole, alone = storage.close()
    assert whole.records == sum(len(batch.flow["flow_id"]) for batch in batches)
    lines = (tmp_path / "all" / "records.jsonl").read_bytes()
    assert whole.sizes["jsonl"] == len(lines)
    assert lines.count(b"\n") == whole.records == len(pq.read_table(tmp_path / "all" / "records.parquet"))
    assert alone["PacketCounters"].records == whole.records
    assert 0 < alone["PacketLog"].records < whole.records
    assert set(json.loads((tmp_path / "PacketLog" / "records.jsonl").read_text().splitlines()[0])["features"]) == {
        "PacketLog"
    }
    for stored in (whole, *alone.values()):
        assert set(stored.sizes) == set(FORMS)
        assert stored.sizes["jsonl.zst"] < stored.sizes["jsonl"]


def test_a_distribution_counts_each_value_as_often_as_its_weight():
    values, weights = np.array([5.0, 1.0, 3.0]), np.array([1.0, 7.0, 2.0])
    spread = np.repeat(values, weights.astype(int))
    found, expected = Distribution.of(values, weights), Distribution.of(spread)
    assert found == pytest.approx(expected)
    assert found == pytest.approx((1.8, 1, 5, 1, 1, 1, 3, 5, 5))
    assert np.isnan(Distribution.of(np.zeros(0))).all()


def test_of_each_part_the_least_of_all_repetitions_counts():
    found = Repeated.of_parts(np.array([[10.0, 40.0], [20.0, 30.0]]), 4)
    assert found.value == 10
    assert found.values == (12.5, 12.5)
    assert found.noise == 0


@pytest.mark.parametrize(("text", "rate"), [("10Gbit/s", 10e9), ("2.5 Mbit/s", 2.5e6), ("1Tbit/s", 1e12)])
def test_links_are_rates_with_a_unit(text, rate):
    assert projecting.parse_link(text) == rate
    assert projecting.parse_link(projecting.format_link(rate)) == rate


@pytest.mark.parametrize("text", ["10", "10Gb", "0Gbit/s", "fast", "-1Gbit/s", "1e3Gbit/s"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(UsageError, match="is not a rate; write a number with one of kbit/s"):
        projecting.parse_link(text)


def test_a_projection_to_the_rate_of_the_trace_is_the_trace():
    costs = {
        "trace": {"seconds": 100.0, "packets": 1000, "wire_bytes": 976_000},
        "flow_cache": {"all_flows_peak": 10, "peak_state_bytes": 640},
        "end_to_end": {"measured_ns": 100.0},
        "storage": {
            "all_classes": {"bytes": {"jsonl": 1e6}},
            "traffic": {"pcap_bytes": 1e9, "headers_bytes": 1e7},
            "netflow": {"absent": "not installed"},
        },
    }
    found = projecting.project(costs, 80_000.0)  # 1,000 bytes a packet with framing, 10 packets/s
    assert found["times_trace"] == pytest.approx(1)
    assert found["flows"] == pytest.approx(10)
    assert found["cores"] == pytest.approx(10 * 100e-9)
    assert found["memory_gib"] * 2**30 == pytest.approx(640 + 10 * projecting.CACHE_BYTES)
    assert found["gb_per_day"] == pytest.approx({"jsonl": 0.864, "pcap": 864.0, "headers": 8.64})
    assert projecting.project({**costs, "trace": {**costs["trace"], "seconds": 0.5}}, 1e9) is None
