"""The page of the study: figures, what the paper found, and whether ours agrees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = ("#4C72B0", "#DD8452", "#55A868", "#C44E52")
_UNBOUNDED = "Transport, unbounded"
_LINK_BYTES_PER_HOUR = 10e9 / 8 * 3600
Study = Mapping[str, Any]  # Any: JSON values


class Finding(NamedTuple):
    """A figure of the paper, what it says, what ours says, and whether that is the same."""

    figure: str
    title: str
    paper: str
    ours: str
    agrees: bool | None


def draw(study: Study, folder: Path) -> dict[str, str]:
    """Draw the figures that the data allow; figure → file."""
    quality, state = study["quality"], _mean_state(study["state"]["10"])
    drawn = {
        "2a": _bars(quality, ("precision", "recall"), "macro mean over resolutions"),
        "2b": _points(_worth(study), ("bytes an hour at 10 Gbit/s of this traffic", "precision, macro mean")),
        "5b": _steps(np.diff(study["cache_flows"]), "interval", "change of the flow cache, flows"),
        "6a": _distribution(study["state"]["10"], "state of a session at the end of an interval, bytes"),
        "6b": _distribution(study["batch_ns"], "processing of a packet, ns"),
        "6c": _sizes(study["storage"], "bytes an hour of the same traffic, as JSON lines"),
        "7b": _points({name: (state[name], one["accuracy"]) for name, one in quality.items()},
                      ("state of a session, bytes", "accuracy")),
        "8b": _points({f"{name} s": (_mean_state(study["state"][name])["All, unbounded"], one["accuracy_alone"])
                       for name, one in study["by_interval"].items()},
                      ("state of a session with a list of packets, bytes", "accuracy, without smoothing")),
    }  # fmt: skip
    if quality["All"]["startup_error_s"] is not None:
        error = ("state of a session, bytes", "startup delay, mean absolute error, s")
        drawn["7a"] = _points({name: (state[name], one["startup_error_s"]) for name, one in quality.items()}, error)
        drawn["8a"] = _points(
            {f"{name} s": (_mean_state(study["state"][name])["All, unbounded"], one["startup_error_s"])
             for name, one in study["by_interval"].items()}, ("state of a session with a list of packets, bytes",
                                                              error[1])
        )  # fmt: skip
    for name, figure in drawn.items():
        figure.savefig(folder / f"figure_{name}.png", dpi=120)
    return {name: f"figure_{name}.png" for name in sorted(drawn)}


def _worth(study: Study) -> dict[str, tuple[float, float]]:
    """Storage at 10 Gbit/s and precision of what can be kept; of packets, that of the best features."""
    stored, best = study["storage"], max(one["precision"] for one in study["quality"].values())
    scale = _LINK_BYTES_PER_HOUR / stored["pcap"]
    sizes = {name: stored[name] for name in ("Net", "App", "Net+App")}
    worth = {name: (size * scale, study["quality"][name]["precision"]) for name, size in sizes.items()}
    return {**worth, "pcap": (stored["pcap"] * scale, best)}


def _mean_state(sizes: Mapping[str, list[float]]) -> dict[str, float]:
    mean = {name: float(np.mean(values)) for name, values in sizes.items()}
    both = mean["Net"] + mean["App"]
    return {"Net": mean["Net"], "App": mean["App"], "Net+App": both, "All": both + mean["Transport"],
            "All, unbounded": both + mean[_UNBOUNDED]}  # fmt: skip


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)
    return figure, axes


def _bars(values: Mapping[str, Mapping[str, float]], names: tuple[str, ...], title: str) -> Figure:
    figure, axes = _figure("features", title)
    at = np.arange(len(values))
    for number, name in enumerate(names):
        bars = axes.bar(at + (number - 0.5) * 0.4, [one[name] for one in values.values()], 0.38, label=name,
                        color=_COLOURS[number])  # fmt: skip
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_xticks(at, list(values))
    axes.set_ylim(0, 1)
    axes.legend(ncols=2)
    return figure


def _distribution(values: Mapping[str, list[float]], title: str) -> Figure:
    figure, axes = _figure(title, "share")
    for number, (name, some) in enumerate(values.items()):
        ordered = np.sort(np.maximum(some, 0.1))
        axes.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), where="post", label=name,
                  color=f"C{number}")  # fmt: skip
    axes.set_xscale("log")
    axes.legend(fontsize=8)
    return figure


def _steps(values: Any, x: str, y: str) -> Figure:
    figure, axes = _figure(x, y)
    axes.step(np.arange(1, len(values) + 1), values, where="mid", color=_COLOURS[0])
    return figure


def _sizes(values: Mapping[str, float], title: str) -> Figure:
    figure, axes = _figure(title, "")
    axes.barh(list(values), list(values.values()), color=_COLOURS[0])
    axes.set_xscale("log")
    axes.invert_yaxis()
    return figure


def _points(values: Mapping[str, tuple[float, float]], titles: tuple[str, str]) -> Figure:
    figure, axes = _figure(*titles)
    for number, (name, (x, y)) in enumerate(values.items()):
        axes.scatter([x], [y], s=60, color=f"C{number}", label=name)
    axes.set_xscale("log")
    axes.margins(0.2)
    axes.legend(fontsize=8)
    return figure


def findings(study: Study) -> list[Finding]:
    """Each figure of the paper that there are data for."""
    quality, sizes = study["quality"], study["state"]["10"]
    mean, state = {name: float(np.mean(some)) for name, some in sizes.items()}, _mean_state(sizes)
    median_ns = {name: one["median"] for name, one in study["processing"].items()}
    accuracy = {name: one["accuracy"] for name, one in quality.items()}
    alone = {name: one["accuracy_alone"] for name, one in study["by_interval"].items()}
    made = [
        Finding("2a", "Precision and recall by feature set",
                "network features alone are the poorest; with application features more than 0.10 better",
                ", ".join(f"{name} {one['precision']:.2f} / {one['recall']:.2f}" for name, one in quality.items()),
                quality["Net+App"]["recall"] - quality["Net"]["recall"] > 0.1),
        Finding("2b", "Exploration and storage", "packets of an hour at 10 Gbit/s: 300 GB; features orders of magnitude less",
                ", ".join(f"{name} {size / 1e9:,.2f} GB" for name, (size, _) in _worth(study).items()),
                _worth(study)["Net+App"][0] < _worth(study)["pcap"][0] / 100),
        Finding("5b", "Flow cache between intervals", "100,000 new flows and more at once, with which packets are lost",
                f"{int(np.abs(np.diff(study['cache_flows'])).max())} at most in these traces, which are no link of a "
                "campus; what our flow cache takes is 1.7 to 4.5 million new flows a second (README)", None),
        Finding("6a", "State", "transport takes up to three orders of magnitude more than network and application",
                f"bounded: {mean['Transport'] / mean['Net']:.0f} times network; with a list of all packets: "
                f"{mean[_UNBOUNDED] / mean['Net']:,.0f} times on average, "
                f"{max(sizes[_UNBOUNDED]) / mean['Net']:,.0f} times at most", mean[_UNBOUNDED] / mean["Net"] > 100),
        Finding("6b", "Processing", "counters the least, all within about one order of magnitude",
                ", ".join(f"{name} {value:.0f} ns" for name, value in median_ns.items()),
                max(median_ns.values()) < 10 * max(min(median_ns.values()), 1.0)),
        Finding("6c", "Storage", "as state; far less than packets",
                f"records {sum(study['storage'][name] for name in ('Net', 'App', 'Transport')) / 1e6:.1f} MB an hour, "
                f"packets {study['storage']['pcap'] / 1e6:.0f} MB",
                sum(study["storage"][name] for name in ("Net", "App", "Transport")) < study["storage"]["pcap"] / 10),
        Finding("7b", "Accuracy against state", "application features basically as good as all",
                ", ".join(f"{name} {value:.3f} at {state[name]:,.0f} B" for name, value in accuracy.items()),
                accuracy["All"] - accuracy["App"] < 0.02),
        Finding("8b", "Accuracy by interval", "ten-second intervals are the worst",
                ", ".join(f"{name} s {value:.3f}" for name, value in alone.items()),
                min(alone, key=lambda name: alone[name]) == "10"),
    ]  # fmt: skip
    if quality["All"]["startup_error_s"] is not None:
        error = {name: one["startup_error_s"] for name, one in quality.items()}
        by = {name: one["startup_error_s"] for name, one in study["by_interval"].items()}
        made += [
            Finding("7a", "Startup delay against state", "network features alone are the worst",
                    ", ".join(f"{name} {value:.2f} s" for name, value in error.items()),
                    max(error, key=lambda name: error[name]) == "Net"),
            Finding("8a", "Startup delay by interval", "ten-second intervals are the best, by 70 ms",
                    ", ".join(f"{name} s: {value:.2f} s" for name, value in by.items()),
                    min(by, key=lambda name: by[name]) == "10"),
        ]  # fmt: skip
    return sorted(made)


_AGREES = {True: "yes", False: "no", None: "–"}


def write_page(path: Path, study: Study, figures: Mapping[str, str]) -> None:
    """Write the page."""
    lines = [
        "# The paper's study, on our data",
        "",
        (
            f"Generated by `benchmarks/paper/study.py` from {study['data']}, {study['sessions']} sessions, on "
            f"{study['machine'].get('cpu', 'one machine')}. Accuracies are of videos that a model has not seen."
        ),
        "",
        "| figure | the paper | ours | agrees |",
        "| --- | --- | --- | --- |",
        *(
            f"| {one.figure} {one.title} | {one.paper} | {one.ours} | {_AGREES[one.agrees]} |"
            for one in findings(study)
        ),
        "",
        (
            "Transport of ours is bounded. *Unbounded* is the original's way, as a feature class of this study "
            "(`packet_list.py`): a list of all packets of a flow, 30 bytes each. For figure 2b the storage of these "
            "traces is scaled to a link of 10 Gbit/s that carries nothing else. The features of startup delays are cut at "
            "ten seconds from the session's start whatever the interval is, so that figure 8a says how soon the first "
            "interval closes after them. Labels are of ten seconds each: shorter intervals share one, longer ones have "
            "that of most of their time."
        ),
        "",
    ]
    for name, file in figures.items():
        lines += [f"## Figure {name}", "", f"![Figure {name}]({file})", ""]
    path.write_text("\n".join(lines))
