"""Floods: many short flows leave the others their records, are counted, and hold a bounded amount of memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support import traces
from support.naive.frames import Frame
from support.replays import BASE, COUNTED, blocks_of, replay_frames
from trafficrefinery.config import load_config, parse_config
from trafficrefinery.daemon.channels.channel import Channel
from trafficrefinery.daemon.channels.snapshots import Reception, Sender, channel_bytes, held_bytes
from trafficrefinery.daemon.status import Board
from trafficrefinery.daemon.workers.capturing import NAMES_PER_SECOND, QUIC_ATTEMPTS_PER_SECOND
from trafficrefinery.daemon.workers.naming import DNS_UNITS_PER_SECOND
from trafficrefinery.engine.naming.handshakes import DATAGRAM_UNITS, NAME_UNITS
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import BURST_S, Settings, Worker
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.services.budget import UNIT_US

S = 1_000_000_000
START_NS = 1_600_000_000 * S
SERVER = "198.51.100.7"
LIMIT = 10


def plan_of(**changes):
    services = [
        {"Name": "Rest", "Filter": {"Prefixes": ["198.51.100.0/24"]}, "Collect": COUNTED, "Interval": "5s"},
        {"Name": "Net", "Filter": {"Prefixes": ["192.0.2.0/24"]}, "Collect": COUNTED},
    ]
    return Plan.of(parse_config({**BASE, **changes, "Services": services}))


@pytest.fixture(scope="module")
def plan():
    return plan_of()


def packet(ts_ns, client, port, server=SERVER, flags=2):
    data = traces.ethernet(traces.ip(client, server, 6, traces.tcp(port, 443, 1, 0, flags)))
    return Frame(ts_ns, data, len(data))


def flood(start_ns, count, packets=1, server=SERVER, net=10):
    """Flows of a few packets each, from as many addresses."""
    return [
        packet(start_ns + number * 1000 + turn, f"{net}.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1024, server)
        for number in range(count)
        for turn in range(packets)
    ]  # fmt: skip


def honest(start_ns, packets=3, flows=5):
    return [
        packet(start_ns + S + turn * 1000 + number, f"172.16.0.{number}", 5000, flags=2 if turn == 0 else 16)
        for turn in range(packets)
        for number in range(flows)
    ]


def run(plan, frames, limit=LIMIT, **options):
    frames = sorted(frames, key=lambda frame: frame.ts_ns)
    return replay_frames(plan, frames, settings=Settings(max_short_flows=limit), **options)


def records_by(run, start_ns):
    found = [record for record in run.records if record["ts_start"] == start_ns / S]
    is_honest = [record["client_ip"].startswith("172.16.") for record in found]
    return sum(is_honest), len(found) - sum(is_honest)


@pytest.mark.parametrize("packets", [1, 2])
@pytest.mark.parametrize("size", [7, 1024])
def test_of_short_flows_a_service_has_so_many_records_and_others_have_all(plan, packets, size):
    starts = [START_NS + interval * 5 * S for interval in range(3)]
    frames = [frame for start in starts for frame in flood(start, 60, packets) + honest(start)]
    found = run(plan, frames, sizes=(size,))
    assert [records_by(found, start) for start in starts] == [(5, LIMIT)] * 3
    assert found.counters["short_flows_capped"] == 3 * (60 - LIMIT)
    assert found.counters["attributed"] == found.counters["packets"] == len(frames)
    assert sum(interval["short_flows_capped"] for interval in found.intervals) == 3 * (60 - LIMIT)


def test_three_packets_are_not_short(plan):
    found = run(plan, flood(START_NS, 60, 3))
    assert records_by(found, START_NS) == (0, 60)
    assert found.counters["short_flows_capped"] == 0


def test_each_service_has_its_own_limit(plan):
    found = run(plan, flood(START_NS, 60) + flood(START_NS, 30, server="192.0.2.9", net=11))
    by = [record["service"] for record in found.records]
    assert (by.count("Rest"), by.count("Net")) == (LIMIT, LIMIT)
    assert found.counters["short_flows_capped"] == 50 + 20


def test_without_a_limit_all_have_records(plan):
    found = run(plan, flood(START_NS, 60), limit=None)
    assert records_by(found, START_NS) == (0, 60)
    assert run(plan, flood(START_NS, 60), limit=0).counters["short_flows_capped"] == 60


def test_a_flow_that_had_no_record_is_new_in_its_first_one(plan):
    """Its flow counts once in the totals, where it is first seen."""
    frames = flood(START_NS, 20) + [frame._replace(ts_ns=frame.ts_ns + 5 * S + turn) for frame in flood(START_NS, 20)
                                    for turn in range(3)]  # fmt: skip
    found = run(plan, frames)
    assert records_by(found, START_NS) == (0, LIMIT)
    assert records_by(found, START_NS + 5 * S) == (0, 20)
    assert found.aggregator.totals["Rest"].flows == 20


def test_flows_that_end_while_the_interval_before_is_closed_do_not_lift_its_limit():
    """The cache is full all the time, so that rows of one interval come among those of the other."""
    plan = plan_of(FlowCache={"MaxFlows": 64, "IdleTimeout": "30s"})
    frames = flood(START_NS, 500) + flood(START_NS + 5 * S, 500, net=11)
    found = run(plan, frames, sizes=(16,))
    for start in (START_NS, START_NS + 5 * S):
        assert records_by(found, start)[1] <= LIMIT
    assert len(found.records) + found.counters["short_flows_capped"] == 1000


def test_intervals_that_begin_anew_have_their_limits_anew(plan):
    aggregator = Aggregator(plan, 1)
    worker = Worker(plan, aggregator, Settings(max_short_flows=LIMIT))
    for start_ns in (START_NS, START_NS - 1000 * S):
        for block in blocks_of(flood(start_ns, 20)):
            worker.process(block)
        worker.start_over()
        assert sum(len(batch.flow["flow_id"]) for batch in aggregator.ready()) == LIMIT
        aggregator.done_until(0, -(1 << 62))


# What is held on the way


class Ends:
    """A worker's sender and the aggregator's reception of it, in one process."""

    def __init__(self, plan, limit_bytes):
        self.board, self.channel = Board(plan, 1), Channel(8 << 20)
        self.record = self.board.workers[0]
        self.sender = Sender(self.channel, self.record)
        self.aggregator = Aggregator(plan, 1, limit_bytes=limit_bytes)
        self.reception = Reception(0, self.channel, self.record, self.aggregator, None)


def test_rows_beyond_the_limit_are_refused_and_counted_and_later_intervals_are_whole(plan):
    row_bytes = plan.profiles[plan.service_profile[0]].row_dtype().itemsize
    ends = Ends(plan, limit_bytes=40 * row_bytes)
    worker = Worker(plan, ends.sender, Settings())
    made = []
    for number, count in enumerate((35, 200, 35)):
        for block in blocks_of(flood(START_NS + number * 5 * S, count, net=20 + number)):
            worker.process(block)
        worker.advance(START_NS + (number * 5 + 7) * S)
        while worker.is_closing:
            worker.close_a_slice()
        ends.reception.take()
        made.append(sum(len(batch.flow["flow_id"]) for batch in ends.aggregator.ready()))
        assert ends.aggregator.waiting == 0
    assert (made[0], made[2]) == (35, 35)
    assert made[1] + int(ends.record["refused_rows_total"]) == 200
    assert made[1] <= 40


def test_all_that_may_wait_is_not_more_than_is_configured(plan):
    for workers in (1, 2, 8):
        waiting = plan.config.daemon.max_waiting_bytes
        assert channel_bytes(plan, workers) * workers + held_bytes(plan) * 3 <= waiting + 1


def test_a_daemon_caps_short_flows_by_default():
    assert plan_of().config.daemon.max_short_flows == 20_000


ROWS = 60_000
MEASURE = """
import sys
import numpy as np
from pathlib import Path
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.config import load_config
from trafficrefinery.daemon.query.latest import interval_channel, publish
from trafficrefinery.records.sinks.base import Interval
from trafficrefinery.records.sinks.files import json_slices, reader_of
from trafficrefinery.engine.plan import Plan

