"""A profile of each of many traces; see `replaying.batch`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trafficrefinery.replaying.batch import Settings


def profile_one(trace: str, folder: Path, settings: Settings) -> dict[str, Any]:
    """Profile a trace; see `profile.profile`."""
    from .profile import profile_and_summary  # which takes long to import
    from .writing import write_costs

    costs, found = profile_and_summary(settings.config, [trace], folder, settings.options)
    write_costs(costs, folder)
    records = costs["storage"]["all_classes"]["bytes_per_record"]
    return {
        "packets": costs["trace"]["packets"], "flows": costs["trace"]["flows"],
        "state_bytes": max(one["state_bytes"] for one in costs["steps"].values()),
        "ns_per_packet": costs["end_to_end"]["measured_ns"], "record_bytes": records["jsonl"],
        "damage": costs["trace"]["damage"], "findings": list(found.findings),
    }  # fmt: skip
