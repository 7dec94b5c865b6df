"""Records of traces that other programs read as well, for comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trafficrefinery.capture.traces.reader import TraceReader
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Settings, Worker
from trafficrefinery.errors import TraceError
from trafficrefinery.records.aggregate import Aggregator
from trafficrefinery.records.sinks.files import encode_json_lines


def replayed(plan: Plan, path: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The records of a trace, up to damage, and the worker's counters."""
    aggregator = Aggregator(plan, 1)
    worker = Worker(plan, aggregator, Settings(judges_time=False))  # some traces were joined from others, years apart
    try:
        with TraceReader([path]) as reader:
            for block in reader:
                worker.process(block)
    except TraceError:
        pass
    worker.finish()
    lines = b"".join(map(encode_json_lines, aggregator.ready())).splitlines()
    return list(map(json.loads, lines)), worker.counters
