"""`trafficrefinery profile`: everything that a configuration costs on some traces, as one table of figures."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from trafficrefinery.capture.traces.discovery import each_once
from trafficrefinery.config import Config
from trafficrefinery.costs.measure import classes
from trafficrefinery.costs.measure.clock import Distribution, Repeated
from trafficrefinery.costs.measure.combined_costs import WholeCosts, whole
from trafficrefinery.costs.measure.machine import machine
from trafficrefinery.costs.measure.measuring import Processing
from trafficrefinery.costs.measure.recording import MOST_PACKETS, record
from trafficrefinery.engine.plan import Plan
from trafficrefinery.errors import TrafficRefineryError, UsageError
from trafficrefinery.records.summary import Summary, make
from trafficrefinery.replaying.job import compiler_reported
from trafficrefinery.system.progress import Progress, silent

from . import projecting
from .live import Recorded
from .models import ModelRuns
from .netflow import ACTIVE_TIMEOUT_S, netflow
from .state import state_of
from .storage import Storage, Stored
from .trace_totals import TraceWalk, Traffic, blocks_of

SCHEMA = 1
MEASURING, EXPORTING = "measuring", "NetFlow"
MARGIN = 0.15
"""How far the sum of the isolated costs may lie from what everything together takes."""
_MOST_BYTES = 1 << 30
_HOUR_S = 3600
_ENOUGH_PACKETS, _FEWEST, _MOST = 4_000_000, 5, 25


class ProfileOptions(NamedTuple):
    """How to profile, see `trafficrefinery profile --help`.

    Args:
        repetitions: None: from 5 to 25, the more the shorter the trace is.
    """

    models: tuple[Path, ...] = ()
    link_bits_per_s: float = 10e9
    repetitions: int | None = None
    most_packets: int = MOST_PACKETS


def profile(
    config: Config, traces: Sequence[str | Path], folder: Path, options: ProfileOptions = ProfileOptions(),  # noqa: B008 (immutable)
    progress: Progress = silent, recorded: Recorded | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure what a configuration costs on some traces: JSON values, as in `costs.json`.

    Args:
        folder: where files are written meanwhile.
        recorded: of live packets, when the trace is a sample of them.

    Raises:
        UsageError, ConfigError, FeatureError, BundleError: before anything is measured.
        TraceError: a trace cannot be read at all.
        TrafficRefineryError: there is nothing to measure.
    """
    return profile_and_summary(config, traces, folder, options, progress, recorded)[0]


def profile_and_summary(
    config: Config, traces: Sequence[str | Path], folder: Path, options: ProfileOptions = ProfileOptions(),  # noqa: B008 (immutable)
    progress: Progress = silent, recorded: Recorded | None = None,
) -> tuple[dict[str, Any], Summary]:  # fmt: skip
    """As `profile`, and what there is to know of the traces, which is in the costs as `summary` too."""
    paths, left_out = each_once([str(path) for path in traces])
    _refuse_pipes(paths)
    started, load = datetime.now(UTC), os.getloadavg()
    plan = Plan.of(config)
    models = ModelRuns(options.models, plan)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".profile-") as made, compiler_reported(progress):
        walk = TraceWalk(plan, paths, progress)
        with Storage(Path(made), plan) as storage:
            for batch in storage.take(walk.batches()):
                models.take(batch)
            stored, stored_alone = storage.close()
        _see_that_there_is_something(walk, paths, config)
        progress(EXPORTING)
        exported = netflow(paths, Path(made))
    progress(MEASURING)
    blocks = blocks_of(paths, options.most_packets, _MOST_BYTES, config)
    packets = record(plan, blocks, options.most_packets)
    repetitions = options.repetitions or _enough_repetitions(walk.traffic.packets)
    alone = classes.each_class(plan, packets, repetitions)
    joint = classes.each_profile(plan, packets, repetitions)
    call_ns = classes.call_ns(plan, packets, repetitions)
    together = whole(plan, blocks, call_ns, repetitions)
    seconds = walk.traffic.seconds
    costs: dict[str, Any] = {
        "schema": SCHEMA, "kind": "costs", "started": started.isoformat(timespec="seconds"), "machine": machine(),
        "load_before": load, "repetitions": repetitions,
        "trace": {
            "names": [Path(path).name for path in paths] if recorded is None else [f"live: {recorded.interface}"],
            "sha256": [_digest(path) for path in paths], "packets": walk.traffic.packets, "seconds": seconds,
            "wire_bytes": walk.traffic.wire_bytes, "attributed": walk.counters["attributed"],
            "flows": walk.counters["flows_new"], "records": stored.records,
            "measured_packets": together.packets, "damage": [str(error) for error in walk.damage],
            "lost_packets": None if recorded is None else recorded.lost,
        },
        "configuration": {"file": config.file, "classes": list(alone), "not_measured":
                          classes.classes_not_measured(plan, alone)},
        "classes": {name: _of_class(found, stored_alone[name], seconds) for name, found in alone.items()},
        "steps": {name: _of_class(found, None, seconds) for name, found in joint.items()},
        **state_of(plan, walk.occupancy),
        "shared": _of_shared(together),
        "end_to_end": _end_to_end(together, alone, joint),
        "storage": {
            "all_classes": _stored(stored, seconds),
            "traffic": _traffic(walk.traffic),
            "netflow": {**exported._asdict(), "active_timeout_s": ACTIVE_TIMEOUT_S,
                        "bytes_per_hour": _per_hour(exported.bytes, seconds)},
        },
        "models": [
            {**found._asdict(), "one_us": _repeated(found.one_us), "many_us": _repeated(found.many_us),
             "latency_ms": found.latency_ms._asdict()} for found in models.costs()
        ],
    }  # fmt: skip
    costs["projection"] = projecting.project(costs, options.link_bits_per_s)
    costs["load_after"] = os.getloadavg()
    costs["took_s"] = (datetime.now(UTC) - started).total_seconds()
    found = make(
        "profile", config, walk.reading._replace(left_out=left_out), damage=walk.damage, counted=walk.counters,
        services=walk.totals, models=options.models, extra={"records": stored.records},
    )  # fmt: skip
    costs["summary"] = found.content
    return costs, found


