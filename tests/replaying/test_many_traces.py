"""Many traces: each has a result of its own, as if it were alone; what is done stays done; failures stay single."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from support import clusters, datasets, replay_runs, traces
from trafficrefinery.cli.main import _run
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.errors import UsageError
from trafficrefinery.replaying.batch import find_traces

VIDEO = configs_dir() / "video.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three traces, one that is none, one that is cut off, and a file that is no trace."""
    made = tmp_path_factory.mktemp("many") / "traces"
    made.mkdir()
    for number in (1, 2, 3):
        traces.write_trace(made / f"{number}.pcap", replay_runs.frames(seed=number, size=40 * number))
    (made / "bad.pcap").write_text("this is no trace at all")
    whole = (made / "3.pcap").read_bytes()
    (made / "cut.pcap").write_bytes(whole[: len(whole) - 10])
    (made / "notes.txt").write_text("not a trace")
    return made


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return replay_runs.configuration(tmp_path_factory.mktemp("config"))


def records(file: Path) -> list[str]:
    return sorted(file.read_text().splitlines())


def replayed(capsys, *arguments: object) -> replay_runs.Done:
    return replay_runs.replay(capsys, *arguments)


@pytest.mark.parametrize("workers", [1, 2])
def test_each_trace_of_a_directory_has_the_records_of_a_replay_of_it_alone(capsys, folder, config, tmp_path, workers):
    done = replayed(capsys, folder, "-c", config, "-o", tmp_path / "many", "--workers", workers)
    for name in ("1.pcap", "2.pcap", "3.pcap", "cut.pcap"):
        alone = tmp_path / "alone" / name
        replayed(capsys, folder / name, "-c", config, "-o", alone, "--quiet")
        for file in ("records.jsonl", "intervals.jsonl"):
            assert records(tmp_path / "many" / name / file) == records(alone / file)
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == sorted(
        ["1.pcap", "2.pcap", "3.pcap", "cut.pcap", "summary.json"]
    )
    assert done.status == 1


def test_what_failed_is_told_by_trace_and_stops_no_other(capsys, folder, config, tmp_path):
    done = replayed(capsys, folder, "-c", config, "-o", tmp_path)
    states = {line.split()[0]: line.split()[-1] for line in done.out.splitlines()[1:6]}
    assert states == {"1.pcap": "done", "2.pcap": "done", "3.pcap": "done", "bad.pcap": "failed", "cut.pcap": "damaged"}
    errors = done.err.splitlines()
    assert len(errors) == 3
    assert "bad.pcap: " in errors[0]
    assert "cut.pcap: byte" in errors[1]
    assert "1 of 5 traces failed; run again" in errors[2]


def test_what_is_done_is_not_done_again_until_something_changes(capsys, folder, config, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine)
    (mine / "bad.pcap").unlink()
    out = tmp_path / "out"

    def states(*more: object) -> list[str]:
        done = replayed(capsys, mine, "-c", config, "-o", out, *more)
        lines = sorted(done.out.splitlines()[1:5])  # by name, not by time
        return [line.split()[-1] if not line.endswith("before") else "before" for line in lines]

    assert states() == ["done", "done", "done", "damaged"]
    written = {path: path.stat().st_mtime_ns for path in out.glob("*/records.jsonl")}
    assert states() == ["before", "before", "before", "damaged"]
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/records.jsonl")} == written
    traces.write_trace(mine / "2.pcap", replay_runs.frames(seed=9, size=30))
    assert states() == ["before", "done", "before", "damaged"]
    assert states("--align", "first-packet") == ["done", "done", "done", "damaged"]


def test_a_pattern_is_of_traces_apart_and_files_are_parts_of_one(capsys, folder, config, tmp_path):
    replayed(capsys, folder / "[123].pcap", "-c", config, "-o", tmp_path / "pattern")
    assert sorted(path.name for path in (tmp_path / "pattern").iterdir() if path.is_dir()) == [
        "1.pcap", "2.pcap", "3.pcap",
    ]  # fmt: skip
    replayed(capsys, folder / "1.pcap", folder / "2.pcap", "-c", config, "-o", tmp_path / "one")
    assert (tmp_path / "one" / "records.jsonl").exists()
    replayed(capsys, folder / "1.pcap", folder / "2.pcap", "--each", "-c", config, "-o", tmp_path / "each")
    assert sorted(path.name for path in (tmp_path / "each").iterdir() if path.is_dir()) == ["1.pcap", "2.pcap"]


