"""Model cards: what a model is, what it was made from, how good it is, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trafficrefinery.models.sessions.provenance import needs_from_json


def model_card(manifest: Mapping[str, Any], schema: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """A model card (Mitchell et al., FAT* 2019) as Markdown."""
    training = manifest["training"]
    needs, code = needs_from_json(schema["needs"])
    what = "the resolution of video sessions" if manifest["target"] == "resolution" else "startup delays"
    lines = [
        f"# {manifest['name']}",
        "",
        f"Infers {what} from encrypted traffic, once per {schema['interval_s']:g}-second interval of a session.",
        "",
        "## Made from",
        "",
        f"- {training['data']} (SHA-256 {training['sha256']})",
        f"- {training['rows']:,} session-intervals of {training['sessions']} sessions",
        f"- services: {', '.join(training['services'])}",
        f"- features: {manifest['features']}, {len(schema['columns'])} columns",
        f"- needs the feature classes {', '.join(needs)}",
        *(f"- needs {one} as well (SHA-256 {one.sha256})" for one in code),
        f"- {metrics['model']}, {manifest['nodes']:,} nodes, seed {manifest['seed']}",
        "",
        f"## Figures, out of fold, no {training['group']} in two folds",
        "",
        *_figures(metrics),
        "",
        "## Limits",
        "",
        "- For sites, players and years that the data does not have, expect less; `drift` in the inference records",
        "  tells how far a session is from the data.",
        "- Sessions of one client and service at the same time count as one.",
        "- What people watch is private: run it only where you may, and keep addresses anonymised.",
        "",
    ]
    return "\n".join(lines)


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    if "accuracy" not in metrics:
        low, high = metrics["median_absolute_error_s_ci95"]
        return [
            f"- median absolute error {metrics['median_absolute_error_s']:.2f} s ({low:.2f} to {high:.2f})",
            f"- mean absolute error {metrics['mean_absolute_error_s']:.2f} s",
            f"- between the 10th and 90th percentile: {metrics['within_10_to_90']:.0%}",
        ]
    (low, high), (low_f1, high_f1) = metrics["accuracy_ci95"], metrics["macro_f1_ci95"]
    lines = [
        f"- accuracy {metrics['accuracy']:.3f} ({low:.3f} to {high:.3f}, 95 %, by session)",
        f"- macro-F1 {metrics['macro_f1']:.3f} ({low_f1:.3f} to {high_f1:.3f})",
        f"- mean level error {metrics['mean_level_error']:.3f}, calibration error {metrics['ece']:.3f}",
        f"- without smoothing over intervals: accuracy {metrics['without_smoothing']['accuracy']:.3f}",
        "",
        "| resolution | precision | recall | F1 | intervals |",
        "|---|---|---|---|---|",
    ]
    for level, one in metrics["per_class"].items():
        lines.append(
            f"| {level} | {one['precision']:.2f} | {one['recall']:.2f} | {one['f1']:.2f} | {one['support']:,} |"
        )
    return lines