def _enough_repetitions(packets: int) -> int:
    """Short traces are measured more often: what disturbs for a moment is more of them."""
    return min(max(_ENOUGH_PACKETS // packets, _FEWEST), _MOST)


def _refuse_pipes(paths: Sequence[str]) -> None:
    for path in paths:
        if path == "-" or Path(path).is_fifo():
            raise UsageError(f"{path}: a trace is read several times, and a pipe can be read only once; give a file")


def _see_that_there_is_something(walk: TraceWalk, paths: Sequence[str], config: Config) -> None:
    if not walk.traffic.packets:
        raise walk.damage[0] if walk.damage else TrafficRefineryError(f"{', '.join(paths)}: no packets")
    if not walk.counters["attributed"]:
        raise TrafficRefineryError(
            f"{', '.join(paths)}: no packet belongs to a service in {config.file}; `trafficrefinery names` lists the "
            "names in a trace, and the service of each"
        )


def _digest(path: str) -> str:
    with Path(path).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _repeated(found: Repeated) -> dict[str, Any]:
    return {"value": found.value, "noise": found.noise, "repetitions": list(found.values)}


def _distribution(found: Distribution) -> dict[str, float]:
    return found._asdict()


def _per_hour(size: float, seconds: float) -> float | None:
    """Nothing for a trace that is too short to say."""
    return size * _HOUR_S / seconds if seconds >= projecting.SHORTEST_S else None


def _of_class(found: classes.ClassCosts, stored: Stored | None, seconds: float) -> dict[str, Any]:
    measured: Processing = found.processing
    costs = {
        "services": found.services, "state_bytes": found.state_bytes, "flows": found.flows,
        "packets": measured.packets, "ns_per_packet": _repeated(measured.packet_ns),
        "ns_per_packet_by_batch": _distribution(measured.batches), "batch_ns": measured.batch_ns.round(3).tolist(),
        "collect_ns_per_flow": _repeated(measured.collect_ns), "rows": measured.rows.total,
    }  # fmt: skip
    return costs if stored is None else {**costs, "storage": _stored(stored, seconds)}


def _stored(stored: Stored, seconds: float) -> dict[str, Any]:
    return {
        "records": stored.records, "bytes": stored.sizes,
        "bytes_per_record": {form: stored.bytes_of_record(form) for form in stored.sizes},
        "bytes_per_hour": {form: _per_hour(size, seconds) for form, size in stored.sizes.items()},
    }  # fmt: skip


def _traffic(traffic: Traffic) -> dict[str, Any]:
    sizes = {"pcap": traffic.pcap_bytes, "captured": traffic.captured_bytes, "headers": traffic.headers_bytes}
    return {f"{name}_bytes": size for name, size in sizes.items()} | {
        f"{name}_bytes_per_hour": _per_hour(size, traffic.seconds) for name, size in sizes.items()
    }


def _of_shared(found: WholeCosts) -> dict[str, Any]:
    shared = found.shared
    return {
        "total_ns": _repeated(shared.total_ns), "parse_ns": _repeated(shared.parse_ns),
        "names_ns": _repeated(shared.names_ns), "call_ns": _repeated(shared.call_ns), "lookup_ns": shared.lookup_ns,
        "first_packet_ns": _repeated(shared.first_packet_ns),
    }  # fmt: skip


def _end_to_end(
    found: WholeCosts, alone: dict[str, classes.ClassCosts], joint: dict[str, classes.ClassCosts]
) -> dict[str, Any]:
    """Whether the parts add up. Of each class, what its own packets and rows take counts, spread over all packets."""
    packets = found.packets

    def sum_of(costs: dict[str, classes.ClassCosts]) -> tuple[float, float]:
        adding = sum(one.processing.packet_ns.value * one.processing.packets for one in costs.values()) / packets
        collecting = (
            sum(one.processing.collect_ns.value * one.processing.rows.total for one in costs.values()) / packets
        )
        return adding, collecting

    adding, collecting = sum_of(alone)
    together, _ = sum_of(joint)
    measured = found.end_to_end_ns
    predicted = found.shared.total_ns.value + adding + collecting
    return {
        "measured_ns": measured.value, "noise": measured.noise, "repetitions": list(measured.values),
        "packets": packets, "attributed": found.attributed, "rows": found.rows, "flows": found.flows,
        "classes_ns": adding, "collect_ns": collecting, "one_step_ns": together, "predicted_ns": predicted,
        "predicted_to_measured": predicted / measured.value, "within_margin": abs(predicted / measured.value - 1)
        <= MARGIN, "margin": MARGIN,
    }  # fmt: skip
