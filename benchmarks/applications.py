"""How well the application of a flow can be inferred from its first packets, and whether a simple rule does as well.

    python benchmarks/applications.py TRACES -o DIR [--packets 8]

TRACES is a directory of traces in which nDPI's `ndpiReader` (Debian: libndpi-bin) finds the labels: `label.protocol` is
its protocol (`TLS` of `TLS.Google`), `label.owner` who runs the server, as the name in the handshake says. Both are made
to a dataset of flows, whose features are those of the first packets of each flow and know no name and no address. All
figures are of traces that the model has not seen: folds are grouped by file, intervals are by bootstrap over files.
"""

from __future__ import annotations

import argparse
import csv
import ipaddress
import json
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from measure import stamp
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from trafficrefinery.capture.traces.discovery import is_named_as_trace
from trafficrefinery.config import parse_config
from trafficrefinery.models.training.dataset import Dataset, feature_set, read_dataset
from trafficrefinery.models.training.estimators import FORESTS
from trafficrefinery.models.training.folds import cross_outputs, grouped_folds, random_folds
from trafficrefinery.models.training.outoffold import problem_of
from trafficrefinery.replaying.labelled import build

LEAST_FILES = 6
"""A label that fewer traces have says nothing of traces that were not seen."""
COLLECT = ["PacketCounters", "PacketSizes", "InterArrivals", "PacketTimes", "FlowStatistics"]
SHAPES = "+".join(COLLECT)
_OWNERS = {
    "Google": ("Google", "GoogleServices", "YouTube", "YouTubeUpload", "PlayStore", "GMail", "GoogleDocs", "GoogleMaps",
               "GoogleHangoutDuo", "GoogleCloud", "GoogleDrive", "GoogleClassroom", "AdsAnalyticsTracking"),
    "Meta": ("Facebook", "FacebookMessenger", "FacebookVoip", "Instagram", "WhatsApp", "WhatsAppFiles"),
    "Amazon": ("AmazonAWS", "Amazon", "AmazonAlexa", "AmazonVideo", "Twitch"),
    "Apple": ("Apple", "AppleiCloud", "AppleStore", "AppleSiri", "ApplePush", "AppleiTunes"),
    "Microsoft": ("Microsoft", "Microsoft365", "Azure", "Teams", "Skype_Teams", "Outlook", "MS_OneDrive", "Xbox"),
    "Cloudflare": ("Cloudflare",),
}  # fmt: skip
_OWNER_OF = {name: owner for owner, names in _OWNERS.items() for name in names}
_NAMED = ("TLS", "QUIC")
_PROTOCOLS = {"6": "tcp", "17": "udp"}


def labels_of(trace: Path, scratch: Path) -> list[dict[str, str]]:
    """What nDPI says of the flows of a trace."""
    scratch.unlink(missing_ok=True)
    subprocess.run(["ndpiReader", "-q", "-i", trace, "-C", scratch], capture_output=True, check=False, timeout=120)
    if not scratch.exists():
        return []
    with scratch.open(newline="", errors="replace") as opened:
        rows = [row for row in csv.DictReader(opened) if row["protocol"] in _PROTOCOLS and _is_readable(row)]
    found = []
    for row in rows:
        protocol, _, application = row["ndpi_proto"].partition(".")
        owner = _OWNER_OF.get(application, "other") if protocol in _NAMED and row["server_name_sni"] else ""
        found.append({
            "file": trace.name, "client_ip": row["src_ip"], "client_port": row["src_port"], "server_ip": row["dst_ip"],
            "server_port": row["dst_port"], "protocol": _PROTOCOLS[row["protocol"]], "label.protocol": protocol,
            "label.owner": owner,
        })  # fmt: skip
    return found


def _is_readable(row: Mapping[str, str]) -> bool:
    """Whether both addresses are any; some of IPv6 are written wrongly."""
    try:
        return all(ipaddress.ip_address(row[name]) for name in ("src_ip", "dst_ip"))
    except ValueError:
        return False


