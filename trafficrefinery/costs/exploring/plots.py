"""Pictures of an exploration: what accuracy costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

_COLOURS = (
    "#4C72B0",
    "#DD8452",
    "#55A868",
    "#C44E52",
    "#8172B3",
    "#937860",
    "#DA8BC3",
    "#8C8C8C",
    "#CCB974",
    "#64B5CD",
)
_STATE, _NS = "state of a flow, bytes", "processing of a packet, ns"


def draw(
    frame: pl.DataFrame, growth: Mapping[str, Sequence[float]], chosen: Mapping[str, Any] | None, folder: Path
) -> list[tuple[Path, str]]:
    """Draw all that there is to see; files and what they show.

    Args:
        growth: of each way to search, the hypervolume after each trial.
        chosen: the recommended point.
    """
    drawn = [
        ("accuracy_state", "Accuracy against state; the line is the Pareto front.",
         _scatter(frame, ("state_bytes", _STATE), ("accuracy", "accuracy"), "on_front", chosen)),
        ("accuracy_ns", "Accuracy against processing; the line is the Pareto front.",
         _scatter(frame, ("ns_per_packet", _NS), ("accuracy", "accuracy"), "on_front_of_ns", chosen)),
    ]  # fmt: skip
    if frame["startup_error_s"].null_count() < len(frame):
        error = ("startup_error_s", "startup delay, mean absolute error, s")
        drawn.append(("startup_state", "Error of the startup delay against state; the line is the Pareto front.",
                      _scatter(frame, ("state_bytes", _STATE), error, "on_front_of_startup", chosen)))  # fmt: skip
    if frame["interval_s"].n_unique() > 1:
        drawn.append(("intervals", "The best of each interval and set of feature classes.", _intervals(frame)))
    drawn.append(("hypervolume", "How soon each way to search finds what is good; more is better.", _growth(growth)))
    made = []
    for name, caption, figure in drawn:
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=130)
        made.append((path, caption))
    return made


def label_of(classes: Sequence[str]) -> str:
    """Feature classes, short."""
    short = {"PacketCounters": "packets", "PacketTimes": "times", "TCPCounters": "TCP", "LatencyCounters": "latency",
             "VideoSegments": "segments", "FirstSeconds": "start"}  # fmt: skip
    return " + ".join(short.get(name, name) for name in classes)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)
    return figure, axes


def _scatter(
    frame: pl.DataFrame, x: tuple[str, str], y: tuple[str, str], front: str, chosen: Mapping[str, Any] | None
) -> Figure:
    figure, axes = _figure()
    there = frame.drop_nulls([x[0], y[0]])
    sets = sorted({tuple(one) for one in there["classes"].to_list()}, key=lambda one: (len(one), one))
    for number, classes in enumerate(sets):
        part = there.filter(pl.Series([tuple(one) == classes for one in there["classes"].to_list()]))
        axes.scatter(part[x[0]], part[y[0]], s=22, alpha=0.6, color=_COLOURS[number % len(_COLOURS)],
                     marker="os^Dv"[number // len(_COLOURS) % 5], linewidths=0, label=label_of(classes))  # fmt: skip
    best = there.filter(front).sort(x[0])
    axes.plot(best[x[0]], best[y[0]], color="0.2", linewidth=1.2, drawstyle="steps-post", zorder=3)
    axes.scatter(best[x[0]], best[y[0]], s=34, facecolors="none", edgecolors="0.2", zorder=4)
    if chosen is not None and chosen.get(y[0]) is not None:
        axes.scatter([chosen[x[0]]], [chosen[y[0]]], s=190, marker="*", color="#D62728", edgecolors="white", zorder=5,
                     label="recommended")  # fmt: skip
    axes.set(xlabel=x[1], ylabel=y[1])
    if x[0] == "state_bytes":
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _intervals(frame: pl.DataFrame) -> Figure:
    figure, axes = _figure()
    best = (
        frame.with_columns(pl.col("classes").list.join("+").alias("set"))
        .sort("accuracy", descending=True, maintain_order=True)
        .group_by("set", "interval_s", maintain_order=True).first().sort("set", "interval_s")
    )  # fmt: skip
    lengths = sorted(frame["interval_s"].unique().to_list())
    at = {length: number for number, length in enumerate(lengths)}
    for number, ((name,), part) in enumerate(best.group_by("set", maintain_order=True)):
        axes.plot([at[one] for one in part["interval_s"]], part["accuracy"], marker="o",
                  color=_COLOURS[number % len(_COLOURS)], label=label_of(str(name).split("+")))  # fmt: skip
    axes.set_xticks(range(len(lengths)), [f"{length:g}" for length in lengths])
    axes.set(xlabel="interval, s", ylabel="accuracy")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _growth(growth: Mapping[str, Sequence[float]]) -> Figure:
    figure, axes = _figure()
    for number, (way, values) in enumerate(growth.items()):
        axes.plot(range(1, len(values) + 1), values, color=_COLOURS[number], label=way, drawstyle="steps-post")
    axes.set(xlabel="representations tried", ylabel="hypervolume", ylim=(0, None))
    axes.legend(frameon=False)
    return figure
