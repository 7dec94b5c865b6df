"""Golden replays: the records of the sample trace for each configuration of the project, line by line.

After a wanted change: `pytest tests/golden/test_golden.py --update-golden`, and read the difference before it is committed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from support.replays import replay_files
from trafficrefinery.config import load_config, parse_config
from trafficrefinery.config.paths import configs_dir
from trafficrefinery.engine.plan import Plan

GOLDEN = Path(__file__).parent
CONFIGS = sorted(path.stem for path in configs_dir().glob("*.json"))


def records_of(name: str, trace: Path) -> list[str]:
    """The lines of a configuration; the sensor is by default this machine's name."""
    config = parse_config({**load_config(configs_dir() / f"{name}.json").to_dict(), "Sensor": "golden"})
    return replay_files(Plan.of(config), [trace]).lines


def difference(ours: list[str], golden: list[str]) -> str:
    """The first record that differs, and in what; nothing when all are equal."""
    for number, (mine, theirs) in enumerate(zip(ours, golden, strict=False), 1):
        if mine != theirs:
            fields = sorted(set(flat(json.loads(mine))) ^ set(flat(json.loads(theirs))))
            return f"line {number}: {fields or 'written differently'}"
    return "" if len(ours) == len(golden) else f"{len(ours)} records in place of {len(golden)}"


def flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in flat(item, f"{path}.{key}".lstrip("."))]
    return [(path, json.dumps(value))]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_records_of_the_sample_are_the_golden_ones(name, sample_trace, request):
    if not sample_trace.exists():
        pytest.skip("there is no samples/video.pcap.zst")
    lines = records_of(name, sample_trace)
    path = GOLDEN / f"{name}.jsonl.zst"
    if request.config.getoption("--update-golden"):
        path.write_bytes(zstandard.compress("\n".join(lines).encode(), 19))
    golden = zstandard.decompress(path.read_bytes()).decode()
    assert difference(lines, golden.split("\n") if golden else []) == ""


def test_every_golden_file_has_its_configuration():
    assert sorted(path.name.removesuffix(".jsonl.zst") for path in GOLDEN.glob("*.zst")) == CONFIGS


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [lines[0].replace('"packets_up":', '"packets_up":1'), *lines[1:]], "line 1: [('features."),
        (lambda lines: [lines[0].replace(":", ": ", 1), *lines[1:]], "line 1: written differently"),
        (lambda lines: lines[:-1], "records in place of"),
        (lambda lines: [], "0 records in place of"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1: "),
    ],
    ids=["a number", "the form", "the last record", "all", "the order"],
)
def test_a_golden_replay_fails_when_the_records_change(change, told):
    golden = zstandard.decompress((GOLDEN / "all.jsonl.zst").read_bytes()).decode().split("\n")
    assert told in difference(change(golden), golden)
    assert difference(golden, golden) == ""
