"""What flows keep in memory: of each service, at the ends of intervals, and of sessions."""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.api import state_dtype
from trafficrefinery.costs.measure.clock import Distribution
from trafficrefinery.engine.flow_cache import HEADER
from trafficrefinery.engine.plan import Plan

from .trace_totals import Occupancy


def state_of(plan: Plan, seen: Occupancy) -> dict[str, Any]:
    """`services` and `flow_cache` of the costs. A session here is a client of a service with flows in the cache."""
    services = {}
    for number, service in enumerate(plan.config.services):
        flows = np.array(seen.flows.get(number, []), np.int64)
        if not flows.any():
            continue
        profile = plan.profiles[plan.service_profile[number]]
        state_bytes = profile.state_dtype().itemsize
        counts = np.array(sorted(seen.of_sessions[number].items()), np.int64)
        weights = counts[:, 1].astype(np.float64)
        services[service.name] = {
            "interval_s": profile.interval_ns / 1e9,
            "classes": [cls.__name__ for cls in profile.classes],
            "state_bytes_per_flow": state_bytes,
            "flows_at_interval_ends": flows.tolist(),
            "state_bytes_at_interval_ends": (flows * state_bytes).tolist(),
            "peak_flows": int(flows.max()), "peak_state_bytes": int(flows.max()) * state_bytes,
            "flows_of_session": Distribution.of(counts[:, 0].astype(np.float64), weights)._asdict(),
            "state_bytes_of_session": Distribution.of(counts[:, 0] * float(state_bytes), weights)._asdict(),
            "state_bytes_of_session_by_class": {
                cls.__name__: Distribution.of(counts[:, 0] * float(state_dtype(cls).itemsize), weights)._asdict()
                for cls in profile.classes
            },
            "sessions_by_flows": counts.tolist(),
        }  # fmt: skip
    peak = max(seen.all_flows, default=0)
    return {
        "services": services,
        "flow_cache": {
            "interval_starts_s": [start / 1e9 for start in seen.starts_ns],
            "all_flows_at_interval_ends": seen.all_flows, "all_flows_peak": peak,
            "header_bytes_per_flow": HEADER.itemsize,
            "peak_flows_with_state": seen.peak_flows,
            "peak_state_bytes": max(
                (sum(service["state_bytes_at_interval_ends"][at] for service in services.values())
                 for at in range(len(seen.starts_ns))), default=0),
            "peak_declared_bytes": seen.peak_bytes, "peak_resident_bytes": seen.peak_resident_bytes,
        },
    }  # fmt: skip
