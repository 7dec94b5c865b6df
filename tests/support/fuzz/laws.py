"""What must hold of any frames: each is accounted for, is in a record when it is attributed, and no run differs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from support import parsing, replays
from support.fuzz.frames import EVERY_TUNNEL, Frames, Maker, floods, mixed
from trafficrefinery.capture.duplicates import DuplicateFinder
from trafficrefinery.capture.frames import Block
from trafficrefinery.engine.feature_classes.registry import Registry
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.packets.parser import REASONS
from trafficrefinery.packets.tunnels import TUNNELS

CAPACITIES = (1, 7, 977, 5_003, 16_385, 20_000)  # none of them whole chunks
PLENTY = 1_000_003
# A full cache depends on which idle flows were looked at before, between two blocks; and of each table that may be full,
# several workers have several.
_FULL = ("flows_evicted_at_capacity", "flow_cache_full")
_FULL_TABLES = (*_FULL, "fragments_forgotten", "first_packets_given_up")


class BrokenLawError(AssertionError):
    """A law does not hold; the text says which."""


class Scenario(NamedTuple):
    """Frames of a kind, and the flow cache that they meet."""

    make: Maker
    max_flows: int
    at_capacity: str


SCENARIOS = {
    "mixed": Scenario(mixed, PLENTY, "evict-oldest"),
    "floods": Scenario(floods, PLENTY, "evict-oldest"),
    **{f"mixed-{n}-{policy}": Scenario(mixed, n, policy)
       for n in CAPACITIES[:4] for policy in ("evict-oldest", "refuse")},
    **{f"floods-{n}-{policy}": Scenario(floods, n, policy)
       for n in CAPACITIES[2:] for policy in ("evict-oldest", "refuse")},
}  # fmt: skip


@functools.cache
def _base() -> Plan:
    """All classes for one service, packets by name and by prefix; and few for another, with intervals of its own."""
    every = sorted(Registry().names())
    services = [
        {"Name": "Video", "Filter": {"DomainsString": ["video.example"]}, "Collect": every},
        {"Name": "Net", "Filter": {"Prefixes": ["192.0.2.4/30", "2001:db8:2::2/127", "10.0.0.4/30"]}, "Collect": every},
        {
            "Name": "Rest",
            "Filter": {"Prefixes": ["0.0.0.0/1", "::/1"]},
            "Collect": ["PacketCounters"],
            "Interval": "5s",
        },
    ]
    changes = {"FlowCache": {"MaxFlows": PLENTY, "IdleTimeout": "30s"}, "Decapsulate": list(TUNNELS)}
    config = replays.parse_config({**replays.BASE, **changes, "Services": services})
    return Plan.of(config)


@functools.cache
def plan_of(max_flows: int, at_capacity: str) -> Plan:
    """Of one compiled step for all."""
    base = _base()
    cache = base.config.flow_cache.model_copy(update={"max_flows": max_flows, "at_capacity": at_capacity})
    return dataclasses.replace(base, config=base.config.model_copy(update={"flow_cache": cache}))


class _Rows:
    """Takes the rows of a worker: a hash of each, and the packets in them. The worker's buffers are left zeroed, so that
    what a row leaves out is equal everywhere."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.hashes: list[np.ndarray] = []
        self.packets = self.rows_seen = 0
        self._names: dict[str, int] = {}

    def rows(self, worker: int, profile: int, rows: Any, names: Sequence[str]) -> None:
        given, rows = np.asarray(rows), np.asarray(rows).copy()
        assert self.worker is not None
        buffer = np.asarray(self.worker._rows[profile])
        given[:] = buffer[: len(rows)] = np.zeros((), rows.dtype)
        number = np.array([hash_of_text(name) for name in names] or [0], np.int64)
        ids = rows["flow"]["name_id"]
        if len(rows) and ids.max() >= len(names):
            raise BrokenLawError(f"a row has the name {ids.max()} of {len(names)}")
        rows["flow"]["name_id"] = np.where(ids < 0, -1, number[np.maximum(ids, 0)])
        counted = rows["PacketCounters"]
        self.packets += int(counted["packets_up"].sum() + counted["packets_down"].sum())
        self.rows_seen += len(rows)
        self.hashes.append(_row_hashes(rows, profile))

    def summary(self, *_: Any) -> None:
        pass

    def done_until(self, *_: Any) -> None:
        pass


@functools.cache
def hash_of_text(text: str) -> int:
    return int.from_bytes(text.encode()[-3:].rjust(3, b"\0"))


def _row_hashes(rows: np.ndarray, profile: int) -> np.ndarray:
    words = np.frombuffer(rows.tobytes(), np.uint64).reshape(len(rows), -1)
    made = np.full(len(rows), profile, np.uint64)
    for column, mask in zip(words.T, _mask(rows.dtype), strict=True):
        made = (made ^ (column & mask)) * np.uint64(0x9E3779B97F4A7C15)
        made ^= made >> np.uint64(29)
    return made


@functools.cache
def _mask(dtype: np.dtype) -> np.ndarray:
    """The bytes of a record that are no padding, as words: padding is whatever was in memory before."""
    mask = np.zeros(dtype.itemsize, np.uint8)

    def mark(kind: np.dtype, at: int) -> None:
        if kind.subdtype:
            base, shape = kind.subdtype
            for i in range(int(np.prod(shape))):
                mark(base, at + i * base.itemsize)
        elif kind.names:
            for name in kind.names:
                mark(kind.fields[name][0], at + kind.fields[name][1])
        else:
            mask[at : at + kind.itemsize] = 255

    mark(dtype, 0)
    return mask.view(np.uint64)


