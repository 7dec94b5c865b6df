"""Whether what `explore` promises holds: its deployed point, in the daemon, on sessions of videos that it never saw.

    python benchmarks/held_out.py TRACES -c CONFIG -o DIR [--trials 30]

TRACES have labels of each interval, as `trafficrefinery lab run` makes them. Every fifth video is held out; the others are
explored; `trafficrefinery run` then reads the traces that were held out, merged by time, with `deploy/config.json`.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trafficrefinery.config import load_config
from trafficrefinery.costs.exploring import ExploreOptions, explore
from trafficrefinery.engine.plan import Plan
from trafficrefinery.models.confidence import in_brackets
from trafficrefinery.models.dataset.intervals import interval_labels_path, read_intervals
from trafficrefinery.models.dataset.labels import RESOLUTIONS
from trafficrefinery.models.training.scores import clustered_mean
from trafficrefinery.system.tasks import tasks

EVERY = 5
INTERVAL_S = 10.0


class Held(NamedTuple):
    """A trace that was held out: its video, its client and what was played from each interval's start."""

    trace: Path
    video_id: str
    client_ip: str
    played: dict[float, int]


def split(traces: Path, folder: Path) -> list[Held]:
    """Link the traces of most videos into a folder with labels; the others are returned."""
    folder.mkdir(parents=True, exist_ok=True)
    with (traces / "labels.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    out = set(sorted({row["video_id"] for row in rows})[::EVERY])
    kept, held = [], []
    for row in rows:
        trace = traces / row["file"]
        labels = interval_labels_path(trace)
        if row["video_id"] in out:
            truth = json.loads(labels.with_name(labels.name.replace(".labels.csv", ".truth.json")).read_bytes())
            played = {one.ts_start: one.resolution for one in read_intervals(labels, RESOLUTIONS)}
            known = {start: resolution for start, resolution in played.items() if resolution is not None}
            held.append(Held(trace, row["video_id"], truth["client_ip"], known))
            continue
        kept.append(row)
        for file in (trace, labels):
            link = folder / file.name
            if not link.exists():
                link.symlink_to(file.resolve())
    with (folder / "labels.csv").open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    return held


def in_the_daemon(config: Path, held: list[Held], out: Path) -> list[list[bool]]:
    """Of each session, whether each interval's resolution is told as it was played."""
    files = [part for one in held for part in ("--file", str(one.trace))]
    subprocess.run(
        [sys.executable, "-m", "trafficrefinery", "run", "-c", str(config), "-o", str(out), *files], check=True
    )
    told: dict[tuple[str, float], int] = {}
    for file in out.glob("inferences-*.jsonl"):
        for line in file.read_text().splitlines():
            one = json.loads(line)
            if one["target"] != "resolution":
                continue
            shares = one["probabilities"]
            told[one["client_ip"], one["ts_start"]] = int(max(shares, key=lambda level: shares[level]))
    return [
        [told[one.client_ip, start] == level for start, level in one.played.items() if (one.client_ip, start) in told]
        for one in held
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", type=Path)
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=30)
    given = parser.parse_args()
    held = split(given.traces, given.out / "traces")
    options = ExploreOptions(trials=given.trials, intervals_s=(INTERVAL_S,), compare=False)
    with tasks(2) as side_by_side:
        found = explore(given.out / "traces", given.out / "explored", load_config(given.config),
                        options._replace(tasks=side_by_side), print)  # fmt: skip
    deployed = given.out / "explored" / "deploy" / "config.json"
    right = in_the_daemon(deployed, held, given.out / "records")
    promised = found.summary["deployed"]
    states = {profile.state_dtype().itemsize for profile in Plan.of(load_config(deployed)).profiles}
    print(f"promised: accuracy {promised['accuracy']:.3f} {in_brackets(promised['accuracy_ci95'])}, "
          f"{found.recommended['state_bytes']:.0f} bytes a flow")  # fmt: skip
    videos = np.unique([one.video_id for one in held], return_inverse=True)[1]
    accuracy, between = clustered_mean(
        np.concatenate(right).astype(float), np.repeat(videos, [len(one) for one in right])
    )  # fmt: skip
    untold = sum(len(one.played) for one in held) - sum(map(len, right))
    print(f"reached in the daemon: accuracy {accuracy:.3f} {in_brackets(between)} of {len(held)} sessions, "
          f"{', '.join(map(str, states))} bytes a flow; {untold} intervals without a word")  # fmt: skip


if __name__ == "__main__":
    main()
