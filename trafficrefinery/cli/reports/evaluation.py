"""The report of `evaluate`, and of any model: how good it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from trafficrefinery import __version__
from trafficrefinery.models.confidence import in_brackets
from trafficrefinery.models.targets import RESOLUTION, STARTUP, UNITS, Target

from . import style
from .numbers import NONE
from .page import Block, Bullets, Note, Page, PageSection, PageTable, Picture, read_result

_KINDS = {"forest": "random forest", "boosted": "gradient boosting"}
_ERROR = "median_absolute_error"
_SCORES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "mean_level_error": "mean level error",
           "ece": "calibration error", _ERROR: "median error", "mean_absolute_error": "mean error"}  # fmt: skip
_TITLES = {RESOLUTION.name: "Resolution", STARTUP.name: "Startup delay"}


def page_of(folder: Path) -> Page:
    """How good a model is, from the directory of `evaluate` or of a model.

    Raises:
        UsageError: there is no `metrics.json`, or it cannot be read.
    """
    path = folder / "metrics.json"
    metrics = _of_now(read_result(path, "trafficrefinery evaluate` or `trafficrefinery train"))
    manifest = read_result(folder / "manifest.json", "") if (folder / "manifest.json").exists() else {}
    training, versions = manifest.get("training", {}), manifest.get("versions", {})
    made = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    name = metrics.get("bundle", manifest.get("name", folder.name))
    return Page(
        f"How good the model {name} is", metrics.get("data", training.get("data", "")), metrics.get("made", made),
        list(_sections(metrics)), _tiles(metrics), list(_facts(metrics, training)),
        metrics.get("version", versions.get("trafficrefinery", __version__)),
    )  # fmt: skip


def _of_now(metrics: Any) -> Any:  # JSON values
    """Metrics as they are written now; those of version 0.1 have no target, and quantities in seconds."""
    if not isinstance(metrics, dict):
        return metrics
    renamed = {name.replace("absolute_error_s", "absolute_error"): _of_now(value) for name, value in metrics.items()}
    if "target" not in metrics and ("confusion" in metrics or (_ERROR in renamed and "sessions" in metrics)):
        renamed["target"] = (RESOLUTION if "confusion" in metrics else STARTUP).as_json()
    return renamed


def _target(metrics: Mapping[str, Any]) -> Target:
    return Target.from_json(metrics["target"], "metrics.json: target")


def _unseen(metrics: Mapping[str, Any]) -> str:
    """What the groups are called."""
    return "videos" if metrics.get("group", ", ".join(_target(metrics).groups)) == "video_id" else "groups"


def _sections(metrics: Mapping[str, Any]) -> Iterator[PageSection]:
    """What the metrics of a model say."""
    title = _TITLES.get(_target(metrics).name, _target(metrics).name)
    told = _labels(metrics) if "accuracy" in metrics else [_quantity(metrics)]
    yield PageSection(title, [*told[:1], *_set_apart(metrics), *told[1:]])
    if metrics.get("warnings"):
        yield PageSection("Warnings", [Bullets(metrics["warnings"])])
    for column, found in metrics.get("left_out", {}).items():
        yield PageSection(f"Each {column} apart", _left_out(metrics, column, found))
    if metrics.get("feature_sets"):
        yield PageSection("Feature sets", _feature_sets(metrics))
    if metrics.get("services"):
        yield PageSection("Services", [_services(metrics["services"])])


def _by(metrics: Mapping[str, Any]) -> str:
    """By what intervals are; those of models of before were by session."""
    return str(metrics["group"]) if "groups" in metrics else _target(metrics).unit


def _set_apart(metrics: Mapping[str, Any]) -> Iterator[str]:
    apart, many = metrics.get("set_apart"), UNITS[_target(metrics).unit].many
    if apart is None and "set_apart" in metrics:
        yield "The model does not say what it was trained on: only the very same file would have been noticed."
    elif apart and apart["rows"]:
        why = ", ".join(f"{name}: {count:,}" for name, count in apart["why"].items())
        what = f"{apart['rows']:,} rows of {apart['sessions']:,} {many} were trained on, or are like those ({why})"
        yield (
            f"{what}; nothing else is left: these are the figures of models trained in the same way, each on other "
            "groups than it is asked for." if metrics.get("out_of_fold") else f"{what}; they are set apart."
        )  # fmt: skip


def _rule(one: Mapping[str, Any], digits: int = 3) -> str:
    """The figure of the simple rule, with its interval."""
    name = "accuracy" if "accuracy" in one else "mean_absolute_error"
    return f"{one[name]:.{digits}f} {in_brackets(one[f'{name}_ci95'], digits)}"


def _left_out(metrics: Mapping[str, Any], column: str, found: Mapping[str, Any]) -> list[Block]:
    """What is reached on each value of a column by models that have not seen it."""
    target, name = _target(metrics), "accuracy" if "accuracy" in metrics else "mean_absolute_error"
    trained = "accuracy" in found or name in found
    titles = [column, UNITS[target.unit].many, "rows", _in_words(name, target), "simple rule", "trained on", ""]
    rows = []
    for value, one in found["values"].items():
        if "why" in one:
            rows.append([value, NONE, f"{one['rows']:,}", NONE, NONE, NONE, one["why"]])
            continue
        unknown = f"not trained on: {', '.join(map(target.shown, one['unknown']))}" if one.get("unknown") else ""
        if one.get("trained_on"):
            unknown = f"other rows of this {column} were trained on"
        rows.append([
            value, f"{one['sessions']:,}", f"{one['rows']:,}", f"{one[name]:.3f} {in_brackets(one[f'{name}_ci95'])}",
            _rule(one["simple_rule"]) if trained else NONE, f"{one['trained_rows']:,}" if trained else NONE, unknown,
        ])  # fmt: skip
    if trained:
        rows.append(
            [
                "all",
                f"{found['sessions']:,}",
                f"{found['rows']:,}",
                f"{found[name]:.3f} {in_brackets(found[f'{name}_ci95'])}",
                _rule(found["simple_rule"]),
                "",
                "",
            ]
        )
        how = f"Each {column} is asked of a model that was trained on rows of others"
    else:
        how = f"The model itself, on rows of each {column} that it has not seen"
    return [
        f"{how}. In brackets: 95 %, by {_by(metrics)}" + (f"; of all, by {column}." if trained else "."),
        PageTable(titles, rows, sums=int(trained), text=(6,)),
    ]  # fmt: skip


def _in_words(name: str, target: Target) -> str:
    unit = f", {target.measured_in}" if target.measured_in and not target.has_labels else ""
    return _SCORES[name] + unit


def _tiles(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    many = UNITS[_target(metrics).unit].many
    if "accuracy" not in metrics:
        unit = f" {_target(metrics).measured_in}".rstrip()
        return [(f"{metrics[_ERROR]:.2f}{unit}", "median absolute error"),
                (f"{metrics['mean_absolute_error']:.2f}{unit}", "mean absolute error"),
                (f"{metrics['sessions']:,}", many)]  # fmt: skip
    return [(f"{metrics['accuracy']:.1%}", "accuracy"), (f"{metrics['macro_f1']:.3f}", "macro-F1"),
             (f"{metrics['ece']:.3f}", "calibration error"), (f"{metrics['rows']:,}", "intervals"),
             (f"{metrics['sessions']:,}", many)]  # fmt: skip


def _quantity(metrics: Mapping[str, Any]) -> str:
    target, rows = _target(metrics), metrics.get("rows", metrics["sessions"])
    unit = f" {target.measured_in}".rstrip()
    of = f"{rows:,} {UNITS[target.unit].many if target.is_once else 'intervals'}"
    return (
        f"Median absolute error {metrics[_ERROR]:.2f}{unit} {in_brackets(metrics[_ERROR + '_ci95'], 2)}, mean "
        f"{metrics['mean_absolute_error']:.2f}{unit}; in brackets: 95 %, by {_by(metrics)}. "
        f"{metrics['within_10_to_90']:.0%} of {of} lie within the inferred 10th and 90th percentile."
        f"{_beside(metrics, unit)}"
    )


def _beside(metrics: Mapping[str, Any], unit: str = "") -> str:
    """The simple rule beside the model."""
    rule = metrics.get("simple_rule")
    if rule is None:
        return ""
    error = "an accuracy" if "accuracy" in rule else "a mean error"
    return f" A rule on {rule['column']} alone has {error} of {_rule(rule)}{unit}."


def _labels(metrics: Mapping[str, Any]) -> list[Block]:
    where = f"of {_unseen(metrics)} that the model has not seen" if metrics.get("out_of_fold") else "of this data"
    alone, target = metrics["without_smoothing"], _target(metrics)
    name, many = target.name, UNITS[target.unit].many
    brackets = f"In brackets: 95 %, by {_by(metrics)}."
    groups = f", {metrics['groups']} groups in all" if "groups" in metrics else ""
    level_error = f"mean level error {metrics['mean_level_error']:.3f}, " if "mean_level_error" in metrics else ""
    whole = (
        f"Accuracy {metrics['accuracy']:.3f} {in_brackets(metrics['accuracy_ci95'])}, macro-F1 "
        f"{metrics['macro_f1']:.3f} {in_brackets(metrics['macro_f1_ci95'])}, {level_error}calibration error "
        f"{metrics['ece']:.3f}.{_beside(metrics)}"
    )
    blocks: list[Block] = [
        f"{metrics['rows']:,} intervals of {metrics['sessions']} {many}, {where}{groups}. {brackets}",
        whole,
        f"Without smoothing over intervals: accuracy {alone['accuracy']:.3f}, macro-F1 {alone['macro_f1']:.3f}.",
    ]
    if metrics["accuracy_when_told"] is not None:
        blocks.append(f"The model is sure enough in {metrics['coverage']:.0%} of the intervals; "
                      f"{metrics['accuracy_when_told']:.1%} of these are right.")  # fmt: skip
    if metrics.get("split"):
        grouped, random = metrics["split"]["grouped"], metrics["split"]["random_rows"]
        blocks.append(
            f"A random split of rows would claim accuracy {random['accuracy']:.3f}, macro-F1 {random['macro_f1']:.3f} "
            f"in place of {grouped['accuracy']:.3f}, {grouped['macro_f1']:.3f}."
        )
    return [
        *blocks, _classes(metrics),
        Picture("confusion", "Confusion", f"Share of the intervals of each {name}, by what was inferred.",
                partial(_confusion, metrics)),
        Picture("labels", f"Scores by {name}", f"Scores of each {name} against all others.",
                partial(_scores, metrics)),
        Picture("reliability", "Reliability", "How often the model is right at each confidence; the larger a point, "
                "the more intervals it stands for.", partial(_reliability, metrics)),
        *_curves(metrics, name),
    ]  # fmt: skip


def _curves(metrics: Mapping[str, Any], name: str) -> list[Block]:
    """None of metrics that were written before there were any."""
    caption = (
        f"Each {name} against all others: the share of its intervals that are found, by the share of the others that "
        "are taken for it."
    )
    return [Picture("roc", "ROC", caption, partial(_roc, metrics))] if metrics.get("roc") else []


def _classes(metrics: Mapping[str, Any]) -> PageTable:
    labels, target = metrics["confusion"]["labels"], _target(metrics)
    shown = [target.shown(str(label)) for label in labels]
    rows = []
    for label, text, counts in zip(labels, shown, metrics["confusion"]["matrix"], strict=True):
        one = metrics["per_class"][str(label)]
        scores = [f"{one[name]:.2f}" for name in ("precision", "recall", "f1")]
        rows.append([text, *scores, *(f"{count:,}" if count else "" for count in counts), f"{one['support']:,}"])
    titles = (target.name, "precision", "recall", "F1", *(f"as {one}" for one in shown), "intervals")
    return PageTable(titles, rows)


def _feature_sets(metrics: Mapping[str, Any]) -> list[Block]:
    sets = metrics["feature_sets"]
    kinds = _kinds(sets)
    scores = list(next(iter(sets.values()))[kinds[0]])[:3]
    titles = ["features", "columns", *(f"{kind}:\n{_SCORES[one]}" for kind in kinds for one in scores)]
    rows = [
        [name, str(one["columns"]), *(f"{one[kind][score]:.3f}" for kind in kinds for score in scores)]
        for name, one in sets.items()
    ]
    return [
        PageTable(titles, rows),
        Note(f"Folds have no {_unseen(metrics)} in common.{_sampled(metrics)}"),
        Picture("feature_sets", "Feature sets", "Models of each feature set.", partial(_sets, metrics)),
    ]


def _sampled(metrics: Mapping[str, Any]) -> str:
    """What is compared of a large dataset; before it was sampled, metrics did not say it."""
    compared = metrics.get("compared_rows", metrics["rows"])
    return f" Compared on {compared:,} intervals, of sessions at random." if compared < metrics["rows"] else ""


def _kinds(sets: Mapping[str, Any]) -> list[str]:
    return [kind for kind in _KINDS if all(kind in one for one in sets.values())]


def _services(services: Mapping[str, Any]) -> PageTable:
    rows = []
    for name, one in services.items():
        shown = [
            next((f"{value:.3f}" for value in (one.get(kind) or {}).values()), NONE) for kind in ("composite", "own")
        ]
        rows.append([name, f"{one['rows']:,}", *shown])
    return PageTable(("service", "intervals", "one model for all", "its own model"), rows)


def _facts(metrics: Mapping[str, Any], training: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = {
        "model": "model",
        "features": "features",
        "group": "group",
        "data": "data",
        "data_sha256": "SHA-256 of the data",
    }
    for key, name in names.items():
        if key in metrics:
            yield name, str(metrics[key])
    if training and "data_sha256" not in metrics:
        yield "trained on", f"{training['data']}, SHA-256 {training['sha256']}"
    if "training_s" in metrics:
        yield "training", f"{metrics['training_s']:.3g} s"


def _confusion(metrics: Mapping[str, Any]) -> Figure:
    labels, counts = metrics["confusion"]["labels"], np.array(metrics["confusion"]["matrix"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = style.axes(0.9 + 0.62 * len(labels), 6.4)
    for row, column in np.ndindex(*shares.shape):
        share = shares[row, column]
        colour = to_rgba(style.BLUE, share)
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor=style.LINE))
        if counts[row, column]:
            axes.text(
                column, row, f"{share:.0%}", ha="center", va="center", color="white" if share > 0.5 else style.INK
            )
    names = [style.plain(_target(metrics).shown(str(label))) for label in labels]
    axes.set_xticks(range(len(labels)), names)
    axes.set_yticks(range(len(labels)), [f"{name} ({n:,})" for name, n in zip(names, counts.sum(axis=1), strict=True)])
    axes.set(
        xlabel="inferred", ylabel="true (intervals)", xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5)
    )
    axes.grid(visible=False)
    return figure


def _reliability(metrics: Mapping[str, Any]) -> Figure:
    bins = metrics["reliability"]
    figure, axes = style.axes(4.4, 6.4)
    axes.plot([0, 1], [0, 1], color=style.SOFT, linestyle="--", linewidth=1.2, label="perfect")
    sizes = np.sqrt([one["rows"] for one in bins])
    points = [one["confidence"] for one in bins], [one["accuracy"] for one in bins]
    axes.plot(*points, color=style.BLUE, label="model")
    axes.scatter(*points, s=200 * sizes / sizes.max(), color=style.BLUE, alpha=0.6, clip_on=False)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    style.legend_beside(axes)
    return figure


def _roc(metrics: Mapping[str, Any]) -> Figure:
    figure, axes = style.axes(4.4, 6.4)
    axes.plot([0, 1], [0, 1], color=style.SOFT, linestyle="--", linewidth=1.2, label="chance")
    for number, (label, curve) in enumerate(metrics["roc"].items()):
        name = style.plain(_target(metrics).shown(label))
        axes.plot(curve["false"], curve["true"], color=style.colour(number), linestyle=style.line(number),
                  label=f"{name} (AUC {metrics['auc'][label]:.3f})")  # fmt: skip
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1))
    style.legend_beside(axes)
    return figure


def _in_unit(text: str, metrics: Mapping[str, Any]) -> str:
    unit = _target(metrics).measured_in
    return style.plain(f"{text}, {unit}" if unit else text)


def _scores(metrics: Mapping[str, Any]) -> Figure:
    levels = list(metrics["per_class"])
    figure, axes = style.axes(3.6)
    at = np.arange(len(levels))
    series = [(name, [metrics["per_class"][level][name] for level in levels]) for name in ("precision", "recall", "f1")]
    series.append(("AUC", [metrics["auc"].get(level, np.nan) for level in levels]))
    for number, (name, values) in enumerate(series):
        axes.bar(at + (number - 1.5) * 0.2, values, 0.19, label="F1" if name == "f1" else name,
                 color=style.colour(number))  # fmt: skip
    axes.set_xticks(at, [style.plain(_target(metrics).shown(level)) for level in levels])
    axes.set(ylim=(0, 1), ylabel="score")
    axes.grid(visible=False, axis="x")
    style.legend_beside(axes)
    return figure


def _sets(metrics: Mapping[str, Any]) -> Figure:
    sets = metrics["feature_sets"]
    score = "accuracy" if "accuracy" in metrics else _ERROR
    figure, axes = style.axes(3.8)
    at, kinds = np.arange(len(sets)), _kinds(sets)
    for number, kind in enumerate(kinds):
        values = [one[kind][score] for one in sets.values()]
        place = at + (number - (len(kinds) - 1) / 2) * 0.4
        bars = axes.bar(place, values, 0.38, label=_KINDS[kind], color=style.colour(number))
        axes.bar_label(bars, fmt="%.2f", fontsize=8.5)
    axes.set_xticks(at, list(sets))
    axes.set_ylabel("accuracy" if score == "accuracy" else _in_unit("median absolute error", metrics))
    axes.margins(y=0.1)
    axes.grid(visible=False, axis="x")
    style.legend_beside(axes)
    return figure
