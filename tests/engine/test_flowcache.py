"""The flow cache against a dictionary, and its memory."""

from __future__ import annotations

import gc
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.naive.frames import Frame
from support.replays import ALL_TRAFFIC, blocks_of, config_of, replay_frames
from support.traces import SECOND, START_NS, ethernet, ip, udp
from trafficrefinery.engine.flow_cache import (  # fmt: skip
    CHUNK,
    HEADER,
    SLOTS,
    USED,
    SlotTable,
    find,
    flow_hash,
    give,
    guess,
    insert,
    new_index,
    partition_of,
    remove,
    set_ends,
    take,
)
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker
from trafficrefinery.jit import COMPILED, kernel, records
from trafficrefinery.jit.memory import Reserved
from trafficrefinery.packets.parser import PACKET

pytestmark = pytest.mark.modes
ADD, REMOVE, FIND = 0, 1, 2
KEY = ("a_hi", "a_lo", "b_hi", "b_lo", "a_port", "b_port", "protocol")


@kernel
def churn(slots, index, headers, packets, actions, seed, results):
    """Do what `actions` say with the keys of `packets`; a slot, or -1, is the result of each."""
    s = slots[0]
    for i in range(len(actions)):
        r = packets[i]
        r.hash = flow_hash(r, seed)
        slot = find(index, headers, r)
        if slot < 0 and actions[i] == ADD:
            slot = take(s)
            if slot >= 0:
                h = headers[slot]
                set_ends(h, r)
                h.transport = r.protocol
                h.marks = USED
                insert(index, r.hash, slot)
        elif slot >= 0 and actions[i] == REMOVE:
            remove(index, r.hash, slot)
            headers[slot].marks = 0
            give(s, slot)
        results[i] = slot


@kernel
def guessed(index, packets, seed, results):
    for i in range(len(packets)):
        results[i] = guess(index, flow_hash(packets[i], seed))


@kernel
def partitions_of(packets, partitions, results):
    for i in range(len(packets)):
        r = packets[i]
        results[i, 0] = partition_of(r.a_hi, r.a_lo, r.b_hi, r.b_lo, partitions)
        results[i, 1] = partition_of(r.b_hi, r.b_lo, r.a_hi, r.a_lo, partitions)


class Cache:
    """A table of headers with its index, and its twin: a dictionary from keys to slots."""

    def __init__(self, capacity, seed):
        self.capacity, self.seed = capacity, np.uint64(seed)
        self.slots = records(np.zeros(1, SLOTS))
        self.table = SlotTable(capacity, HEADER, self.slots[0])
        self.index = new_index(capacity)
        self.twin = {}

    def do(self, actions, keys):
        packets = records(np.zeros(len(keys), PACKET))
        for name, values in zip(KEY, zip(*keys, strict=True), strict=True):
            packets[name] = values
        results = np.zeros(len(keys), np.int64)
        headers = self.table.memory.array
        churn(self.slots, self.index.array, headers, packets, np.array(actions), self.seed, results)
        return packets, results.tolist()

    def check(self, actions, keys):
        """Do it, and see that the dictionary agrees."""
        _, results = self.do(actions, keys)
        for action, key, slot in zip(actions, keys, results, strict=True):
            known = self.twin.get(key)
            if known is not None:
                assert slot == known
                if action == REMOVE:
                    del self.twin[key]
            elif action == ADD and len(self.twin) < self.capacity:
                assert 0 <= slot < self.capacity
                assert slot not in self.twin.values()
                self.twin[key] = slot
            else:
                assert slot == -1
        assert self.table.in_use == len(self.twin)
        assert np.count_nonzero(self.index.array) == len(self.twin)


KEYS = st.tuples(
    st.sampled_from([0, 1, 2**64 - 1]), st.integers(0, 3), st.sampled_from([0, 2**63]), st.integers(0, 3),
    st.sampled_from([0, 80, 65_535]), st.integers(0, 2), st.sampled_from([6, 17]),
)  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from([ADD, ADD, REMOVE, FIND]), KEYS), min_size=1, max_size=60)


