"""The report of a session: what was inferred, interval by interval, and the traffic that tells it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trafficrefinery.errors import UsageError, did_you_mean
from trafficrefinery.models.targets import Target
from trafficrefinery.models.targets.label_columns import labels_as_text
from trafficrefinery.records.inferences import NOT_PLAYING
from trafficrefinery.system.writing import make_directory

from .numbers import NONE
from .page import Page, PageSection, PageTable, Picture, write_page
from .style import BLUE, GREY, ORANGE, plain, save

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


class Answered(NamedTuple):
    """A session and what was inferred of it.

    Args:
        sessions: intervals of one session, by time; label columns in it are the truth.
        inferences: what was inferred of them, see `inference_schema`.
        targets: that were asked.
    """

    sessions: pa.Table
    inferences: pa.Table
    targets: Sequence[Target]

    @property
    def over_time(self) -> list[Target]:
        """Those with an answer for each interval."""
        return [target for target in self.targets if not target.is_once]

    @property
    def main(self) -> Target | None:
        """The one that is drawn."""
        return next(iter(self.over_time), None)

    def of(self, target: Target | None) -> pa.Table:
        """The records of a target; for one over time a row for each interval."""
        return self.inferences.filter(pc.equal(self.inferences["target"], "" if target is None else target.name))

    def inferred(self, target: Target) -> list[str | float | None]:
        """Labels or numbers."""
        found: list[str | float | None] = self.of(target)["value" if target.has_labels else "quantity"].to_pylist()
        return found

    def silent(self, target: Target) -> list[bool]:
        """In which of them nothing was played."""
        return [one == NOT_PLAYING for one in self.of(target)["why"].to_pylist()]

    def truth(self, target: Target) -> list[str | float | None] | None:
        """The same as they should be; None where the session has no labels of the target."""
        if target.label_column not in self.sessions.column_names:
            return None
        column = pl.Series(self.sessions[target.label_column])
        found: list[str | float | None] = (labels_as_text(column) if target.has_labels else column).to_list()
        return found

    def once(self) -> list[tuple[str, str]]:
        """The names and answers of targets that are answered once."""
        found = ((target, self.inferred(target)) for target in self.targets if target.is_once)
        return [(target.name, _in_words(answers[0], target)) for target, answers in found if answers]


def session_page(answered: Answered, name: str, facts: Sequence[tuple[str, str]]) -> Page:
    """A session: its picture, and a row for each interval.

    Args:
        facts: what it was made from.
    """
    sessions = answered.sessions
    start, end = sessions["ts_start"].to_numpy(), sessions["ts_end"].to_numpy()
    begin_s = _begin_s(sessions)
    columns = {"from, s": [f"{one:,.0f}" for one in start - begin_s], "to, s": [f"{one:,.0f}" for one in end - begin_s]}
    for target in answered.over_time:
        columns[f"{target.name}, inferred"] = [
            NOT_PLAYING if silent else _in_words(one, target)
            for one, silent in zip(answered.inferred(target), answered.silent(target), strict=True)
        ]
        truth = answered.truth(target)
        if truth is not None:
            columns[f"{target.name}, true"] = [_in_words(one, target) for one in truth]
        if target.has_labels:
            columns[f"{target.name}, confidence"] = _shown(_floats(answered.of(target), "confidence"), ".2f")
    columns["segments, MB"] = _shown(_floats(sessions, "application.segment_bytes") / 1e6, ".2f")
    columns["Mbit/s down"] = _shown(_floats(sessions, "network.kbps_down") / 1e3, ".2f")
    caption = "What was inferred and its confidence, and below the traffic that tells it."
    picture = Picture("session", f"Session {name}", caption, partial(session_figure, answered, name))
    rows = list(zip(*columns.values(), strict=True))
    when = datetime.fromtimestamp(begin_s, UTC).isoformat()
    return Page(
        f"Session {name}", " ".join(_who(sessions)) or "unknown service", when,
        [PageSection("Over time", [picture]), PageSection("Intervals", [PageTable(list(columns), rows)])],
        _tiles(answered), facts,
    )  # fmt: skip


def _tiles(answered: Answered) -> list[tuple[str, str]]:
    tiles = [(f"{len(answered.sessions):,}", "intervals")]
    main = answered.main
    if main is not None and main.has_labels:
        told = [_in_words(one, main) for one in answered.inferred(main) if one is not None]
        if told:
            most = max(dict.fromkeys(told), key=told.count)
            tiles.append((most, f"inferred in {told.count(most):,} of them"))
        confidence = _floats(answered.of(main), "confidence")
        if not np.isnan(confidence).all():
            tiles.append((f"{np.nanmean(confidence):.2f}", "confidence, in the mean"))
    return [*tiles, *((text, name) for name, text in answered.once())]


def _in_words(value: str | float | None, target: Target) -> str:
    if value is None:
        return NONE
    return target.shown(value) if isinstance(value, str) else f"{value:.1f} {target.measured_in}".rstrip()


def _shown(values: Any, form: str) -> list[str]:
    return [NONE if np.isnan(one) else format(one, form) for one in values.tolist()]


def _begin_s(sessions: pa.Table) -> float:
    return float(sessions["session_start"][0].as_py() or sessions["ts_start"][0].as_py())


def _who(sessions: pa.Table) -> list[str]:
    return [text for name in ("service", "client_ip") if (text := sessions[name][0].as_py())]


def session_figure(answered: Answered, name: str) -> Figure:
    """The answer at each interval with its confidence, and segments and throughput below."""
    sessions, main = answered.sessions, answered.main
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    top, sure, pieces, rate = figure.subplots(4, 1, sharex=True, height_ratios=[3, 1, 1.3, 1.3])
    start, end = sessions["ts_start"].to_numpy(), sessions["ts_end"].to_numpy()
    begin_s = _begin_s(sessions)
    left, right = start - begin_s, end - begin_s
    if main is not None and main.has_labels:
        _labels(top, answered, main, left, right)
        _steps(sure, left, right, _floats(answered.of(main), "confidence"), BLUE)
    elif main is not None:
        _quantities(top, answered, main, left, right)
    once = "".join(f", {target} {text}" for target, text in answered.once())
    top.set_title(plain(" ".join([*_who(sessions), f"({name})"]) + once), pad=26)
    sure.set(ylabel="confidence", ylim=(0, 1.05))
    _bars(pieces, left, right, _floats(sessions, "application.segment_bytes") / 1e6, BLUE)
    pieces.set_ylabel("segments, MB")
    _steps(rate, left, right, _floats(sessions, "network.kbps_down") / 1e3, BLUE)
    rate.set(ylabel="Mbit/s down", xlabel="seconds since the start of the session")
    rate.set_ylim(bottom=0)
    return figure


def _labels(axes: Axes, answered: Answered, target: Target, left: Any, right: Any) -> None:
    inferred, truth = answered.inferred(target), answered.truth(target) or []
    labels = target.ordered(str(one) for one in (*inferred, *truth) if one is not None)
    place = {label: number for number, label in enumerate(labels)}
    at, real = (np.array([place.get(str(one), np.nan) for one in some]) for some in (inferred, truth))
    confidence = np.nan_to_num(_floats(answered.of(target), "confidence"))
    if truth and not np.isnan(real).all():
        axes.hlines(real, left, right, color=ORANGE, linewidth=9, alpha=0.6, label="true")
    for row in np.flatnonzero(~np.isnan(at)).tolist():
        axes.hlines(at[row], left[row], right[row], color=BLUE, linewidth=4, alpha=0.25 + 0.75 * confidence[row])
    axes.hlines([], [], [], color=BLUE, linewidth=4, label="inferred; the paler, the less certain")
    silent = np.array(answered.silent(target), np.bool_)
    for which, dashes, what in (
        (np.isnan(at) & ~silent, (0.0, ()), "not sure enough"), (silent, (0.0, (1, 1)), NOT_PLAYING),
    ):  # fmt: skip
        if which.any():
            axes.hlines(np.full(which.sum(), -0.6), left[which], right[which], color=GREY, linewidth=4,
                        linestyles=dashes, label=what)  # fmt: skip
    axes.set_yticks(range(len(labels)), [plain(target.shown(label)) for label in labels])
    axes.set(ylim=(-0.9, len(labels) - 0.4), ylabel=target.name)
    axes.legend(loc="lower right", ncols=4, fontsize=9, bbox_to_anchor=(1, 1.0), frameon=False)


def _quantities(axes: Axes, answered: Answered, target: Target, left: Any, right: Any) -> None:
    truth = answered.truth(target)
    if truth is not None:
        axes.hlines(np.array(truth, float), left, right, color=ORANGE, linewidth=9, alpha=0.6, label="true")
    axes.hlines(np.array(answered.inferred(target), float), left, right, color=BLUE, linewidth=4, label="inferred")
    axes.set(ylabel=plain(f"{target.name}, {target.measured_in}".rstrip(", ")))
    axes.legend(loc="lower right", ncols=2, fontsize=9, bbox_to_anchor=(1, 1.0), frameon=False)


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
