"""The look of every picture: colours, fonts, axes, legends; and a figure as a file or inside of a page.

The colours of data are those of Okabe and Ito (Color Universal Design, 2008) that show on white and on black; people
who do not see red or green tell them apart. In a page, ink and paper are the page's, so that they follow its scheme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from trafficrefinery.system.wording import one_line
from trafficrefinery.system.writing import write_file

from .numbers import human_bytes

INK, SOFT, LINE, PAPER = "#1f2933", "#5b6773", "#dfe4e9", "#ffffff"
"""Text; what matters less; grids; what is behind."""
WHITE = "#fefefe"
"""On a dark colour, in either scheme."""
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#84909c",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY)
_MARKERS, _LINES, _HATCHES = "os^Dv", ("-", "--", ":", "-.", (0, (5, 1))), ("", "////", "....", "xxxx", "++++")
_RULES: Any = {  # Matplotlib names each key in its type
    "font.size": 10, "font.family": "DejaVu Sans", "text.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "axes.edgecolor": SOFT, "axes.labelcolor": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": LINE, "grid.linewidth": 0.8,
    "axes.titlesize": 12, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 2, "hatch.linewidth": 0.6, "hatch.color": PAPER,
    "figure.facecolor": PAPER, "axes.facecolor": PAPER, "savefig.dpi": 144,
    "svg.fonttype": "none", "svg.hashsalt": "trafficrefinery",
}  # fmt: skip
Draw = Callable[[], Figure]


def axes(height: float, width: float = 8.6) -> tuple[Figure, Axes]:
    """A figure with one set of axes; its size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def plain(text: str) -> str:
    """A text for a figure: `$` begins no mathematics, and what is not printable is an escape."""
    return one_line(text).replace("$", r"\$")


def colour(number: int) -> str:
    """Colour of a series."""
    return COLOURS[number % len(COLOURS)]


def marker(number: int) -> str:
    """Marker of a series; it changes when the colours repeat."""
    return _MARKERS[number // len(COLOURS) % len(_MARKERS)]


def line(number: int) -> Any:
    """Line style of a series; it changes when the colours repeat."""
    return _LINES[number // len(COLOURS) % len(_LINES)]


def hatch(number: int) -> str:
    """Hatch of a series of bars; it changes when the colours repeat."""
    return _HATCHES[number // len(COLOURS) % len(_HATCHES)]


def legend_beside(axes: Axes) -> None:
    """A legend at the right of the axes, where it covers nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """A legend below the axes, where it covers nothing."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def label(axes: Axes, x: float, y: float, text: str) -> None:
    """Text at the right of a mark."""
    axes.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)


BYTES = FuncFormatter(lambda value, _: human_bytes(value))
"""For an axis."""


def save(draw: Draw, path: Path) -> Path:
    """Write a picture; the ending of the name decides the format.

    Raises:
        OutputError: it cannot be written.
    """
    return write_file(path, _drawn(draw, path.suffix[1:]))


def _drawn(draw: Draw, form: str, **options: Any) -> bytes:
    made = io.BytesIO()
    with mpl.rc_context(_RULES):
        figure = draw()
        metadata = {"Date": None} if form == "svg" else None
        figure.savefig(made, format=form, metadata=metadata, **options)
    return made.getvalue()


def inline_svg(draw: Draw, name: str, title: str) -> str:
    """A picture as an element of a page: its names are its own, its ink and paper those of the page."""
    text = _drawn(draw, "svg", transparent=True).decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'(id="|href="#|url\(#)', rf"\1{name}-", text)
    for value, variable in ((INK, "ink"), (SOFT, "soft"), (LINE, "line"), (PAPER, "paper")):
        text = text.replace(value, f"var(--{variable})")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
