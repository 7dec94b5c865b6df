"""Crafted names against the shipped expressions: what a packet costs does not depend on its name."""

from __future__ import annotations

import time

from support.replays import replay_files
from trafficrefinery.config import load_config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.jit import MODE


def test_names_crafted_against_a_shipped_expression_cost_what_others_do(shared_cases, root):
    """They took 5 ms each; reading the hello takes most of what is left."""
    plan = Plan.of(load_config(root / "configs" / "video.json"))
    replay_files(plan, [shared_cases / "redos_clienthello.pcap"])
    start = time.process_time()
    run = replay_files(plan, [shared_cases / "redos_clienthello.pcap"])
    if MODE == "on":
        assert time.process_time() - start < 0.05 + run.counters["packets"] * 200e-6
    assert run.counters["no_service"] == run.counters["packets"]
