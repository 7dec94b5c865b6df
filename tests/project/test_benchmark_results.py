"""Results of benchmarks say when, on which commit and on what they were measured."""

from __future__ import annotations

import re
import sys

import pytest

from support.sources import ROOT

RESULTS = ROOT / "benchmarks" / "results"
SCRIPTS = sorted(
    {name for page in RESULTS.glob("*.md") for name in re.findall(r"benchmarks/(\w+\.py)", page.read_text())}
)


def test_the_stamp_has_date_commit_and_processor(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import measure

    one = r"[0-9a-f]{7,}(-changed)?|unknown"
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d, commit ({one}), .+ \(family .+\), \d+ cores\.", measure.stamp())
    assert re.search(rf"commit ({one}) against ({one}), ", measure.stamp(ROOT, ROOT))


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_makes_a_page_of_results_begins_with_the_stamp(script):
    assert "stamp(" in (ROOT / "benchmarks" / script).read_text()
