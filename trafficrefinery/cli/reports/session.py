"""The report of a session: what was played, interval by interval, and the traffic that tells it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trafficrefinery.errors import UsageError, did_you_mean
from trafficrefinery.system.writing import make_directory

from .numbers import NONE
from .page import Page, PageSection, PageTable, Picture, write_page
from .style import BLUE, GREY, ORANGE, save

SUFFIXES = (".png", ".svg", ".html")


def one_session(sessions: pa.Table, name: str | None) -> tuple[pa.Table, str]:
    """The intervals of one session, by time: that of a name or id, or the longest; and what it is called.

    Raises:
        UsageError: there is no such session, or none at all.
    """
    if not len(sessions):
        raise UsageError("no video session to plot")
    key = "session" if "session" in sessions.column_names else "session_id"
    frame = pl.DataFrame(sessions.select(list(dict.fromkeys((key, "session_id", "ts_start"))))).with_row_index("row")
    if name is None:
        counts = frame.group_by(key, maintain_order=True).len().sort("len", descending=True, maintain_order=True)
        name = str(counts[key][0])
    chosen = frame.filter((pl.col(key) == name) | (pl.col("session_id") == name)).sort("ts_start")
    if not len(chosen):
        known = frame[key].unique(maintain_order=True).to_list()
        hint = did_you_mean(name, known) or f"; there are {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}"
        raise UsageError(f'--session: no session "{name}"{hint}')
    return sessions.take(chosen["row"].to_numpy()), name


def session_page(sessions: pa.Table, inferences: pa.Table, name: str, facts: Sequence[tuple[str, str]]) -> Page:
    """A session: its picture, and a row for each interval.

    Args:
        sessions: intervals of one session, by time; with a column `resolution` the truth is shown as well.
        inferences: what was inferred of each, see `inference_schema`.
        facts: what it was made from.
    """
    start, end = sessions["ts_start"].to_numpy(), sessions["ts_end"].to_numpy()
    begin_s = _begin_s(sessions)
    columns = {
        "from, s": [f"{one:,.0f}" for one in start - begin_s], "to, s": [f"{one:,.0f}" for one in end - begin_s],
        "inferred": _levels(inferences), "confidence": _shown(_floats(inferences, "confidence"), ".2f"),
        "played": _levels(sessions),
        "segments, MB": _shown(_floats(sessions, "application.segment_bytes") / 1e6, ".2f"),
        "Mbit/s down": _shown(_floats(sessions, "network.kbps_down") / 1e3, ".2f"),
    }  # fmt: skip
    if "resolution" not in sessions.column_names:
        del columns["played"]
    caption = "Resolution and its confidence, and below the traffic that tells it."
    picture = Picture("session", f"Session {name}", caption, partial(session_figure, sessions, inferences, name))
    rows = list(zip(*columns.values(), strict=True))
    when = datetime.fromtimestamp(begin_s, UTC).isoformat()
    return Page(
        f"Session {name}", " ".join(_who(sessions)) or "unknown service", when,
        [PageSection("Over time", [picture]), PageSection("Intervals", [PageTable(list(columns), rows)])],
        _tiles(sessions, inferences), facts,
    )  # fmt: skip


def _tiles(sessions: pa.Table, inferences: pa.Table) -> list[tuple[str, str]]:
    confidence, delay = _floats(inferences, "confidence"), _startup_s(inferences)
    tiles = [(f"{len(sessions):,}", "intervals")]
    levels = [level for level in _levels(inferences) if level != NONE]
    if levels:
        most = max(dict.fromkeys(levels), key=levels.count)
        tiles.append((most, f"inferred in {levels.count(most):,} of them"))
    if not np.isnan(confidence).all():
        tiles.append((f"{np.nanmean(confidence):.2f}", "confidence, in the mean"))
    if delay is not None:
        tiles.append((f"{delay:.1f} s", "startup delay"))
    return tiles


def _levels(table: pa.Table) -> list[str]:
    return [NONE if np.isnan(one) else f"{one:.0f}p" for one in _floats(table, "resolution").tolist()]


def _shown(values: Any, form: str) -> list[str]:
    return [NONE if np.isnan(one) else format(one, form) for one in values.tolist()]


def _begin_s(sessions: pa.Table) -> float:
    return float(sessions["session_start"][0].as_py() or sessions["ts_start"][0].as_py())


def _startup_s(inferences: pa.Table) -> float | None:
    known = inferences["startup_delay_s"].drop_null().to_pylist()
    return float(known[0]) if known else None


def _who(sessions: pa.Table) -> list[str]:
    return [text for name in ("service", "client_ip") if (text := sessions[name][0].as_py())]


def session_figure(sessions: pa.Table, inferences: pa.Table, name: str) -> Figure:
    """The resolution at each interval with its confidence, and segments and throughput below.

    Args:
        sessions: intervals of one session, by time; with a column `resolution` the truth is drawn as well.
        inferences: what was inferred of each, see `inference_schema`.
    """

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    top, sure, pieces, rate = figure.subplots(4, 1, sharex=True, height_ratios=[3, 1, 1.3, 1.3])
    start, end = sessions["ts_start"].to_numpy(), sessions["ts_end"].to_numpy()
    begin_s = _begin_s(sessions)
    left, right = start - begin_s, end - begin_s
    _resolutions(top, sessions, inferences, left, right)
    delay_s = _startup_s(inferences)
    startup = "" if delay_s is None else f", startup delay {delay_s:.1f} s"
    top.set_title(" ".join([*_who(sessions), f"({name})"]) + startup, pad=26)
    _steps(sure, left, right, _floats(inferences, "confidence"), BLUE)
    sure.set(ylabel="confidence", ylim=(0, 1.05))
    _bars(pieces, left, right, _floats(sessions, "application.segment_bytes") / 1e6, BLUE)
    pieces.set_ylabel("segments, MB")
    _steps(rate, left, right, _floats(sessions, "network.kbps_down") / 1e3, BLUE)
    rate.set(ylabel="Mbit/s down", xlabel="seconds since the start of the session")
    rate.set_ylim(bottom=0)
    return figure


def _resolutions(axes: Axes, sessions: pa.Table, inferences: pa.Table, left: Any, right: Any) -> None:
    inferred = _floats(inferences, "resolution")
    truth = _floats(sessions, "resolution")
    levels = sorted({*inferred[~np.isnan(inferred)].tolist(), *truth[~np.isnan(truth)].tolist()})
    place = {level: number for number, level in enumerate(levels)}
    at = np.array([place.get(level, np.nan) for level in inferred.tolist()])
    confidence = np.nan_to_num(_floats(inferences, "confidence"))
    if not np.isnan(truth).all():
        real = np.array([place.get(level, np.nan) for level in truth.tolist()])
        axes.hlines(real, left, right, color=ORANGE, linewidth=9, alpha=0.6, label="played")
    for row in np.flatnonzero(~np.isnan(at)).tolist():
        axes.hlines(at[row], left[row], right[row], color=BLUE, linewidth=4, alpha=0.25 + 0.75 * confidence[row])
    axes.hlines([], [], [], color=BLUE, linewidth=4, label="inferred; the paler, the less certain")
    unknown = np.isnan(at)
    if unknown.any():
        axes.hlines(np.full(unknown.sum(), -0.6), left[unknown], right[unknown], color=GREY, linewidth=4,
                    label="not sure enough")  # fmt: skip
    axes.set_yticks(range(len(levels)), [f"{level:.0f}p" for level in levels])
    axes.set(ylim=(-0.9, len(levels) - 0.4), ylabel="resolution")
    axes.legend(loc="lower right", ncols=3, fontsize=9, bbox_to_anchor=(1, 1.0), frameon=False)


def _steps(axes: Axes, left: Any, right: Any, values: Any, colour: str) -> None:
    axes.hlines(values, left, right, color=colour, linewidth=2)
    joined = np.isclose(left[1:], right[:-1])
    axes.vlines(left[1:][joined], values[:-1][joined], values[1:][joined], color=colour, linewidth=1)


def _bars(axes: Axes, left: Any, right: Any, values: Any, colour: str) -> None:
    axes.bar(left, values, width=(right - left) * 0.9, align="edge", color=colour)


def _floats(table: pa.Table, name: str) -> Any:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return pl.Series(table[name]).cast(pl.Float64).fill_null(float("nan")).to_numpy()


def write_session(page: Page, path: Path) -> None:
    """Write the page of a session, or its picture alone, as the name ends.

    Raises:
        UsageError: the name ends in none of `SUFFIXES`.
        OutputError: it cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--out: {path} ends in none of {', '.join(SUFFIXES)}")
    make_directory(path.parent)
    if path.suffix == ".html":
        write_page(page, path)
    else:
        save(page.pictures()[0].draw, path)
