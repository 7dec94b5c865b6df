"""Tasks: the same results wherever they run, and whatever happens to one of them happens to it alone."""

from __future__ import annotations

import sys
import time

import joblib
import pytest

from support import clusters
from support.task_cases import behave
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.system.tasks import Failure, tasks


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with clusters.cluster(tmp_path_factory.mktemp("cluster"), workers=2) as made:
        yield made.address


@pytest.fixture(params=["here", "processes", "cluster"])
def somewhere(request):
    """What `tasks` is called with."""
    if request.param == "cluster":
        return {"cluster": request.getfixturevalue("cluster")}
    return {"workers": 1 if request.param == "here" else 2}


def test_each_argument_has_its_result(somewhere):
    with tasks(**somewhere) as run:
        assert dict(run.run(behave, ["one", "two", "three"])) == {0: "did one", 1: "did two", 2: "did three"}
        assert dict(run.run(behave, [])) == {}
        assert dict(run.run(behave, ["four"])) == {0: "did four"}


def test_an_error_of_one_task_is_its_result(somewhere):
    with tasks(**somewhere) as run:
        found = dict(run.run(behave, ["one", "refused", "three"]))
    assert found == {0: "did one", 1: Failure("x.pcap: is none;\n give another"), 2: "did three"}


def test_a_mistake_in_a_task_is_raised_with_its_traceback(somewhere):
    with tasks(**somewhere) as run, pytest.raises((RuntimeError, LookupError), match="no such thing"):
        list(run.run(behave, ["mistaken"]))


def test_a_task_that_is_killed_fails_alone_among_processes():
    with tasks(2) as run:
        found = dict(run.run(behave, ["slow", "killed", "one", "slow", "killed", "two"]))
        assert {number: found[number] for number in (0, 2, 3, 5)} == {
            0: "did slow", 2: "did one", 3: "did slow", 5: "did two",
        }  # fmt: skip
        for number in (1, 4):
            assert "was killed" in found[number].message
        assert dict(run.run(behave, ["after"])) == {0: "did after"}


def test_a_task_that_kills_workers_of_a_cluster_fails_alone(tmp_path):
    with clusters.cluster(tmp_path, workers=5) as made, tasks(cluster=made.address) as run:
        found = dict(run.run(behave, ["killed", "one", "two"]))
    assert (found[1], found[2]) == ("did one", "did two")
    assert "workers of the cluster died of it" in found[0].message


def test_nothing_runs_on_after_the_end():
    began = time.monotonic()
    with tasks(2) as run:
        next(run.run(behave, ["one", *["endless"] * 20]))
    assert time.monotonic() - began < 300


def test_processes_of_joblib_beside_them_are_left_alone():
    with tasks(2) as run:
        list(run.run(behave, ["one"]))
        assert joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(number) for number in (-1, -2)) == [1, 2]
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(number) for number in (-3, -4)) == [3, 4]


def test_a_scheduler_that_ends_is_told(tmp_path):
    with clusters.cluster(tmp_path, workers=1) as made, tasks(cluster=made.address) as run:
        made.scheduler.kill()
        with pytest.raises(TrafficRefineryError, match="the scheduler is gone"):
            for _ in run.run(behave, ["slow"] * 3):
                pass


def test_what_is_wrong_with_a_cluster_is_told(monkeypatch, tmp_path):
    with (
        pytest.raises(UsageError, match=r"tcp://127.0.0.1:9: no scheduler answers there"),
        tasks(cluster="tcp://127.0.0.1:9"),
    ):
        pass
    with clusters.cluster(tmp_path, workers=1) as made:
        monkeypatch.setattr("trafficrefinery.system.tasks.__version__", "9.9")
        with pytest.raises(UsageError, match=r"has trafficrefinery .*, and this is 9\.9"), tasks(cluster=made.address):
            pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match="install the extra cluster of this program"), tasks(cluster="tcp://x:1"):
        pass
