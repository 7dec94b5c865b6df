"""Trains the models that come with the package, from the sessions of the lab and from the YouTube sessions of Requet.

    python benchmarks/train_models.py lab
    python benchmarks/train_models.py youtube DIR   # traces and labels.csv of the Requet dataset

Each bundle says in `card.md` and `metrics.json` what it was made from and how good it is. Requet: Gutterman et al.,
Requet: Real-Time QoE Detection for Encrypted YouTube Traffic (MMSys 2019).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from trafficrefinery.config import parse_config
from trafficrefinery.config.paths import models_dir
from trafficrefinery.models.training import TrainOptions, train
from trafficrefinery.replaying.labelled import BuildOptions, build
from trafficrefinery.system.tasks import tasks

LAB = Path(__file__).parent / "data" / "lab_sessions.parquet"
COLLECT = ("PacketCounters", "TCPCounters", "VideoSegments", "FirstSeconds")
"""What `configs/video.json` collects."""
LEVELS = ("144", "240", "360", "480", "720")
"""There is one session only at 1080."""
YOUTUBE = {
    "Interval": "10s",
    "Services": [
        {"Name": "YouTube", "Filter": {"Prefixes": ["0.0.0.0/0", "::/0"]}, "Collect": [*COLLECT]},
    ],
}
"""The traces hold no names (they are cut at 72 bytes) and nothing but the session and what a laptop does beside it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=["lab", "youtube"])
    parser.add_argument("traces", nargs="?", type=Path, help="of the YouTube sessions")
    parser.add_argument("--data", type=Path, help="keep the dataset of the YouTube sessions here")
    given = parser.parse_args()
    jobs = len(os.sched_getaffinity(0))
    if given.which == "lab":
        for name, target in (("lab", "resolution"), ("lab-startup", "startup")):
            options = TrainOptions(target, collect=COLLECT, name=name, jobs=jobs)
            print(name, train(LAB, models_dir() / name, options, print).metrics.get("accuracy", ""))
        return
    if given.traces is None:
        parser.error("name the directory with the traces")
    with tempfile.TemporaryDirectory() as folder:
        data = given.data or Path(folder) / "youtube_requet.parquet"
        with tasks(jobs) as side_by_side:
            build(parse_config(YOUTUBE, "youtube"), given.traces, data, BuildOptions(side_by_side))
        options = TrainOptions(features="app", collect=COLLECT, only=LEVELS, name="youtube", jobs=jobs)
        print("youtube", train(data, models_dir() / "youtube", options, print).metrics["accuracy"])


if __name__ == "__main__":
    main()
