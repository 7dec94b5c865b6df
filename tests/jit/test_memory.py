"""Tables between guards: no access beyond an end goes unseen, and what is given back is never another's."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.replays import ALL_TRAFFIC, config_of
from trafficrefinery.engine.flow_cache import CHUNK, HEADER, SLOTS, SlotTable, new_index
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker
from trafficrefinery.jit import address_of, records
from trafficrefinery.jit.memory import GUARD_BYTES, Recycled, Reserved, table, table_of, whole_pages

pytestmark = pytest.mark.modes

DTYPES = tuple(np.dtype(kind) for kind in ("u1", "u4", "u8", HEADER, "S24", "S100", "S5000", "S200000"))


def signal_of_write(address: int) -> int:
    """The signal by which a child that writes a byte at an address is killed; 0: none."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # which would write a report of each
        ctypes.memset(address, 1, 1)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def check_guards(array: np.ndarray) -> None:
    """One element beyond each end is forbidden; before the first, less than a page may be unused."""
    first, end = address_of(array), address_of(array) + array.nbytes
    size = array.itemsize
    before = 1 if array.nbytes % mmap.PAGESIZE == 0 else first % mmap.PAGESIZE + 1
    for address in (end, end + size - 1, end + GUARD_BYTES - 1, first - before, first - before - size + 1):
        assert signal_of_write(address) == signal.SIGSEGV
    assert signal_of_write(first) == signal_of_write(end - 1) == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 7, 512, 3_000, 20_000])
def test_an_access_beyond_either_end_of_a_table_stops_the_process(dtype, count):
    check_guards(table(count, dtype))
    check_guards(table(whole_pages(count, dtype), dtype))


@given(st.integers(0, 10**7), st.sampled_from(DTYPES))
@settings(max_examples=200)
def test_whole_pages_are_enough_and_no_more_than_needed(count, dtype):
    found = whole_pages(count, dtype)
    assert found >= max(count, 1)
    assert found * dtype.itemsize % mmap.PAGESIZE == 0
    assert found - count <= mmap.PAGESIZE


def arrays_of(worker: Worker) -> dict[str, np.ndarray]:
    """Every table that a worker's loop is given."""
    found = {**worker._tables, "partition": worker._partition, "index": worker._index.array}
    found |= {f"address_{name}": array for name, array in worker._addresses._asdict().items()}
    for number, (states, rows) in enumerate(zip(worker._states, worker._rows, strict=True)):
        found |= {f"states {number}": states.memory.array, f"rows {number}": rows}
    for number, made in enumerate((worker._headers, *worker._states)):
        found |= {f"next_free {number}": made._next_free.array, f"chunks {number}": made._chunks}
    return found


@pytest.mark.parametrize("max_flows", [1, 5_003, 1_000_000])
def test_every_table_of_a_worker_lies_between_guards(max_flows):
    plan = Plan.of(config_of(rest=ALL_TRAFFIC, FlowCache={"MaxFlows": max_flows}))
    worker = Worker(plan, None)
    try:
        tables = arrays_of(worker)
        addresses = {int(worker._p[name]) for name in worker._p.dtype.names if f"{name}_count" in worker._p.dtype.names}
        assert addresses - {0} <= {address_of(array) for array in tables.values()}  # 0: there is none
        for array in tables.values():
            if array.nbytes:
                check_guards(array)
        exact = ("headers", "batch", "event", "fragments", "pool_packets", "pool_owner", "pool_free", "address_entries")
        for name, array in tables.items():
            if name in exact or name.startswith(("states", "rows", "next_free")):
                assert array.nbytes % mmap.PAGESIZE == 0, name
    finally:
        worker._populator.close()


