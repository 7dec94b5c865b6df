"""The table of first fragments: hosts that count alike do not push each other out."""

from __future__ import annotations

import numpy as np
import pytest

from trafficrefinery.engine.fragments import FRAGMENT, FRAGMENT_SETS, FRAGMENT_WAYS, know_fragment
from trafficrefinery.engine.partition import FRAGMENTS_FORGOTTEN, PARTITION
from trafficrefinery.jit import address_of, kernel, records
from trafficrefinery.packets.parser import PACKET


@kernel
def _know(partition, packets, known):
    watermark = packets[0].ts_ns
    for i in range(len(packets)):
        watermark = max(watermark, packets[i].ts_ns)
        known[i] = know_fragment(partition[0], packets[i], watermark)


def known_of(packets):
    """Which packets' ports are known, taken in their order; and how many first fragments were forgotten."""
    partition = records(np.zeros(1, PARTITION))
    fragments = records(np.zeros(FRAGMENT_SETS * FRAGMENT_WAYS, FRAGMENT))
    partition[0]["fragments"], partition[0]["fragments_count"] = address_of(fragments), len(fragments)
    known = np.zeros(len(packets), np.bool_)
    _know(partition, records(packets), known)
    return known, int(partition[0]["counters"][FRAGMENTS_FORGOTTEN])


@pytest.mark.modes
@pytest.mark.parametrize(
    "fields", [{"a_lo": 1}, {"b_lo": 1}, {"a_hi": 1 << 32}, {"b_hi": 1}, {"a_lo": 256, "b_lo": 256}]
)
def test_hosts_that_count_their_fragments_alike_do_not_push_each_other_out(fields):
    pairs = 300
    packets = np.zeros(2 * pairs, PACKET)
    packets["fragment"] = [1] * pairs + [2] * pairs
    packets["fragment_id"], packets["ts_ns"], packets["protocol"] = 7, 10**18, 17
    for name, step in fields.items():
        packets[name] = np.tile(np.arange(pairs, dtype=np.uint64), 2) * np.uint64(step)
    known, forgotten = known_of(packets)
    assert known.all()
    assert forgotten == 0


@pytest.mark.modes
def test_what_is_pushed_out_is_counted_and_a_first_fragment_that_comes_twice_is_not():
    many = FRAGMENT_SETS * FRAGMENT_WAYS * 2
    packets = np.zeros(many, PACKET)
    packets["fragment"], packets["ts_ns"], packets["protocol"] = 1, 10**18, 17
    packets["fragment_id"] = np.arange(many)
    assert known_of(packets)[1] >= many // 2
    packets["fragment_id"] = 7
    assert known_of(packets)[1] == 0


@pytest.mark.modes
def test_a_fragment_is_too_old_by_the_latest_time_seen():
    """Else it would depend on what else is in the table whether a late packet finds it."""
    packets = np.zeros(4, PACKET)
    packets["fragment"], packets["fragment_id"], packets["protocol"] = [1, 2, 1, 2], [7, 7, 8, 7], 17
    packets["ts_ns"] = 10**18 + np.array([0, 60, 61, 30]) * 10**9
    known, forgotten = known_of(packets)
    assert (known.tolist(), forgotten) == ([True, True, True, False], 0)