class Outcome(NamedTuple):
    """Of one run over all workers."""

    counters: dict[str, int]
    row_hashes: np.ndarray  # sorted
    packets_in_rows: int


def run(plan: Plan, frames: Frames, partitions: int, sizes: Callable[[int], int]) -> Outcome:
    """Walk through the frames with each worker; `sizes` says how long the next block is."""
    counters: dict[str, int] = {}
    hashes, packets = [], 0
    for number in range(partitions):
        receiver = _Rows()
        worker = Worker(plan, receiver, Settings(number=number, partitions=partitions))
        receiver.worker = worker
        at = turn = 0
        while at < len(frames.table):
            stop = min(at + sizes(turn), len(frames.table))
            worker.process(Block(*frames.block(at, stop)))
            at, turn = stop, turn + 1
        worker.finish()
        check(worker)
        for name, value in worker.counters.items():
            counters[name] = counters.get(name, 0) + value
        del worker, receiver.worker  # which refer to each other, and to hundreds of megabytes
        hashes += receiver.hashes
        packets += receiver.packets
    return Outcome(counters, np.sort(np.concatenate([np.zeros(0, np.uint64), *hashes])), packets)


def check(worker: Worker) -> None:
    """Nothing is left of any flow."""
    if worker.flows_active:
        raise BrokenLawError(f"{worker.flows_active} flows are left in the cache at the end")
    for number, states in enumerate(worker._states):
        if states.in_use:
            raise BrokenLawError(f"{states.in_use} states of profile {number} are left at the end")
    owned = np.count_nonzero(worker._tables["pool_owner"] >= 0)
    if owned:
        raise BrokenLawError(f"{owned} entries of the pool of first packets are left at the end")
    free = worker._tables["pool_free"][: int(worker._p["control"]["pool_free"])]
    if len(np.unique(free)) < len(free):
        raise BrokenLawError(f"{len(free)} entries of the pool are free, of which some are the same")
    if np.count_nonzero(worker._index.array):
        raise BrokenLawError(f"{np.count_nonzero(worker._index.array)} entries are left in the index")


def account(frames: Frames, outcome: Outcome) -> None:
    """Packets in = attributed + counted by reason, and each attributed one is in a record."""
    counted = outcome.counters
    total = sum(counted[reason] for reason in REASONS)
    if not counted["packets"] == len(frames.table) == total:
        raise BrokenLawError(f"{len(frames.table)} frames, {counted['packets']} packets, {total} by reason: {counted}")
    if counted["wire_bytes"] != int(frames.table["wire_bytes"].astype(np.int64).sum()):
        raise BrokenLawError(f"{counted['wire_bytes']} bytes are not those of the frames")
    if counted["attributed"] != outcome.packets_in_rows:
        raise BrokenLawError(f"{counted['attributed']} packets are attributed, {outcome.packets_in_rows} in records")
    if counted["waiting_for_service"]:
        raise BrokenLawError(f"{counted['waiting_for_service']} packets are waiting at the end")


def parse_both_ways(frames: Frames) -> None:
    """The parser's plain path says what its general one says."""
    for first in range(0, len(frames.table), 8192):
        buffer, table = frames.block(first, first + 8192)
        try:
            parsing.parse_block(buffer, table, EVERY_TUNNEL)
        except AssertionError as error:
            raise BrokenLawError(f"the two paths of the parser differ: {error}") from error


def find_duplicates(frames: Frames) -> None:
    """Each frame goes on or is counted as seen before; and nothing is read beyond it."""
    twice = frames.table.repeat(2)
    finder = DuplicateFinder(drop=True)
    kept = 0
    for first in range(0, len(twice), 8192):
        block = Frames(frames.buffer, twice).block(first, min(first + 8192, len(twice)))
        kept += len(finder.filter(Block(*block)).frames)
    if kept + finder.duplicates_total != len(twice) or kept < len(frames.table) // 8:
        raise BrokenLawError(f"{kept} frames and {finder.duplicates_total} duplicates of {len(twice)}")


def same(first: Outcome, second: Outcome, what: str) -> None:
    if not np.array_equal(first.row_hashes, second.row_hashes):
        lost = len(np.setdiff1d(first.row_hashes, second.row_hashes))
        raise BrokenLawError(
            f"{what}: {lost} of {len(first.row_hashes)} records differ, {len(second.row_hashes)} there"
        )
    wrong = [(name, count, second.counters[name]) for name, count in first.counters.items()
             if count != second.counters[name] and name != "flows_evicted_idle"]  # fmt: skip
    if wrong:
        raise BrokenLawError(f"{what}: {wrong}")


def obey(name: str, frames: Frames, seed: int) -> None:
    """Check all laws of a scenario on some frames.

    Raises:
        BrokenLawError: one does not hold.
    """
    scenario = SCENARIOS[name]
    plan = plan_of(scenario.max_flows, scenario.at_capacity)
    rng = np.random.default_rng(seed)
    parse_both_ways(frames)
    find_duplicates(frames)
    one = run(plan, frames, 1, lambda _: 8192)
    account(frames, one)
    sizes = rng.choice([1, 3, 16, 37, 500, 3_000], 64).tolist()
    again = run(plan, frames, 1, lambda turn: sizes[turn % len(sizes)] if turn < 64 else 8192)
    account(frames, again)
    if not any(one.counters[counter] for counter in _FULL):
        same(one, again, "other block sizes")
    if any(one.counters[counter] for counter in _FULL_TABLES):
        return
    for partitions in (2, 3):
        several = run(plan, frames, partitions, lambda _: 4096)
        account(frames, several)
        same(one, several, f"{partitions} workers")
