"""The report of an exploration: one page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from trafficrefinery.errors import OutputError

from .plots import label_of

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
figure { margin: 1.2rem 0; } img { max-width: 100%; } figcaption { color: #555; font-size: .9rem; }
.chosen { border: 1px solid #d62728; border-radius: 6px; padding: .4rem 1rem; background: #fff7f6; }
.chosen td { border: 0; } details { font-size: .9rem; } code { font-size: .9em; }
"""
_HYPERVOLUME = (
    "The hypervolume is the share of the square that the points dominate between always telling the most common "
    "resolution and telling every one, and between the state of all feature classes and none."
)
_TITLES = ("feature classes", "columns", "interval", "trees × depth", "accuracy", "macro-F1", "startup error",
           "state", "ns a packet", "record")  # fmt: skip


def write_report(
    path: Path, summary: Mapping[str, Any], points: Sequence[Mapping[str, Any]], pictures: Sequence[tuple[Path, str]]
) -> None:
    """Write the page.

    Args:
        summary: what `explore.json` holds.
        points: of the front.

    Raises:
        OutputError: it cannot be written.
    """
    body = [
        "<h1>What a representation costs, and what it is worth</h1>",
        f"<p>{escape(_made_from(summary))}</p>",
        _chosen(summary),
        "<h2>The Pareto front of accuracy and state</h2>",
        "<p>No other representation that was tried is as accurate with less state.</p>",
        _table(_TITLES, [_row(point) for point in points]),
        *(_picture(file, caption) for file, caption in pictures),
        "<h2>How the search did</h2>",
        _table(("way to search", "representations", "hypervolume"),
               [(way, str(one["trials"]), f"{one['hypervolume']:.4f}") for way, one in summary["searches"].items()]),
        f"<p>{_HYPERVOLUME}</p>",
        "<h2>How the figures were made</h2>",
        *(f"<p>{escape(note)}</p>" for note in summary["notes"]),
        _table(("", ""), [(name, str(value)) for name, value in summary["machine"].items()]),
    ]  # fmt: skip
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Exploration</title>'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head><body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    try:
        path.write_text(page)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _made_from(summary: Mapping[str, Any]) -> str:
    data = summary["data"]
    return (
        f"{data['name']}: {data['sessions']} sessions, {data['columns']} columns from {', '.join(data['collected'])}; "
        f"intervals of {', '.join(f'{one:g}' for one in data['intervals_s'])} s. {summary['representations']} "
        f"representations were evaluated. Costs were measured on {data['measured_on']}."
    )


def _chosen(summary: Mapping[str, Any]) -> str:
    point = summary["recommended"]
    if point is None:
        return f'<div class="chosen"><p>{escape(summary["no_point"])}</p></div>'
    low, high = summary["deployed"]["accuracy_ci95"]
    columns = ", ".join(f"<code>{escape(name)}</code>" for name in point["columns"])
    return (
        '<div class="chosen"><h2 style="margin-top:.4rem">Recommended</h2>'
        + _table(_TITLES, [_row(point)])
        + "<p>The model in <code>deploy/</code> has an accuracy of "
        f"{summary['deployed']['accuracy']:.3f} ({low:.3f} to "
        f"{high:.3f}, 95 %, by session) on videos that it has not seen.</p>"
        f"<details><summary>Its {len(point['columns'])} columns</summary><p>{columns}</p></details></div>"
    )


def _row(point: Mapping[str, Any]) -> tuple[str, ...]:
    packets = "" if point["first_packets"] is None else f", first {point['first_packets']} packets"
    startup = "" if point["startup_error_s"] is None else f"{point['startup_error_s']:.2f} s"
    return (
        label_of(point["classes"]), str(len(point["columns"])), f"{point['interval_s']:g} s{packets}",
        f"{point['trees']} × {point['tree_depth']}", f"{point['accuracy']:.3f} ± {point['accuracy_se']:.3f}",
        f"{point['macro_f1']:.3f}", startup, f"{point['state_bytes']:,.0f} B", f"{point['ns_per_packet']:.1f}",
        f"{point['record_bytes']:,.0f} B",
    )  # fmt: skip


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _picture(file: Path, caption: str) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