def test_a_python_process_that_writes_beyond_a_table_is_killed():
    """As above, in a process of its own and through an array, as compiled code would."""
    code = (
        "import numpy as np, sys\n"
        "from trafficrefinery.jit.memory import table\n"
        "made = table(1024, 'u8')\n"
        "beyond = np.lib.stride_tricks.as_strided(made[int(sys.argv[1]):], (1025,), (int(sys.argv[2]),))\n"
        "beyond[1024] = 1\n"
    )
    for start, stride in ((0, 8), (1023, -8)):
        run = subprocess.run([sys.executable, "-c", code, str(start), str(stride)], check=False, capture_output=True)
        assert run.returncode == -signal.SIGSEGV, run.stderr


def test_a_table_has_its_values_and_is_zero_otherwise():
    assert table_of([3, 2, 1], np.int32).tolist() == [3, 2, 1]
    assert table((2, 3), np.uint16).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert table(4, HEADER)["marks"].tolist() == [0] * 4
    assert table(0, HEADER).tolist() == []


def test_a_table_is_used_again_when_no_view_of_it_is_left():
    rooms = Recycled(1024, HEADER, most_free=2)
    first = rooms.take()
    check_guards(np.asarray(first))
    address, part = address_of(first), np.asarray(first[3:5])["marks"]
    first["marks"] = 5
    others = [rooms.take() for _ in range(4)]
    del first
    assert address not in {address_of(other) for other in [*others, rooms.take()]}
    assert part.tolist() == [5, 5]
    del part
    assert address_of(rooms.take()) == address
    del others
    assert len(rooms._free) == 2


def test_a_guard_that_cannot_be_set_is_an_error_that_says_why(monkeypatch):
    monkeypatch.setattr("trafficrefinery.jit.memory._libc.mprotect", lambda *_: -1)
    with pytest.raises(OSError, match="no guard can be set .*; raise vm.max_map_count"):
        table(1, np.uint8)


ANY = st.one_of(st.integers(-3, 40), st.integers(-(10**6), 10**6), st.sampled_from([-(2**63), 2**62]))
STEPS = st.lists(st.tuples(st.sampled_from(["populate", "release", "release_behind"]), ANY, ANY), max_size=8)


@given(st.sampled_from([1, 5, 1_000, 20_000, 300_000]), st.sampled_from(DTYPES[1:6]), STEPS)
@settings(max_examples=150, deadline=None)
@example(20_000, HEADER, [("release", CHUNK, CHUNK)])  # the last chunk of a table that is not whole chunks
@example(20_000, HEADER, [("populate", 20_000, 0), ("release_behind", 16_000, 0)])
@example(1_000_000, np.dtype("u4"), [("release", 999_424, CHUNK)])
def test_what_is_given_back_is_in_the_range_that_was_named(count, dtype, steps):
    """Whatever the arguments: the neighbours keep their bytes, and so do elements that were not named."""
    before, reserved, behind = table(4096, np.uint8), Reserved(count, dtype), table(4096, np.uint8)
    before[:] = behind[:] = 7
    content = reserved.array.view(np.uint8).reshape(count, dtype.itemsize)
    content[:] = 9
    kept = np.ones(count, bool)
    for step, first, number in steps:
        if step == "populate":
            reserved.populate(first, number)
        elif step == "release":
            reserved.release(first, number)
            kept[max(first, 0) : max(first + number, 0)] = False
        else:
            reserved.release_behind(first)
            kept[max(first, 0) :] = False
    assert (content[kept] == 9).all()
    assert np.isin(content, (0, 9)).all()
    assert (before == 7).all()
    assert (behind == 7).all()


@given(st.integers(1, 3 * CHUNK))
@settings(max_examples=30, deadline=None)
@example(20_000)
@example(1_000_000)
def test_a_flow_table_is_whole_chunks_and_gives_out_no_slot_beyond_its_capacity(capacity):
    slots = records(np.zeros(1, SLOTS))
    made = SlotTable(capacity, HEADER, slots[0])
    assert slots["capacity"][0] == capacity
    assert len(made.memory.array) % CHUNK == 0
    assert len(made.memory.array) - capacity < CHUNK
    assert len(made._next_free.array) == len(made.memory.array)
    assert len(new_index(capacity).array) >= 2 * capacity
