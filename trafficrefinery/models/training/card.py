"""Model cards: what a model is, what it was made from, how good it is, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trafficrefinery.models.confidence import in_brackets
from trafficrefinery.models.sessions.provenance import needs_from_json
from trafficrefinery.models.targets import ORDINAL, UNITS, Target
from trafficrefinery.records.inferences import SESSION


def model_card(
    manifest: Mapping[str, Any], schema: Mapping[str, Any], metrics: Mapping[str, Any], about: str = ""
) -> str:
    """A model card (Mitchell et al., FAT* 2019) as Markdown."""
    training = manifest["training"]
    needs, code = needs_from_json(schema["needs"])
    target = Target.from_json(manifest["target"], "target")
    unit = f" in {target.measured_in}" if target.measured_in and not target.has_labels else ""
    when = target.moment if target.is_once else f"once per {schema['interval_s']:g}-second interval of a {target.unit}"
    many, does = UNITS[target.unit].many, "watch" if target.unit == SESSION else "do"
    lines = [
        f"# {manifest['name']}",
        "",
        f"Infers {target.name}{unit} from encrypted traffic, {when}.",
        "",
        *([about, ""] if about else []),
        "## Made from",
        "",
        f"- {training['data']} (SHA-256 {training['sha256']})",
        f"- {training['rows']:,} {target.unit}-intervals of {training['sessions']:,} {many}",
        f"- {training['groups']:,} groups, by {training['group']}",
        f"- services: {', '.join(training['services'])}",
        f"- features: {manifest['features']}, {len(schema['columns'])} columns",
        f"- needs the feature classes {', '.join(needs)}",
        *(f"- needs {one} as well (SHA-256 {one.sha256})" for one in code),
        f"- {metrics['model']}, {manifest['nodes']:,} nodes, seed {manifest['seed']}",
        "",
        f"## Figures, out of fold, no {training['group']} in two folds",
        "",
        *_figures(target, metrics),
        "",
        *_left_out(metrics),
        "## Limits",
        "",
        *(f"- {one}" for one in metrics["warnings"]),
        "- For sites, players and years that the data does not have, expect less; `drift` in the inference records",
        f"  tells how far a {target.unit} is from the data.",
        *(["- Sessions of one client and service at the same time count as one."] if target.unit == SESSION else []),
        f"- What people {does} is private: run it only where you may, and keep addresses anonymised.",
        "",
    ]
    return "\n".join(lines)


def _rule(metrics: Mapping[str, Any]) -> str:
    rule = metrics["simple_rule"]
    name = "accuracy" if "accuracy" in rule else "mean_absolute_error"
    between = in_brackets(rule[f"{name}_ci95"])
    return f"- a rule on {rule['column']} alone: {name.replace('_', ' ')} {rule[name]:.3f} {between}"


def _left_out(metrics: Mapping[str, Any]) -> list[str]:
    """Figures of models on each site, day and so on that they were not trained on."""
    lines = []
    name = "accuracy" if "accuracy" in metrics else "mean_absolute_error"
    for column, found in metrics.get("left_out", {}).items():
        titles = f"| {column} | rows | {name.replace('_', ' ')} | simple rule |"
        lines += [f"## Each {column} left out of the training", "", titles, "|---|---|---|---|"]
        for value, one in (*found["values"].items(), ("all", found)):
            if "why" in one:
                lines.append(f"| {value} | {one['rows']:,} | {one['why']} | |")
                continue
            figures = (f"{of[name]:.3f} {in_brackets(of[f'{name}_ci95'])}" for of in (one, one["simple_rule"]))
            lines.append(f"| {value} | {one['rows']:,} | {' | '.join(figures)} |")
        lines += ["", f"In brackets: 95 %, by {metrics['group']}; of all, by {column}.", ""]
    return lines


def _figures(target: Target, metrics: Mapping[str, Any]) -> list[str]:
    if "accuracy" not in metrics:
        unit, between = f" {target.measured_in}".rstrip(), in_brackets(metrics["median_absolute_error_ci95"], 2)
        of_mean, by = in_brackets(metrics["mean_absolute_error_ci95"], 2), metrics["group"]
        return [
            f"- median absolute error {metrics['median_absolute_error']:.2f}{unit} {between}, 95 %, by {by}",
            f"- mean absolute error {metrics['mean_absolute_error']:.2f}{unit} {of_mean}",
            _rule(metrics),
            f"- between the 10th and 90th percentile: {metrics['within_10_to_90']:.0%}",
        ]
    lines = [
        f"- accuracy {metrics['accuracy']:.3f} {in_brackets(metrics['accuracy_ci95'])}, 95 %, by {metrics['group']}",
        f"- macro-F1 {metrics['macro_f1']:.3f} {in_brackets(metrics['macro_f1_ci95'])}",
        _rule(metrics),
        *([f"- mean level error {metrics['mean_level_error']:.3f}"] if target.kind == ORDINAL else []),
        f"- calibration error {metrics['ece']:.3f}",
        f"- without smoothing over intervals: accuracy {metrics['without_smoothing']['accuracy']:.3f}",
        "",
        f"| {target.name} | precision | recall | F1 | intervals |",
        "|---|---|---|---|---|",
    ]
    for level, one in metrics["per_class"].items():
        lines.append(
            f"| {level} | {one['precision']:.2f} | {one['recall']:.2f} | {one['f1']:.2f} | {one['support']:,} |"
        )
    return lines
