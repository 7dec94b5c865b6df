"""Models in the daemon: what it infers is what a replay does, and what is lost is counted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from support.daemon_runs import Daemon, lines_in, run
from support.model_bundles import tamper, write_bundle
from support.networks import wire
from trafficrefinery.config import load_config
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.replaying.single import ReplayOptions, replay_to_directory

__all__ = ["run", "wire"]

SPEED = 25
LISTEN = "127.0.0.1:9471"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [write_bundle(folder, "resolution"), write_bundle(folder, "startup")]


def configuration(models: list[Path], **changes: Any) -> dict[str, Any]:
    return {
        **json.loads((configs_dir() / "video.json").read_text()), "Inference": {"Models": list(map(str, models))},
        "Capture": {"Workers": 1}, "Metrics": {"Listen": LISTEN}, "Sensor": "test", **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def expected(tmp_path_factory, sample_trace, models) -> list[dict]:
    out = tmp_path_factory.mktemp("replay")
    replay_to_directory(
        load_config(configs_dir() / "video.json"), [sample_trace], out, ReplayOptions(models=tuple(models))
    )
    return [json.loads(line) for line in (out / "inferences.jsonl").read_text().splitlines()]


@pytest.fixture
def start(tmp_path, sample_trace, models) -> Iterator[Any]:
    started = []

    def start(speed: float = SPEED, **changes: Any) -> Daemon:
        daemon = Daemon(tmp_path, configuration(models, **changes), None, "--file", sample_trace, "--speed", speed)
        started.append(daemon)
        return daemon.start()

    yield start
    for daemon in started:
        daemon.end()


def inferences(daemon: Daemon) -> list[dict]:
    return list(lines_in(daemon.out, "inferences"))


def wait_for_more(daemon: Daemon, records: Callable[[Daemon], list[dict]]) -> None:
    before = len(records(daemon))
    daemon.wait_until(lambda: len(records(daemon)) > before, "nothing more is written")


def test_a_paced_trace_gives_the_inferences_of_its_replay(start, expected):
    both = {"JSONLines": {"Enabled": True, "Compress": False}, "Parquet": {"Enabled": True}}
    daemon = start(Sinks=both, Capture={"Workers": 2, "Cpus": [0, 1]})
    assert daemon.wait() == 0
    assert inferences(daemon) == expected
    (file,) = daemon.out.glob("inferences-*.parquet")
    table = pq.read_table(file)
    both = zip(table["value"].to_pylist(), table["quantity"].to_pylist(), strict=True)
    assert [label if quantity is None else quantity for label, quantity in both] == [one["value"] for one in expected]
    assert not list(daemon.out.glob("*.partial"))


def _agree(metrics: dict[str, float]) -> bool:
    return (
        metrics["inferences_total"] >= metrics["inference_confidence_count"] > 0  # of the startup there is none
        and metrics["inference_latency_seconds_count"] > 0
        and metrics["sessions_open"] == metrics["sessions_started_total"] - metrics["sessions_ended_total"] > 0
        and sum(metrics[f"inferred_sessions{which}{{Example}}"] for which in ("", "_abstained", "_not_playing")) > 0
        and metrics["inference_dropped_intervals_total"] == 0
        and metrics["process_ready{inference}"] == 1
    )


def test_metrics_and_queries_tell_of_inferences(start, expected):
    daemon = start(speed=8)
    daemon.wait_until(lambda: daemon.metrics()["inferences_total"] >= 20, "nothing is inferred")
    daemon.wait_until(lambda: _agree(daemon.metrics()), "metrics do not agree, also not between intervals")
    answer = json.loads(daemon.get("/api/v1/inferences?service=Example&limit=2"))
    assert answer["total"] >= len(answer["items"]) > 0
    assert all(item in expected for item in answer["items"])
    client = answer["items"][0]["client_ip"]
    alone = json.loads(daemon.get(f"/api/v1/inferences?client={client}"))["items"]
    assert {item["client_ip"] for item in alone} <= {client}
    assert daemon.stop() == 0


def test_a_killed_inference_worker_loses_only_what_is_counted(start, expected):
    daemon = start(speed=6)
    for turn in range(2):
        wait_for_more(daemon, inferences)
        worker = daemon.processes()["inference"]
        if turn:  # while it hangs records are written, and intervals wait for its successor
            os.kill(worker, signal.SIGSTOP)
            wait_for_more(daemon, Daemon.records)
        os.kill(worker, signal.SIGKILL)
        daemon.wait_for("a process ended and is started again process=supervisor name=inference", times=turn + 1)
    assert daemon.wait() == 0
    keys = [(one["ts_end"], one["session_id"]) for one in inferences(daemon)]
    lost = {one["ts_end"] for one in expected} - {end for end, _ in keys}
    assert keys == [(one["ts_end"], one["session_id"]) for one in expected if one["ts_end"] not in lost]
    told = sum(map(int, re.findall(r"intervals have no inferences .*intervals=(\d+)", daemon.log)))
    assert len(lost) <= told <= 2


def test_a_model_that_was_changed_hinders_the_start(tmp_path, sample_trace):
    bundle = write_bundle(tmp_path)
    tamper(bundle)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(configuration([bundle], OutFolder=str(tmp_path / "out"))))
    command = [sys.executable, "-m", "trafficrefinery", "run", "-c", path, "--file", sample_trace]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    said = f"error: {bundle / 'calibration.json'}: is not as it was written (SHA-256 differs); get the bundle again\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


# Reload


def test_a_reload_takes_models_that_fit_and_refuses_others(run, tmp_path):
    good, changed, long = (write_bundle(tmp_path / name, interval_s=seconds)
                           for name, seconds in (("good", 2.0), ("changed", 2.0), ("long", 10.0)))  # fmt: skip
    tamper(changed)
    services = [{"Name": "Net", "Filter": {"Prefixes": ["192.0.2.0/24"]}, "Collect": ["VideoSegments"]}]
    daemon = run(Services=services)
    assert "inference" not in daemon.processes()
    config = json.loads(daemon.path.read_text())
    for bundle, said in ((changed, "is not as it was written"), (long, "is 2s, by-size-resolution")):
        failures = daemon.metrics()["config_reload_failures_total"]
        reload(daemon, config, bundle)
        daemon.wait_until(lambda before=failures: daemon.metrics()["config_reload_failures_total"] == before + 1,
                          "it is not refused")  # fmt: skip
        assert said in daemon.log
    reload(daemon, config, good)
    daemon.wait_for("reloaded process=supervisor", 300)
    daemon.wait_until(lambda: daemon.metrics()["process_ready{inference}"] == 1, "there is no inference worker")
    assert daemon.stop() == 0


def reload(daemon: Daemon, config: dict[str, Any], bundle: Path) -> None:
    daemon.write({**config, "Inference": {"Models": [str(bundle)]}})
    daemon.signal(signal.SIGHUP)
