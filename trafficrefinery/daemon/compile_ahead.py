"""Compiling before the daemon runs, so that its first start does not wait for the compiler."""

from __future__ import annotations

from trafficrefinery.capture.live import warm_up_rings, warm_up_xdp
from trafficrefinery.config import Config
from trafficrefinery.engine.worker import Plan, Worker
from trafficrefinery.jit import compiling
from trafficrefinery.records.aggregate import Aggregator


def compile_ahead(config: Config) -> float:
    """Compile what `run` needs with a configuration, into the cache.

    Returns:
        Seconds that the compiler took; 0 when the cache had everything.
    """
    before_s, plan = compiling.seconds, Plan.of(config)
    Worker(plan, Aggregator(plan, 1)).warm_up()
    (warm_up_xdp if config.capture.source == "afxdp" else warm_up_rings)()
    return compiling.seconds - before_s
