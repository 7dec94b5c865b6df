"""The recipe for a source of names does what it says: applied to a copy of the package, it names flows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.test_name_evidence import CONFIG, HELLO, NAME, OPEN, cut, frames
from support.recipes import recipe_files
from support.sources import PACKAGE, ROOT
from support.traces import write_trace

REQUEST = b"GET /index HTTP/1.1\r\nUser-Agent: x\r\nhost:  Plain.Video.example:8080\r\nAccept: *\r\n\r\n"
WITHOUT_HOST = b"GET / HTTP/1.0\r\n\r\n"
PLAIN, TLS, NOT_READ = ("http_host", "plain.video.example"), ("sni", NAME), ("prefix", None)


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A folder with a copy of the package that has the recipe's two files."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "features", folder / "features")
    files = recipe_files()
    module, entry = (
        files[f"{where}.py"] for where in ("trafficrefinery/services/names/http", "in trafficrefinery/services/sources")
    )
    (folder / PACKAGE / "services" / "names" / "http.py").write_text(module)
    imported, _, entered = entry.partition("\n\n")
    table = folder / PACKAGE / "services" / "sources.py"
    made = table.read_text()
    made = made.replace("from .names.quic_datagrams", f"{imported}\nfrom .names.quic_datagrams")
    made = re.sub(r"( +NameSource\(\"dns\".*\n)", lambda found: found[1] + entered, made)
    table.write_text(made)
    return folder


def run(folder: Path, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "TRAFFICREFINERY_JIT": "off"}
    done = subprocess.run(
        [sys.executable, "-m", PACKAGE, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(folder: Path, segments, reads: dict[str, bool]) -> tuple[Path, Path]:
    config = folder / "config.json"
    config.write_text(json.dumps({**CONFIG, "ServiceMap": reads}))
    return config, write_trace(folder / "trace.pcap", frames([*OPEN, *segments]))


@pytest.mark.parametrize(
    ("segments", "reads", "expected"),
    [
        (cut(REQUEST), {"HTTP": True}, PLAIN),
        (cut(REQUEST, 30, 50), {"HTTP": True}, PLAIN),
        (cut(REQUEST, 30, 50)[::-1], {"HTTP": True}, PLAIN),
        (cut(REQUEST), {}, NOT_READ),
        (cut(WITHOUT_HOST + HELLO), {"HTTP": True}, TLS),  # a stronger source is asked first
        (cut(HELLO, 100), {"HTTP": True}, TLS),
    ],
    ids=["one segment", "three", "in any order", "off", "TLS behind", "TLS"],
)
def test_a_flow_is_named_by_the_host_of_its_request(extended, tmp_path, segments, reads, expected):
    config, trace = write(tmp_path, segments, reads)
    run(extended, "replay", trace, "-c", config, "-o", tmp_path / "out", "--quiet")
    lines = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == "flow"]
    assert [(record["matched_by"], record["domain"]) for record in records] == [expected]
    intervals = [record for record in map(json.loads, lines) if record["kind"] == "interval"]
    assert all(record["http_over_budget"] == 0 for record in intervals)


def test_names_lists_it(extended, tmp_path):
    config, trace = write(tmp_path, cut(REQUEST), {"HTTP": True})
    said = run(extended, "names", trace, "-c", config, "--quiet")
    assert "Named" in said
    assert "plain.video.example  http" in re.sub("  +", "  ", said)
    assert "0 DNS query names, 0 TLS, 0 QUIC and 1 HTTP server names" in said