@given(st.lists(STEPS, min_size=1, max_size=4), st.sampled_from([1, 2, 5, 64]), st.integers(0, 2**64 - 1))
@settings(max_examples=100 if COMPILED else 20)
def test_the_cache_is_a_dictionary_with_a_capacity(rounds, capacity, seed):
    cache = Cache(capacity, seed)
    for steps in rounds:
        actions, keys = zip(*steps, strict=True)
        cache.check(actions, keys)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_full_cache_under_churn_is_a_dictionary(seed):
    r = random.Random(seed)
    count = 3_000 if COMPILED else 300
    keys = [(0, r.randrange(2**64), 0, r.randrange(2**64), r.randrange(2**16), 443, 6) for _ in range(count)]
    cache = Cache(count // 2, seed)
    for _ in range(8):
        chosen = [r.choice(keys) for _ in range(count)]
        cache.check([r.choice([ADD, ADD, REMOVE]) for _ in chosen], chosen)
    cache.check([REMOVE] * len(keys), keys)
    assert cache.table.in_use == 0
    assert not cache.index.array.any()


def test_both_directions_of_two_hosts_belong_to_one_worker_and_hosts_spread_evenly():
    r = random.Random(1)
    packets = records(np.zeros(2_000, PACKET))
    packets["a_lo"] = [0xFFFF_0A00_0000 + r.randrange(2**16) for _ in packets]
    packets["b_lo"] = [0xFFFF_C000_0200 + r.randrange(2**8) for _ in packets]
    for partitions in (2, 3, 8):
        results = np.zeros((len(packets), 2), np.int64)
        partitions_of(packets, partitions, results)
        assert (results[:, 0] == results[:, 1]).all()
        counts = np.bincount(results[:, 0], minlength=partitions)
        assert len(counts) == partitions
        assert counts.min() > 0.8 * len(packets) / partitions


def test_a_guess_is_the_slot_or_that_of_a_hash_alike():
    cache = Cache(512, 5)
    keys = [(0, i, 0, 7, 1, 2, 17) for i in range(500)]
    packets, slots = cache.do([ADD] * 500, keys)
    results = np.zeros(500, np.int64)
    guessed(cache.index.array, packets, cache.seed, results)
    assert np.mean(results == slots) > 0.99
    assert (results >= 0).all()


@pytest.mark.skipif(not COMPILED, reason="takes too long in plain Python")
def test_slots_of_a_chunk_that_has_become_empty_are_taken_again_and_its_memory_reads_as_zeros():
    cache = Cache(3 * CHUNK, 1)
    count = 2 * CHUNK + 10
    keys = [(0, i, 0, 0, 0, 0, 6) for i in range(count)]
    cache.do([ADD] * count, keys)
    assert (cache.table.memory.array["marks"][:count] == USED).all()
    cache.do([REMOVE] * CHUNK, keys[:CHUNK])
    cache.table.memory.array["a_lo"][:CHUNK] = 7
    cache.table.release_empty()
    assert not cache.table.memory.array["a_lo"][:CHUNK].any()
    assert cache.table.in_use == count - CHUNK
    _, found = cache.do([FIND] * count, keys)
    assert found[:CHUNK] == [-1] * CHUNK
    assert found[CHUNK:] == list(range(CHUNK, count))
    more = [(1, i, 0, 0, 0, 0, 6) for i in range(3 * CHUNK - (count - CHUNK))]
    _, slots = cache.do([ADD] * len(more), more)
    assert sorted(slots + found[CHUNK:]) == list(range(3 * CHUNK))
    assert cache.do([ADD], [(2, 0, 0, 0, 0, 0, 6)])[1] == [-1]


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reserved_resident_bytes():
    """Memory behind all reserved address space (flag "nr"). Pages that were only read are none."""
    resident = found = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Anonymous:"):
            found = int(line.split()[1]) << 10
        elif line.startswith("VmFlags:") and " nr" in line:
            resident += found
    return resident


def test_reserved_memory_is_resident_only_from_its_first_use_to_its_release():
    before = resident_bytes()
    reserved = Reserved(1 << 30, np.dtype("u8"))  # 8 GiB of address space
    assert resident_bytes() - before < 8 << 20
    reserved.populate(4 << 20)
    assert not reserved.array[: 4 << 20].any()
    assert resident_bytes() - before > 28 << 20
    reserved.release(0, 4 << 20)
    assert resident_bytes() - before < 8 << 20


# In the packet path


def flows(count, *, ports, start_s=0.0, every_ns=1_000, server="203.0.113.1"):
    """A packet of each of `count` flows."""
    frames = []
    for i in range(count):
        data = ethernet(ip(f"100.{64 + (i >> 16)}.{i >> 8 & 255}.{i & 255}", server, 17, udp(*ports, b"")))
        frames.append(Frame(START_NS + round(start_s * SECOND) + i * every_ns, data, len(data)))
    return frames


def capped(policy, cap):
    return Plan.of(config_of(rest=ALL_TRAFFIC, FlowCache={"MaxFlows": cap, "IdleTimeout": "30s", "AtCapacity": policy}))


def test_at_capacity_the_longest_idle_flow_gives_way_and_its_record_is_written():
    frames = flows(10, ports=(40005, 6)) + flows(1, ports=(40005, 6), start_s=1) + flows(3, ports=(40007, 8), start_s=2)
    run = replay_frames(capped("evict-oldest", 10), frames)
    assert run.counters["flows_evicted_at_capacity"] == 3
    assert run.counters["flow_cache_full"] == 0
    assert sum(r["features"]["PacketCounters"]["packets_up"] for r in run.records) == len(frames)
    again = replay_frames(capped("evict-oldest", 10), [*frames, *flows(2, ports=(40005, 6), start_s=3)])
    # The first flow was used again before, so it is still there; the second gave way and is a new flow now.
    assert again.counters["flows_new"] == 10 + 3 + 1


def test_at_capacity_new_flows_are_refused_and_counted_when_that_is_the_policy():
    frames = (
        flows(10, ports=(40005, 6)) + flows(3, ports=(40007, 8), start_s=2) + flows(10, ports=(40005, 6), start_s=3)
    )
    run = replay_frames(capped("refuse", 10), frames)
    assert run.counters["flow_cache_full"] == 3
    assert {r["client_port"] for r in run.records} == {40005}
    assert sum(r["features"]["PacketCounters"]["packets_up"] for r in run.records) == 20


def test_idle_flows_leave_the_cache_while_others_go_on():
    frames = flows(50, ports=(40005, 6)) + flows(100, ports=(40009, 9), start_s=1, every_ns=SECOND)
    active = [interval["flows_active"] for interval in replay_frames(capped("refuse", 1_000), frames).intervals]
    assert max(active) > 50
    assert active[-2] <= 45  # what came within the idle time, 30 s, and an interval


class Discarded:
    """A receiver of a worker's results that keeps nothing."""

    def rows(self, *_):
        pass

    summary = done_until = rows


@pytest.mark.skipif(not COMPILED, reason="takes too long in plain Python")
def test_resident_memory_returns_after_the_flows_are_gone():
    count = 4 * CHUNK
    frames = flows(count, ports=(40005, 6), server="192.0.2.5") + flows(
        3, ports=(40007, 8), start_s=60, every_ns=20 * SECOND
    )
    gc.collect()
    before, resident = reserved_resident_bytes(), []
    worker = Worker(capped("refuse", 1 << 17), Discarded())
    for block in blocks_of(frames, (count, 1)):
        worker.process(block)
        resident.append(reserved_resident_bytes() - before)
    assert worker.counters["flows_new"] == count + 3
    assert max(resident) > count * (HEADER.itemsize + 700)  # 700 bytes of state
    # The index stays, buffers of rows, and the chunks that the last flows are in: of slots, and of first packets.
    assert resident[-1] < max(resident) / 4
    worker.finish()
