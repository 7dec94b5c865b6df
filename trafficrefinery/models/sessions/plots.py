"""A picture of one session: what was played, interval by interval, and the traffic that tells it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trafficrefinery.errors import OutputError, UsageError, did_you_mean

_INK, _TRUTH, _FAINT = "#4C72B0", "#C44E52", "0.75"
SUFFIXES = (".png", ".svg", ".html")


def one_session(sessions: pa.Table, name: str | None) -> tuple[pa.Table, str]:
    """The intervals of one session, by time: that of a name or id, or the longest; and what it is called.

    Raises:
        UsageError: there is no such session, or none at all.
    """
    if not len(sessions):
        raise UsageError("there is no video session to be drawn")
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


def session_figure(sessions: pa.Table, inferences: pa.Table, name: str) -> Figure:
    """The resolution at each interval with its confidence, and segments and throughput below.

    Args:
        sessions: intervals of one session, by time; with a column `resolution` the truth is drawn as well.
        inferences: what was inferred of each, see `inference_schema`.
    """
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    top, sure, pieces, rate = figure.subplots(4, 1, sharex=True, height_ratios=[3, 1, 1.3, 1.3])
    start, end = sessions["ts_start"].to_numpy(), sessions["ts_end"].to_numpy()
    begin = float(sessions["session_start"][0].as_py() or start[0])
    left, right = start - begin, end - begin
    _resolutions(top, sessions, inferences, left, right)
    told = inferences["startup_delay_s"].drop_null().to_pylist()
    startup = f", startup delay {told[0]:.1f} s" if told else ""
    service, client = sessions["service"][0].as_py() or "", sessions["client_ip"][0].as_py() or ""
    top.set_title(" ".join(filter(None, (service, client, f"({name})"))) + startup, loc="left", pad=26)
    _steps(sure, left, right, _floats(inferences, "confidence"), _INK)
    sure.set(ylabel="confidence", ylim=(0, 1.05))
    _bars(pieces, left, right, _floats(sessions, "application.segment_bytes") / 1e6)
    pieces.set_ylabel("segments, MB")
    _steps(rate, left, right, _floats(sessions, "network.kbps_down") / 1e3, _INK)
    rate.set(ylabel="Mbit/s down", xlabel="s since the session's start")
    rate.set_ylim(bottom=0)
    for axes in (top, sure, pieces, rate):
        axes.grid(axis="x", color="0.92")
        axes.set_axisbelow(b=True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _resolutions(axes: Axes, sessions: pa.Table, inferences: pa.Table, left: Any, right: Any) -> None:
    told = _floats(inferences, "resolution")
    truth = _floats(sessions, "resolution")
    levels = sorted({*told[~np.isnan(told)].tolist(), *truth[~np.isnan(truth)].tolist()})
    place = {level: number for number, level in enumerate(levels)}
    at = np.array([place.get(level, np.nan) for level in told.tolist()])
    confidence = np.nan_to_num(_floats(inferences, "confidence"))
    if not np.isnan(truth).all():
        real = np.array([place.get(level, np.nan) for level in truth.tolist()])
        axes.hlines(real, left, right, color=_TRUTH, linewidth=9, alpha=0.35, label="played")
    for row in np.flatnonzero(~np.isnan(at)).tolist():
        axes.hlines(at[row], left[row], right[row], color=_INK, linewidth=4, alpha=0.25 + 0.75 * confidence[row])
    axes.hlines([], [], [], color=_INK, linewidth=4, label="inferred; the paler, the less certain")
    unknown = np.isnan(at)
    if unknown.any():
        axes.hlines(np.full(unknown.sum(), -0.6), left[unknown], right[unknown], color=_FAINT, linewidth=4,
                    label="not sure enough")  # fmt: skip
    axes.set_yticks(range(len(levels)), [f"{level:.0f}p" for level in levels])
    axes.set(ylim=(-0.9, len(levels) - 0.4), ylabel="resolution")
    axes.legend(loc="lower right", ncols=3, fontsize=9, bbox_to_anchor=(1, 1.0), frameon=False)


def _steps(axes: Axes, left: Any, right: Any, values: Any, colour: str) -> None:
    axes.hlines(values, left, right, color=colour, linewidth=2)
    joined = np.isclose(left[1:], right[:-1])
    axes.vlines(left[1:][joined], values[:-1][joined], values[1:][joined], color=colour, linewidth=1)


def _bars(axes: Axes, left: Any, right: Any, values: Any) -> None:
    axes.bar(left, values, width=(right - left) * 0.9, align="edge", color=_INK)


def _floats(table: pa.Table, name: str) -> Any:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return pl.Series(table[name]).cast(pl.Float64).fill_null(float("nan")).to_numpy()


def write_figure(figure: Figure, path: Path, title: str) -> None:
    """Write a picture, or a page that holds it and asks for nothing else.

    Raises:
        UsageError: the name ends in none of `SUFFIXES`.
        OutputError: it cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--out: {path} ends in none of {', '.join(SUFFIXES)}")
    made = io.BytesIO()
    figure.savefig(made, format="svg" if path.suffix == ".html" else path.suffix[1:], dpi=120)
    data = made.getvalue()
    if path.suffix == ".html":
        picture = data[data.index(b"<svg") :]
        head = f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head><body>\n'
        data = head.encode() + picture + b"</body></html>\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
