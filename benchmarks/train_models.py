"""Trains the models that come with the package, from the sessions of the lab and from the YouTube sessions of Requet.

    python benchmarks/train_models.py lab
    python benchmarks/train_models.py youtube DIR   # traces and labels.csv of the Requet dataset
    python benchmarks/train_models.py page > benchmarks/results/models.md

Each bundle says in `card.md` and `metrics.json` what it was made from and how good it is. Requet: Gutterman et al.,
Requet: Real-Time QoE Detection for Encrypted YouTube Traffic (MMSys 2019).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from measure import stamp

from trafficrefinery.config import parse_config
from trafficrefinery.config.paths import models_dir
from trafficrefinery.models.confidence import in_brackets
from trafficrefinery.models.targets import Target
from trafficrefinery.models.training import TrainOptions, train
from trafficrefinery.replaying.labelled import BuildOptions, build
from trafficrefinery.system.tasks import tasks

LAB = Path(__file__).parent / "data" / "lab_sessions.parquet"
INTRODUCTION = """# How good the bundled models are

The models that come with the package are **examples of the method**, made from a lab and from one public dataset. They are
no claim about other sites, players or years. `benchmarks/train_models.py` trains them and writes this page.

Every figure is of rows whose group no model had seen that was asked: other videos, and each site, day or player
(`service`) left out of the training in turn, together with all videos that are played there. In brackets: 95 %, by
bootstrap over videos; of a whole column, over its values. The simple rule is thresholds on the one column that does best
on the same training data.
"""
EXAMPLE = (
    "An example of the method, made from {}: it is not a claim about other sites, players or years. Train a model on "
    "sessions of your own before you rely on an answer."
)
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


def page() -> str:
    """The figures of all bundled models, as their training found them."""
    return INTRODUCTION + "".join(of_model(folder) for folder in sorted(models_dir().iterdir()))


def of_model(folder: Path) -> str:
    """What a model reaches on other videos, and on what else changes."""
    metrics = json.loads((folder / "metrics.json").read_text())
    target = Target.from_json(metrics["target"], folder.name)
    name = "accuracy" if target.has_labels else "mean_absolute_error"
    what = "accuracy" if target.has_labels else f"mean absolute error, {target.measured_in}"
    lines = [
        f"\n## {folder.name}: {target.name}\n",
        f"| not trained on | sessions | {what} | simple rule |",
        "|---|---|---|---|",
    ]
    rows = {f"other videos ({metrics['groups']})": metrics}
    for column, found in metrics["left_out"].items():
        rows |= {f"{column} {value}": one for value, one in found["values"].items()}
        rows[f"each {column} in turn ({found['groups']})"] = found
    for of, one in rows.items():
        figures = [f"{each[name]:.3f} {in_brackets(each[f'{name}_ci95'])}" for each in (one, one["simple_rule"])]
        unknown = f" ({', '.join(one['unknown'])} in no row that was trained on)" if one.get("unknown") else ""
        lines.append(f"| {of}{unknown} | {one['sessions']} | {' | '.join(figures)} |")
    lines += ["", f"The simple rule reads `{metrics['simple_rule']['column']}` in most folds."]
    lines += [f"\nWarning of the training: {one}." for one in metrics["warnings"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=["lab", "youtube", "page"])
    parser.add_argument("traces", nargs="?", type=Path, help="of the YouTube sessions")
    parser.add_argument("--data", type=Path, help="keep the dataset of the YouTube sessions here")
    parser.add_argument("--compare", action=argparse.BooleanOptionalAction, default=True, help="feature sets as well")
    given = parser.parse_args()
    if given.which == "page":
        print(page(), end="")
        return
    print(stamp())
    if given.which == "lab":
        for name, target in (("lab-startup", "startup"), ("lab", "resolution")):
            options = TrainOptions(
                target, collect=COLLECT, name=name, compare=given.compare, leave_out=("service",),
                about=EXAMPLE.format("sessions of simulated players in a lab"),
            )  # fmt: skip
            print(name, train(LAB, models_dir() / name, options, print).metrics.get("accuracy", ""))
        return
    if given.traces is None:
        parser.error("name the directory with the traces")
    with tempfile.TemporaryDirectory() as folder:
        data = given.data or Path(folder) / "youtube_requet.parquet"
        with tasks(len(os.sched_getaffinity(0))) as side_by_side:
            build(parse_config(YOUTUBE, "youtube"), given.traces, data, BuildOptions(side_by_side))
        options = TrainOptions(
            features="app", collect=COLLECT, only=LEVELS, name="youtube", compare=given.compare,
            leave_out=("site", "day"),
            about=EXAMPLE.format("sessions of 2018 at two sites"),
        )  # fmt: skip
        print("youtube", train(data, models_dir() / "youtube", options, print).metrics["accuracy"])


if __name__ == "__main__":
    main()