def test_traces_of_several_directories_keep_their_places(folder, config, tmp_path, capsys):
    for name in ("monday", "tuesday"):
        (tmp_path / "week" / name).mkdir(parents=True)
        shutil.copy(folder / "1.pcap", tmp_path / "week" / name)
    done = replayed(capsys, tmp_path / "week" / "**" / "*.pcap", "-c", config, "-o", tmp_path / "out")
    assert done.status == 0
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").glob("*/*/done.json")) == [
        "monday/1.pcap/done.json", "tuesday/1.pcap/done.json",
    ]  # fmt: skip


def test_a_trace_has_one_place_whatever_way_it_is_named(folder, config, tmp_path, capsys, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / "1.pcap", tmp_path / name / f"{name}.pcap")
    shutil.copy(folder / "2.pcap", tmp_path / "b" / "a.pcap")
    monkeypatch.chdir(tmp_path / "a")
    done = replayed(capsys, "a.pcap", "../b/b.pcap", "../a/a.pcap", "--each", "-c", config, "-o", tmp_path / "out")
    assert done.status == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["a.pcap", "b.pcap"]
    done = replayed(capsys, "a.pcap", "../b/a.pcap", "--each", "-c", config, "-o", tmp_path / "other")
    assert (done.status, (tmp_path / "other").exists()) == (2, False)
    assert "a.pcap: two traces have this name" in done.err


def test_packets_of_traces_with_one_name_are_kept_apart(folder, config, tmp_path, capsys):
    for name in ("monday", "tuesday"):
        (tmp_path / "week" / name).mkdir(parents=True)
        shutil.copy(folder / "1.pcap", tmp_path / "week" / name)
    pattern = tmp_path / "week" / "**" / "*.pcap"
    replayed(capsys, pattern, "-c", config, "-o", tmp_path / "out", "--write-pcap", tmp_path / "packets")
    assert len(list((tmp_path / "packets").glob("*/1.pcap/*.pcap"))) == 2 * len(
        list((tmp_path / "packets" / "monday" / "1.pcap").iterdir())
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [("empty", "empty: has no traces, neither in it nor below it"), ("*.pcap", "no file has such a name")],
)
def test_no_trace_at_all_is_one_line_and_nothing_is_written(capsys, config, tmp_path, argument, message):
    (tmp_path / "empty").mkdir()
    done = replayed(capsys, tmp_path / argument, "-c", config, "-o", tmp_path / "out")
    assert done.status == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_no_trace_could_be_replayed_with_is_told_once_and_nothing_is_written(capsys, folder, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("from trafficrefinery.api import FeatureClass\nclass Broken(FeatureClass):\n    pass\n")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({
        "FeaturePaths": [str(broken)],
        "Services": [{"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0"]}, "Collect": ["Broken"]}],
    }))  # fmt: skip
    done = replayed(capsys, folder, "-c", config, "-o", tmp_path / "out")
    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert "Broken.collect_features must be annotated" in done.err
    assert not (tmp_path / "out").exists()


def test_options_of_one_trace_are_refused(capsys, config, folder, tmp_path):
    done = replayed(capsys, folder, "-c", config, "-o", tmp_path / "out", "--truth", folder / "notes.txt")
    assert done.status == 2
    assert "--truth: cannot be combined with these options" in done.err
    with pytest.raises(UsageError, match="no such file; each trace is processed separately"):
        find_traces(["-"])


# On a cluster, one of whose workers is killed in the middle


@pytest.fixture
def cluster(tmp_path) -> Iterator[clusters.Cluster]:
    (tmp_path / "cluster").mkdir()
    with clusters.cluster(tmp_path / "cluster") as made:
        yield made


class _Killing:
    """Kills a worker as soon as something is done, and not all."""

    def __init__(self, made: clusters.Cluster, done: Callable[[], int]) -> None:
        self._made, self._done, self.killed_at = made, done, 0
        self._thread = threading.Thread(target=self._kill, daemon=True)
        self._thread.start()

    def _kill(self) -> None:
        until = time.monotonic() + 300
        while not self._done() and time.monotonic() < until:
            time.sleep(0.002)
        self._made.workers[0].kill()
        self.killed_at = self._done()

    def check(self, total: int) -> None:
        """It was killed in the middle."""
        self._thread.join(10)
        assert 0 < self.killed_at < total
        assert self._made.workers[0].wait(10)


def test_a_replay_on_a_cluster_survives_a_worker(capsys, cluster, config, tmp_path):
    mine, out = tmp_path / "traces", tmp_path / "out"
    mine.mkdir()
    for number in range(12):
        traces.write_trace(mine / f"{number:02}.pcap", replay_runs.frames(seed=number, size=60))
    killing = _Killing(cluster, lambda: len(list(out.glob("*/done.json"))))
    done = replayed(capsys, mine, "-c", config, "-o", out, "--cluster", cluster.address)
    assert (done.status, done.err) == (0, "")
    killing.check(12)
    replayed(capsys, mine, "-c", config, "-o", tmp_path / "here", "--quiet")
    for number in range(12):
        name = f"{number:02}.pcap/records.jsonl"
        assert records(out / name) == records(tmp_path / "here" / name)


