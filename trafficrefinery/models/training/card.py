"""Model cards: what a model is, what it was made from, how good it is, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trafficrefinery.models.sessions.provenance import needs_from_json
from trafficrefinery.models.targets import ORDINAL, UNITS, Target
from trafficrefinery.records.inferences import SESSION


def model_card(manifest: Mapping[str, Any], schema: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
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
        "## Made from",
        "",
        f"- {training['data']} (SHA-256 {training['sha256']})",
        f"- {training['rows']:,} {target.unit}-intervals of {training['sessions']:,} {many}",
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
        "## Limits",
        "",
        "- For sites, players and years that the data does not have, expect less; `drift` in the inference records",
        f"  tells how far a {target.unit} is from the data.",
        *(["- Sessions of one client and service at the same time count as one."] if target.unit == SESSION else []),
        f"- What people {does} is private: run it only where you may, and keep addresses anonymised.",
        "",
    ]
    return "\n".join(lines)


def _figures(target: Target, metrics: Mapping[str, Any]) -> list[str]:
    if "accuracy" not in metrics:
        low, high = metrics["median_absolute_error_ci95"]
        unit = f" {target.measured_in}".rstrip()
        return [
            f"- median absolute error {metrics['median_absolute_error']:.2f}{unit} ({low:.2f} to {high:.2f})",
            f"- mean absolute error {metrics['mean_absolute_error']:.2f}{unit}",
            f"- between the 10th and 90th percentile: {metrics['within_10_to_90']:.0%}",
        ]
    (low, high), (low_f1, high_f1) = metrics["accuracy_ci95"], metrics["macro_f1_ci95"]
    lines = [
        f"- accuracy {metrics['accuracy']:.3f} ({low:.3f} to {high:.3f}, 95 %, by {target.unit})",
        f"- macro-F1 {metrics['macro_f1']:.3f} ({low_f1:.3f} to {high_f1:.3f})",
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