def write_labels(traces: Path, folder: Path) -> None:
    """Links to the traces that have labels, and these; a label of few traces is left empty."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [one for trace in sorted(traces.iterdir()) if is_named_as_trace(trace)
             for one in labels_of(trace, folder / "ndpi.csv")]  # fmt: skip
    (folder / "ndpi.csv").unlink(missing_ok=True)
    by_tuple = {tuple(one[name] for name in list(one)[:6]): one for one in found}  # a later flow of the same ends
    for column in ("label.protocol", "label.owner"):
        files = defaultdict(set)
        for one in by_tuple.values():
            files[one[column]].add(one["file"])
        for one in by_tuple.values():
            if len(files[one[column]]) < LEAST_FILES or one[column] == "Unknown":
                one[column] = ""
    kept = [one for one in by_tuple.values() if one["label.protocol"] or one["label.owner"]]
    for name in {one["file"] for one in kept}:
        link = folder / name
        if not link.exists():
            link.symlink_to((traces / name).resolve())
    with (folder / "labels.csv").open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    targets = [{"name": name, "kind": "classes", "unit": "flow", "when": {"packets": 1}}
               for name in ("protocol", "owner")]  # fmt: skip
    (folder / "targets.json").write_text(json.dumps(targets))


class Rule(NamedTuple):
    """A way to infer labels.

    Args:
        told: the label that it infers for each row.
    """

    name: str
    told: NDArray[Any]


def rules_of(dataset: Dataset) -> list[Rule]:
    """The model on shapes of packets, the same with the port, and the simple rules beside them; each out of fold."""
    frame = pl.DataFrame(dataset.table.select(["protocol", "server_port"]))
    ports = [f"{protocol} {port}" for protocol, port in frame.iter_rows()]
    made = []
    for name, features in (("forest on shapes of packets", SHAPES), ("forest on shapes and port", f"flow+{SHAPES}")):
        problem = problem_of(dataset, feature_set(dataset, features), seed=1)
        folds = grouped_folds(problem)
        outputs, _ = cross_outputs(problem, [FORESTS[0].of(dataset.target)], folds)
        made.append(Rule(name, problem.classes[outputs.argmax(axis=1)]))
        if features == SHAPES:
            outputs, _ = cross_outputs(problem, [FORESTS[0].of(dataset.target)], random_folds(problem))
            made.append(Rule("the same, flows split at random", problem.classes[outputs.argmax(axis=1)]))
    made.append(Rule("most common label of a port", _by_fold(dataset, folds, lambda rows: _of_ports(ports, rows))))
    made.append(Rule("most common label", _by_fold(dataset, folds, lambda rows: ["" for _ in rows])))
    return made


def _of_ports(ports: list[str], rows: NDArray[np.intp]) -> list[str]:
    return [ports[row] for row in rows.tolist()]


def _by_fold(dataset: Dataset, folds: Any, keys_of: Callable[[NDArray[np.intp]], list[str]]) -> NDArray[Any]:
    """The most common label of rows with the same key in the training rows; of all, for a key that these lack."""
    told = np.zeros(len(dataset.truth), np.int64)
    for train, test in folds:
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        for key, label in zip(keys_of(train), dataset.truth[train].tolist(), strict=True):
            counts[key][label] += 1
        common = Counter(dataset.truth[train].tolist()).most_common(1)[0][0]
        told[test] = [counts[key].most_common(1)[0][0] if key in counts else common for key in keys_of(test)]
    return told


def with_interval(figure: Callable[[NDArray[np.intp]], float], groups: NDArray[np.int64]) -> str:
    """A figure of rows with its 95 % interval by bootstrap over groups."""
    rows = [np.flatnonzero(groups == one) for one in np.unique(groups)]
    rng = np.random.default_rng(1)
    drawn = [figure(np.concatenate([rows[one] for one in rng.integers(0, len(rows), len(rows))])) for _ in range(500)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{figure(np.arange(len(groups))):.3f} ({low:.3f} to {high:.3f})"


def page_of(dataset: Dataset) -> list[str]:
    """The figures of a target, as Markdown."""
    truth, rules = dataset.truth, rules_of(dataset)
    lines = [f"## {dataset.target.name}", "",
             f"{len(truth):,} flows of {len(np.unique(dataset.groups))} traces.", "",
             "| told by | accuracy | macro-F1 | accuracy, mean of traces |", "| --- | --- | --- | --- |"]  # fmt: skip
    for rule in rules:
        right = rule.told == truth

        def macro(rows: NDArray[np.intp], rule: Rule = rule) -> float:
            return float(f1_score(truth[rows], rule.told[rows], average="macro", zero_division=0))

        def of_traces(rows: NDArray[np.intp], right: NDArray[np.bool_] = right) -> float:
            number = np.unique(dataset.groups[rows], return_inverse=True)[1]
            return float((np.bincount(number, right[rows]) / np.bincount(number)).mean())

        accuracy = with_interval(lambda rows, right=right: float(right[rows].mean()), dataset.groups)
        lines.append(f"| {rule.name} | {accuracy} | {with_interval(macro, dataset.groups)} | "
                     f"{with_interval(of_traces, dataset.groups)} |")  # fmt: skip
    forest, ports = rules[0].told, rules[-2].told
    lines += ["", "| label | flows | traces | recall, shapes | precision, shapes | recall, port |",
              "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for number, label in enumerate(dataset.labels):
        own, told = truth == number, forest == number
        precision = f"{(own & told).sum() / told.sum():.2f}" if told.any() else ""
        lines.append(
            f"| {label} | {own.sum():,} | {len(np.unique(dataset.groups[own]))} | {told[own].mean():.2f} | {precision} | "
            f"{(ports[own] == number).mean():.2f} |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--packets", type=int, default=8)
    given = parser.parse_args()
    if shutil.which("ndpiReader") is None:
        raise SystemExit("ndpiReader is not installed (Debian: apt-get install libndpi-bin)")
    config = parse_config({"Interval": "1m", "Services": [{
        "Name": "All", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": COLLECT,
        "FirstPackets": given.packets,
    }]})  # fmt: skip
    write_labels(given.traces, given.out / "traces")
    data = given.out / "data.parquet"
    build(config, given.out / "traces", data)
    print("# The application of a flow from its first packets, without names\n")
    print(f"{stamp()}\n\nMade by `benchmarks/applications.py`; the first {given.packets} packets of each flow.\n")
    for name in ("protocol", "owner"):
        print("\n".join(page_of(read_dataset(data, name))))


if __name__ == "__main__":
    main()
