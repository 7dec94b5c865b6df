"""Compiling before the daemon runs, so that its first start does not wait for the compiler."""

from __future__ import annotations

from trafficrefinery.config import Config
from trafficrefinery.engine.plan import Plan
from trafficrefinery.engine.worker import Worker
from trafficrefinery.jit import compiling
from trafficrefinery.records.aggregate import Aggregator

from .inputs import live_inputs


def compile_ahead(config: Config) -> float:
    """Compile what `run` needs with a configuration, into the cache.

    Returns:
        Seconds that the compiler took; 0 when the cache had everything.
    """
    before_s, plan = compiling.seconds, Plan.of(config)
    Worker(plan, Aggregator(plan, 1)).warm_up()
    live_inputs(config).warm_up()
    return compiling.seconds - before_s