def peak_bytes():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

plan = Plan.of(load_config(sys.argv[1]))
dtype, aggregator, made = plan.profiles[0].row_dtype(), Aggregator(plan, 1), []
for rows in (100, int(sys.argv[2])):
    for first in range(0, rows, 3000):
        part = np.zeros(min(3000, rows - first), dtype)
        part["flow"]["a_lo"] = 0xFFFF00000000 + np.arange(first, first + len(part))
        part["flow"]["service"], part["flow"]["name_id"] = plan.service_profile.index(0), -1
        aggregator.rows(0, 0, part, [])
    aggregator.done_until(0, 1 << 62)
    interval = Interval(1, list(aggregator.ready()), [])
    for lines in interval.record_lines:
        assert lines.endswith(b"\\n")
    sending, receiving = interval_channel()
    assert publish(sending, reader_of(interval.batches, plan), [])
    made.append(peak_bytes())
    del interval, part, rows
print(made[1] - made[0])
"""


def test_a_row_takes_little_more_than_itself_on_its_way(root):
    """It took 7 KB in the aggregator: twice as it came, as columns, as a table and as lines."""
    path = root / "configs" / "video.json"
    plan = Plan.of(load_config(path))
    done = subprocess.run([sys.executable, "-c", MEASURE, path, str(ROWS)], check=True, capture_output=True, text=True)
    bytes_a_row = int(done.stdout) / ROWS
    assert bytes_a_row <= 2.0 * plan.profiles[0].row_dtype().itemsize


MOST_US, AT_RATE = 5, 50_000


@pytest.mark.parametrize(
    ("units_per_second", "all_packets_us"),
    [
        (QUIC_ATTEMPTS_PER_SECOND * DATAGRAM_UNITS + NAMES_PER_SECOND * NAME_UNITS, 1.0),  # in a capture worker
        (DNS_UNITS_PER_SECOND + DATAGRAM_UNITS + NAME_UNITS, 2.0),  # in the DNS process, whose packets take more
    ],
)
def test_all_budgets_of_a_process_together_stay_below_5_us_a_packet(units_per_second, all_packets_us):
    """At 50,000 packets a second, in an interval of a second or more, with the burst that precedes it."""
    assert units_per_second * UNIT_US * (1 + BURST_S) / AT_RATE + all_packets_us < MOST_US
