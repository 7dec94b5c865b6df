"""A minute of `make soak`: nothing of a daemon grows while flows come and go."""

from __future__ import annotations

import sys

from support import soak


def test_memory_and_descriptors_stay_flat_while_flows_come_and_go(tmp_path):
    series = soak.soak(tmp_path, 1)
    sys.stdout.write(soak.table(series))
    assert set(series) == {"supervisor", "worker0", "aggregator"}
    assert soak.growth(series) == []
