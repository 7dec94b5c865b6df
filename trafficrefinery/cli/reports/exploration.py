"""The report of `explore`: what a representation costs, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trafficrefinery.errors import UsageError
from trafficrefinery.models.confidence import in_brackets
from trafficrefinery.models.targets import UNITS
from trafficrefinery.records.inferences import SESSION

from . import style
from .numbers import NONE
from .page import Block, Bullets, Note, Page, PageSection, PageTable, Picture, read_result

_COMMAND = "trafficrefinery explore"
_HYPERVOLUME = (
    "The hypervolume is the share of the square that the points dominate between always inferring the most common "
    "label and inferring every one, and between the state of all feature classes and none."
)
_STATE, _NS = "state of a flow, bytes", "processing of a packet, ns"
_SHORT = {"PacketCounters": "packets", "PacketTimes": "times", "TCPCounters": "TCP", "LatencyCounters": "latency",
          "VideoSegments": "segments", "FirstSeconds": "start"}  # fmt: skip


def page_of(folder: Path) -> Page:
    """Which representation is worth its cost, from the directory of `explore`.

    Raises:
        UsageError: there is no `explore.json`, `front.json` or `table.parquet`, or one cannot be read.
    """

    summary = read_result(folder / "explore.json", _COMMAND)
    points = read_result(folder / "front.json", _COMMAND)
    try:
        frame = pl.read_parquet(folder / "table.parquet")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UsageError(f"{folder / 'table.parquet'}: cannot be read: {error}") from error
    data = summary["data"]
    return Page(
        "What a representation costs, and what it is worth", f"{data['name']}, {_units(data)}",
        summary["made"], [
            PageSection("Recommended", _recommended(summary)),
            PageSection("Pareto front of accuracy and state", _front(points, frame, summary["recommended"])),
            PageSection("How the searches did", _searches(summary["searches"])),
        ], _tiles(summary), _facts(summary), summary["machine"]["trafficrefinery"],
    )  # fmt: skip


def label_of(classes: Sequence[str]) -> str:
    """Feature classes, short."""
    return " + ".join(_SHORT.get(name, name) for name in classes)


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    point, tried = summary["recommended"], (f"{summary['representations']:,}", "representations evaluated")
    if point is None:
        return [tried]
    return [
        (f"{summary['deployed']['accuracy']:.1%}", "accuracy of the recommended model"),
        (f"{point['state_bytes']:,} B", "state of a flow"), (f"{point['ns_per_packet']:.1f} ns", "per packet"), tried,
    ]  # fmt: skip


def _recommended(summary: Mapping[str, Any]) -> list[Block]:
    point, deployed = summary["recommended"], summary["deployed"]
    if point is None:
        return [f"Nothing: {summary['no_point']}."]
    by = deployed.get("group", summary["data"].get("unit", SESSION))  # explorations of before were by session
    accuracy = f"{deployed['accuracy']:.3f} {in_brackets(deployed['accuracy_ci95'])}, 95 %, by {by},"
    return [
        _table([point]),
        f"The model in deploy/ has an accuracy of {accuracy} on groups that it has not seen.",
        *([Bullets(summary["warnings"])] if summary.get("warnings") else []),
        *(
            Note(f"The model of {name} has {its:.3f} ± {error:.3f} on the same features.")
            for name, (its, error) in summary.get("also", {}).items()
        ),
        Note(f"Its {len(point['columns'])} columns: {', '.join(point['columns'])}."),
    ]


def _table(points: Sequence[Mapping[str, Any]]) -> PageTable:
    titles = ["feature classes", "columns", "interval", "trees ×\ndepth", "accuracy", "macro-F1", "state", "ns/packet",
              "record"]  # fmt: skip
    rows = []
    for point in points:
        packets = "" if point["first_packets"] is None else f", first {point['first_packets']} packets"
        rows.append([
            label_of(point["classes"]), str(len(point["columns"])), f"{point['interval_s']:g} s{packets}",
            f"{point['trees']} × {point['tree_depth']}", f"{point['accuracy']:.3f} ± {point['accuracy_se']:.3f}",
            f"{point['macro_f1']:.3f}", f"{point['state_bytes']:,.0f} B", f"{point['ns_per_packet']:.1f}",
            f"{point['record_bytes']:,.0f} B",
        ])  # fmt: skip
    if any(point["startup_error_s"] is not None for point in points):
        titles.append("startup\nerror")
        for row, point in zip(rows, points, strict=True):
            row.append(NONE if point["startup_error_s"] is None else f"{point['startup_error_s']:.2f} s")
    return PageTable(titles, rows)


def _front(points: Sequence[Mapping[str, Any]], frame: pl.DataFrame, chosen: Mapping[str, Any] | None) -> list[Block]:
    blocks: list[Block] = [
        Note("No other representation that was tried is as accurate with less state."),
        _table(points),
    ]
    accuracy, state = ("accuracy", "accuracy"), ("state_bytes", _STATE)
    drawn = [
        ("accuracy_state", "Accuracy against state", "The line is the Pareto front.", (state, accuracy, "on_front")),
        ("accuracy_ns", "Accuracy against processing", "The line is the Pareto front.",
         (("ns_per_packet", _NS), accuracy, "on_front_of_ns")),
    ]  # fmt: skip
    if frame["startup_error_s"].null_count() < len(frame):
        error = ("startup_error_s", "startup delay, mean absolute error, s")
        drawn.append(("startup_state", "Error of the startup delay against state", "The line is the Pareto front.",
                      (state, error, "on_front_of_startup")))  # fmt: skip
    for name, title, caption, (x, y, front) in drawn:
        blocks.append(Picture(name, title, f"{title}. {caption}", partial(_scatter, frame, x, y, front, chosen)))
    if frame["interval_s"].n_unique() > 1:
        caption = "The most accurate model of each interval and set of feature classes."
        blocks.append(Picture("intervals", "Accuracy by interval", caption, partial(_intervals, frame)))
    return blocks


def _searches(searches: Mapping[str, Any]) -> list[Block]:
    growth = {way: one["growth"] for way, one in searches.items()}
    caption = "How soon each search finds what is good; a larger hypervolume is better."
    return [
        PageTable(("search", "representations", "hypervolume"),
              [[way, f"{one['trials']:,}", f"{one['hypervolume']:.4f}"] for way, one in searches.items()]),
        Note(_HYPERVOLUME),
        Picture("hypervolume", "Hypervolume", caption, partial(_growth, growth)),
    ]  # fmt: skip


def _units(data: Mapping[str, Any]) -> str:
    """How many; explorations of before there were other units are of sessions."""
    return f"{data['sessions']} {UNITS[data.get('unit', SESSION)].many}"


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = summary["data"]
    lengths = ", ".join(f"{one:g}" for one in data["intervals_s"])
    content = f"{data['name']}: {_units(data)}, {data['columns']} columns; intervals of {lengths} s"
    return [
        ("data", content), ("collected", ", ".join(data["collected"])), ("costs", f"measured on {data['measured_on']}"),
        *(("how", note) for note in summary["notes"]),
        *((name, str(value)) for name, value in summary["machine"].items()),
    ]  # fmt: skip


def _scatter(
    frame: pl.DataFrame, x: tuple[str, str], y: tuple[str, str], front: str, chosen: Mapping[str, Any] | None
) -> Figure:
    figure, axes = style.axes(4.8)
    there = frame.drop_nulls([x[0], y[0]])
    sets = sorted({tuple(one) for one in there["classes"].to_list()}, key=lambda one: (len(one), one))
    for number, classes in enumerate(sets):
        part = there.filter(pl.Series([tuple(one) == classes for one in there["classes"].to_list()]))
        axes.scatter(part[x[0]], part[y[0]], s=26, alpha=0.7, color=style.colour(number), marker=style.marker(number),
                     linewidths=0, label=label_of(classes))  # fmt: skip
    best = there.filter(front).sort(x[0])
    axes.plot(best[x[0]], best[y[0]], color=style.INK, linewidth=1.2, drawstyle="steps-post", zorder=3)
    axes.scatter(best[x[0]], best[y[0]], s=38, facecolors="none", edgecolors=style.INK, zorder=4)
    if chosen is not None and chosen.get(y[0]) is not None:
        axes.scatter([chosen[x[0]]], [chosen[y[0]]], s=190, marker="*", color=style.RED, edgecolors=style.PAPER,
                     zorder=5, label="recommended")  # fmt: skip
    axes.set(xlabel=x[1], ylabel=y[1])
    if x[0] == "state_bytes":
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    style.legend_beside(axes)
    return figure


def _intervals(frame: pl.DataFrame) -> Figure:
    figure, axes = style.axes(4.8)
    best = (
        frame.with_columns(pl.col("classes").list.join("+").alias("set"))
        .sort("accuracy", descending=True, maintain_order=True)
        .group_by("set", "interval_s", maintain_order=True).first().sort("set", "interval_s")
    )  # fmt: skip
    lengths = sorted(frame["interval_s"].unique().to_list())
    at = {length: number for number, length in enumerate(lengths)}
    for number, ((name,), part) in enumerate(best.group_by("set", maintain_order=True)):
        axes.plot([at[one] for one in part["interval_s"]], part["accuracy"], marker="o", color=style.colour(number),
                  linestyle=style.line(number), label=label_of(str(name).split("+")))  # fmt: skip
    axes.set_xticks(range(len(lengths)), [f"{length:g}" for length in lengths])
    axes.set(xlabel="interval, s", ylabel="accuracy")
    style.legend_beside(axes)
    return figure


def _growth(growth: Mapping[str, Sequence[float]]) -> Figure:
    figure, axes = style.axes(3.6)
    for number, (way, values) in enumerate(growth.items()):
        axes.plot(range(1, len(values) + 1), values, color=style.colour(number), linestyle=style.line(number),
                  label=way, drawstyle="steps-post")  # fmt: skip
    axes.set(xlabel="representations tried", ylabel="hypervolume", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.legend_beside(axes)
    return figure
