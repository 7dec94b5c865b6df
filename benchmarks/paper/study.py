"""The paper's study on traces of ours: its figures with our system, and beside each whether it agrees.

    python benchmarks/paper/study.py TRACES -c CONFIG -o DIR [--labels labels.csv] [--profile TRACE...]

TRACES are labelled as for `trafficrefinery dataset build`. Writes the figures, `study.json`, and the page `README.md`.
Paper: Bronzino et al., Traffic Refinery: Cost-Aware Data Representation for Machine Learning on Network Traffic
(POMACS 5(3), 2021), sections 2, 5.2 and 5.3.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pages import draw, write_page

from trafficrefinery import replay
from trafficrefinery.api.sessions import APPLICATION, NETWORK, TRANSPORT
from trafficrefinery.config import Config, load_config, parse_config
from trafficrefinery.costs.exploring import ExploreOptions
from trafficrefinery.costs.exploring.evaluating import startup_candidate
from trafficrefinery.costs.exploring.explored_tables import Sources, read_sources
from trafficrefinery.costs.exploring.space import SIZES, Representation, Sampling
from trafficrefinery.costs.exploring.variants import collected
from trafficrefinery.costs.profiling.profile import profile
from trafficrefinery.models.training.dataset import STARTUP_COLUMNS
from trafficrefinery.models.training.folds import cross_outputs, grouped_folds
from trafficrefinery.models.training.outoffold import problem_of, score
from trafficrefinery.system.tasks import tasks

GROUPS = {"Net": (NETWORK,), "App": (APPLICATION,), "Net+App": (NETWORK, APPLICATION),
          "All": (NETWORK, TRANSPORT, APPLICATION)}  # fmt: skip
CLASSES = {"Net": ("PacketCounters",), "App": ("VideoSegments",), "Transport": ("TCPCounters", "LatencyCounters")}
UNBOUNDED, PACKET_LIST = "Transport, unbounded", "PacketList"
MEASURED_PACKETS = 4096
"""Of a flow, in whose list the time of a packet is measured: states are copied for it."""
TRACES = 20
"""That the state of sessions is measured on, evenly of all."""


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path)
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--profile", type=Path, nargs="*", help="traces for processing and storage; default: three")
    given = parser.parse_args()
    config = load_config(given.config)
    with tasks(len(os.sched_getaffinity(0))) as side_by_side:
        options = ExploreOptions(labels=given.labels, tasks=side_by_side)
        sources = read_sources(given.traces, given.out, config, options, lambda _: None)
    measured = given.profile or some(sources.traces, 3)
    costs = profile(config, measured, given.out)
    listed = profile(with_packet_list(config, 10, MEASURED_PACKETS), measured, given.out)
    costs["classes"][UNBOUNDED] = listed["classes"][PACKET_LIST]
    main_source = next(source for source in sources.datasets if source.interval_s == 10)
    state = {source: state_of(sources.traces, config, source, costs) for source in sources.datasets}
    quality = {name: quality_of(sources, main_source, groups) for name, groups in GROUPS.items()}
    by_interval = {f"{source.interval_s:g}": quality_of(sources, source, GROUPS["All"]) for source in state}
    study: dict[str, Any] = {
        "data": given.traces.name, "sessions": len(np.unique(sources.datasets[main_source].sessions)),
        "machine": costs["machine"], "collected": list(collected(config)),
        "quality": quality, "by_interval": by_interval,
        "state": {f"{source.interval_s:g}": sizes for source, sizes in state.items()},
        "processing": {name: one["ns_per_packet_by_batch"] for name, one in costs["classes"].items()},
        "cache_flows": costs["flow_cache"]["all_flows_at_interval_ends"],
        "batch_ns": {name: one["batch_ns"] for name, one in costs["classes"].items()},
        "storage": storage_of(costs),
    }  # fmt: skip
    (given.out / "study.json").write_text(json.dumps(study, indent=1) + "\n")
    write_page(given.out / "README.md", study, draw(study, given.out))


def quality_of(sources: Sources, source: Sampling, groups: tuple[str, ...]) -> dict[str, float | None]:
    """Precision, recall and accuracy of resolutions, and the error of startup delays, out of fold."""
    dataset = sources.datasets[source]
    columns = tuple(name for name in sources.columns() if name.split(".")[0] in groups)
    told = tuple(name for name in columns if not name.startswith(STARTUP_COLUMNS))
    size = Representation(source, columns, *SIZES[-1])
    problem = problem_of(dataset, told, 1)
    outputs = cross_outputs(problem, [size.candidate(len(problem.y))], grouped_folds(problem))
    scores = score(dataset, problem, *outputs)
    found: dict[str, float | None] = {
        "accuracy": scores["accuracy"], "accuracy_alone": scores["without_smoothing"]["accuracy"],
        **{name: float(np.mean([one[name] for one in scores["per_class"].values()]))
           for name in ("precision", "recall")},
        "low": scores["accuracy_ci95"][0], "high": scores["accuracy_ci95"][1], "startup_error_s": None,
    }  # fmt: skip
    if source in sources.startups:
        startup = sources.startups[source]
        problem = problem_of(startup, columns, 1)
        delays, _ = cross_outputs(problem, [startup_candidate(size)], grouped_folds(problem))
        found["startup_error_s"] = float(np.abs(delays[:, 1] - problem.y).mean())
    return found


def some(traces: Sequence[Path], count: int) -> list[Path]:
    """A few traces, evenly of all."""
    return list(traces[:: max(len(traces) // count, 1)])[:count]


def with_packet_list(config: Config, interval_s: float, packets: int = 65536) -> Config:
    """The services of a configuration with nothing but counters and the list of packets, of which a flow has room."""
    content = config.to_dict()
    content["Interval"] = f"{interval_s:g}s"
    content["FlowCache"] = {**content.get("FlowCache", {}), "MaxFlows": 500}  # the room of a flow is for long lists
    content["FeaturePaths"] = [str(Path(__file__).with_name("packet_list.py"))]
    for service in content["Services"]:
        service["Collect"] = ["PacketCounters", {PACKET_LIST: {"Packets": packets}}]
        service.pop("Interval", None)
    return parse_config(content, config.file)


def state_of(traces: Sequence[Path], config: Config, source: Sampling, costs: dict[str, Any]) -> dict[str, list[float]]:
    """Bytes of each session at the end of each interval: of groups of classes, and of lists of all packets."""
    listing = with_packet_list(config, source.interval_s).to_dict()
    tables = [
        replay(trace, config=listing).to_polars().group_by("client_ip", "ts_end").agg(
            pl.len().alias("flows"), pl.col(f"{PACKET_LIST}.kept_bytes").sum().alias("kept_bytes")
        )
        for trace in some(traces, TRACES)
    ]  # fmt: skip
    sessions = pl.concat(tables)
    sizes = {
        name: sessions["flows"]
        * sum(costs["classes"][cls]["state_bytes"] for cls in classes if cls in costs["classes"])
        for name, classes in CLASSES.items()
    }
    return {name: column.to_list() for name, column in {**sizes, UNBOUNDED: sessions["kept_bytes"]}.items()}


def storage_of(costs: dict[str, Any]) -> dict[str, float]:
    """Bytes an hour of the traffic that was profiled."""
    stored = {
        name: sum(costs["classes"][cls]["storage"]["bytes_per_hour"]["jsonl"] for cls in classes
                  if cls in costs["classes"])
        for name, classes in CLASSES.items()
    }  # fmt: skip
    stored["Net+App"] = stored["Net"] + stored["App"]
    traffic, netflow = costs["storage"]["traffic"], costs["storage"]["netflow"]
    stored |= {"pcap": traffic["pcap_bytes_per_hour"], "pcap, headers": traffic["headers_bytes_per_hour"]}
    return stored | ({"NetFlow": netflow["bytes_per_hour"]} if netflow["bytes_per_hour"] else {})


if __name__ == "__main__":
    main()
