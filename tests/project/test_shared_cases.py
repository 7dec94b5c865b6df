"""Small inputs that were wrong once, with the right value of each; they are kept outside of the project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trafficrefinery.config import load_config
from trafficrefinery.replaying.names import read_names
from trafficrefinery.replaying.single import replay_to_directory


@pytest.fixture(scope="module")
def cases(root) -> Path:
    folder = root.parent / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip("../shared/cases is absent")
    return folder


@pytest.fixture
def replay(cases, tmp_path):
    def replay(trace: str, config: str) -> tuple[list[dict[str, Any]], Any]:
        result = replay_to_directory(load_config(cases / config), [cases / trace], tmp_path)
        return list(lines(tmp_path / "records.jsonl")), result

    return replay


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        yield from map(json.loads, file)


def test_a_hello_behind_an_interval_boundary(replay):
    records, _ = replay("hello_after_boundary.pcap", "named.json")
    first, *later = [(r["service"], r["matched_by"], r["domain"]) for r in records]
    assert first == ("All", "prefix", None)
    assert later
    assert set(later) == {("Named", "sni", "late.video.example")}


@pytest.mark.parametrize(("config", "services"), [("named.json", ["Named"] * 2), ("two.json", ["Video", "Mail"])])
def test_two_connections_of_one_5_tuple(replay, config, services):
    records, _ = replay("port_reuse.pcap", config)
    assert [(r["service"], r["domain"], r["end"]) for r in records] == [
        (services[0], "a.video.example", "fin"),
        (services[1], "mail.other.example", "fin"),
    ]
    assert len({r["flow_id"] for r in records}) == 2
    assert records[1]["features"]["PacketCounters"]["bytes_down"] == 28_888


def test_one_stray_time(replay):
    records, result = replay("ts_one_future.pcap", "named.json")
    assert len({r["ts_start"] for r in records}) == 6
    assert max(r["ts_end"] for r in records) < 2_000_000_000
    assert result.counters["bad_time"] == 1


def test_a_time_at_the_end_of_its_range(replay):
    records, result = replay("ts_max.pcapng", "named.json")
    assert records
    assert result.counters["bad_time"] == 2
    assert sum(sum(r["features"]["PacketCounters"][f"packets_{s}"] for s in ("up", "down")) for r in records) == (
        result.counters["packets"] - 2
    )


@pytest.mark.parametrize("config", ["names_cname.json", "names_prefix.json"])
def test_names_and_replay_say_the_same(cases, replay, config):
    records, _ = replay("names_cname.pcap", config)
    found = {name.name: name for name in read_names([cases / "names_cname.pcap"], load_config(cases / config))[0]}
    with_flows = {name.service for name in found.values() if name.flows}
    assert with_flows
    assert with_flows == {r["service"] for r in records if r["server_ip"] != "10.0.0.53"}  # the resolver has no name
