"""Which intervals are free of losses: a worker may begin a little later than others, and end a little earlier."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from trafficrefinery.daemon.status import READY, RUN, STOP, STOPPED
from trafficrefinery.daemon.workers.aggregating import AggregatorProcess


@pytest.fixture
def process():
    """An aggregator of two workers that capture."""
    made = AggregatorProcess.__new__(AggregatorProcess)
    workers = np.zeros(2, [("state", "i8"), ("restarts_total", "i8")])
    workers["state"] = READY
    made._board = SimpleNamespace(workers=workers, supervisor={"wanted": RUN})
    made._receptions, made._have_begun = [None, None], set()
    return made


def missing(process, *there: int) -> list[int]:
    return process._missing_workers({"workers": [{"worker": number} for number in there]})


def test_a_worker_that_has_not_begun_misses_nothing(process):
    assert missing(process, 0) == []
    assert missing(process, 0, 1) == []
    assert missing(process, 0) == [1]


def test_a_worker_that_was_started_again_misses_what_it_did_not_see(process):
    process._board.workers["restarts_total"][1] = 1
    assert missing(process, 0) == [1]


def test_a_worker_that_ended_as_it_was_told_to_misses_nothing(process):
    assert missing(process, 0, 1) == []
    process._board.workers["state"][0] = STOPPED
    assert missing(process, 1) == [0]
    process._board.supervisor["wanted"] = STOP
    assert missing(process, 1) == []
    assert missing(process, 0) == [1]
