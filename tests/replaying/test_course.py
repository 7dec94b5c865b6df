"""The course assignment on its own trace, with the commands of the researcher's tutorial."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from support.naive.old_pickles import frame_pickle
from support.published import session_intervals
from trafficrefinery.cli.main import _run

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "researcher.md"
NETFLIX_ADDRESSES = 16  # 15 are published; 23.57.80.120 answers to the question for assets.nflxext.com


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A folder with the configuration of the page."""
    monkeypatch.chdir(tmp_path)
    block = PAGE.read_text().partition('title="course.json"\n')[2].partition("```")[0]
    Path("course.json").write_text(block)
    Path("video_dataset.pkl").write_bytes(frame_pickle(session_intervals()))


@pytest.mark.usefixtures("course")
def test_the_assignment_is_done_start_to_end(shared_data, capsys):
    trace = str(shared_data / "netflix_2018.pcap.zst")
    assert _run(["names", trace, "-c", "course.json", "--json", "--quiet"]) == 0
    names = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(bool(one["queries"]) for one in names) == 39
    netflix = [one for one in names if one["service"] == "Netflix"]
    assert len({address for one in netflix for address in one["addresses"]}) == NETFLIX_ADDRESSES

    arguments = ["--write-pcap", "packets", "--sessions", "--format", "parquet", "--quiet"]
    assert _run(["replay", trace, "-c", "course.json", "-o", "out", *arguments]) == 0
    assert Path("packets/Netflix.pcap").stat().st_size > 10_000_000
    records = pl.read_parquet("out/records.parquet").filter(pl.col("service") == "Netflix")
    assert records["PacketCounters.packets_down"].sum() > 80_000
    assert records["FlowStatistics.packets"].min() > 0
    assert records["InterArrivals.iat_s"].list.len().max() > 10
    assert records["SampledCounts.bytes_down"].list.sum().sum() == records["PacketCounters.bytes_down"].sum()
    assert 0 < records["VideoSegments.segment_download_rate"].max() < 10

    assert _run(["dataset", "import", "video_dataset.pkl", "-o", "course.parquet", "--quiet"]) == 0
    options = ["--collect", "PacketCounters,TCPCounters,VideoSegments", "--param", "max_depth=4,8"]
    more = ["--param", "n_estimators=10", "--no-compare", "--quiet"]
    assert _run(["train", "course.parquet", "-o", "model", *options, *more]) == 0
    metrics = json.loads(Path("model/metrics.json").read_text())
    assert metrics["accuracy"] > 0.9
    assert metrics["macro_f1"] > 0.9
    assert set(metrics["auc"]) == set(metrics["roc"]) == {"240", "360", "480", "720", "1080"}
    for curve in metrics["roc"].values():
        for rates in curve.values():
            assert (rates[0], rates[-1]) == (0, 1)
            assert rates == sorted(rates)
    assert _run(["plot", "session", "out/sessions.parquet", "--model", "model", "-o", "session.png"]) == 0
    assert Path("session.png").read_bytes().startswith(b"\x89PNG")