def test_a_dataset_on_a_cluster_survives_a_worker_and_a_trace_that_is_none(capsys, cluster, sample_trace, tmp_path):
    mine = tmp_path / "traces"
    mine.mkdir()
    lines = ["file,session,video_id,resolution"]
    for number in range(4):
        (mine / f"{number}.pcap.zst").symlink_to(sample_trace)
        lines.append(f"{number}.pcap.zst,s{number},v{number},{(480, 1080)[number % 2]}")
    (mine / "bad.pcap").write_text("this is no trace at all")
    (mine / "labels.csv").write_text("\n".join([*lines, "bad.pcap,s4,v4,480"]) + "\n")
    there, here = tmp_path / "there.parquet", tmp_path / "here.parquet"
    killing = _Killing(cluster, lambda: len(list(tmp_path.glob("there.parquet.parts/*.parquet"))))
    assert _run(["dataset", "build", str(mine), "-c", str(VIDEO), "-o", str(there), "--cluster", cluster.address]) == 1
    killing.check(4)
    error = capsys.readouterr().err
    assert "bad.pcap: " in error
    assert "the trace is not in the table" in error
    assert list(json.loads(there.with_name("there.manifest.json").read_text())["failed"]) == ["bad.pcap"]
    _run(["dataset", "build", str(mine), "-c", str(VIDEO), "-o", str(here)])
    assert pl.read_parquet(there).equals(pl.read_parquet(here))


def test_a_profile_on_a_cluster_survives_a_worker(capsys, cluster, tmp_path):
    mine, out = tmp_path / "traces", tmp_path / "out"
    mine.mkdir()
    for number in range(5):
        traces.write_trace(mine / f"{number}.pcap", replay_runs.frames(seed=number, size=60))
    counting = tmp_path / "counting.json"
    counting.write_text(json.dumps({
        "Services": [{"Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": ["PacketCounters"]}]
    }))  # fmt: skip
    killing = _Killing(cluster, lambda: len(list(out.glob("*/done.json"))))
    arguments = ["profile", str(mine), "-c", str(counting), "-o", str(out), "--repetitions", "3"]
    assert _run([*arguments, "--cluster", cluster.address]) == 0
    killing.check(5)
    assert len(list(out.glob("*/report.html"))) == 5
    told = capsys.readouterr().out.splitlines()
    assert told[0].split()[:4] == ["trace", "packets", "flows", "state"]
    assert _run([*arguments]) == 0
    assert capsys.readouterr().out.count("done before") == 5


def test_an_exploration_on_a_cluster_survives_a_worker_and_finds_the_same(capsys, cluster, tmp_path):
    data = datasets.write(tmp_path / "data.parquet", sessions=16, intervals=5)

    def explore(out: Path, *more: str) -> list[dict[str, object]]:
        status = _run(["explore", str(data), "-o", str(out), "--trials", "10", "--no-compare", *more])
        assert status == 0, capsys.readouterr().err
        front = json.loads((out / "front.json").read_text())
        return [{name: point[name] for name in ("classes", "columns", "accuracy", "state_bytes")} for point in front]

    evaluated = tmp_path / "there" / "evaluated.jsonl"
    killing = _Killing(cluster, lambda: len(evaluated.read_bytes().splitlines()) if evaluated.exists() else 0)
    there = explore(tmp_path / "there", "--cluster", cluster.address)
    killing.check(len(evaluated.read_bytes().splitlines()))
    assert explore(tmp_path / "here") == there
