"""The list of metrics for readers."""

from __future__ import annotations

from .table import METRICS, PREFIX, Metric


def metrics_page() -> str:
    """All metrics as a Markdown table."""
    lines = ["| metric | kind | labels | |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{exposed_name(metric)}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


def exposed_name(metric: Metric) -> str:
    """As queries write it; of a histogram, without `_bucket`, `_sum` and `_count`."""
    return PREFIX + metric.name + ("_info" if metric.kind == "info" else "")
