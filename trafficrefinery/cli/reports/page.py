"""The pages of all reports: what they are made of, and the one template that they are written with.

A page is one file that asks for nothing from anywhere: its style and its pictures are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from trafficrefinery import __version__
from trafficrefinery.errors import UsageError
from trafficrefinery.system.files import read_json
from trafficrefinery.system.writing import make_directory, write_file

from .style import inline_svg, save

PICTURES = "plots"
"""The directory of the pictures beside a page."""
_TEMPLATE = "page.html.j2"


class PageTable(NamedTuple):
    """Cells as they are shown. The first column is text and stands at the left; numbers stand at the right.

    Args:
        titles: of the columns; a title may have several lines.
        sums: how many of the last rows sum up those above.
        text: the columns after the first that are text as well.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    sums: int = 0
    text: Sequence[int] = ()


class Picture(NamedTuple):
    """A figure of Matplotlib, which is drawn when the page is written.

    Args:
        name: of its file.
        caption: what its marks mean.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


class Note(NamedTuple):
    """How the figures above are to be read; on the page only."""

    text: str


class Bullets(NamedTuple):
    """Lines of a list."""

    lines: Sequence[str]


Block = str | PageTable | Picture | Note | Bullets
"""Text is a paragraph."""


class PageSection(NamedTuple):
    """A part of a page with a title."""

    title: str
    blocks: Sequence[Block]


class Page(NamedTuple):
    """A report.

    Args:
        title: what was measured.
        source: of which input, in a few words.
        when: time of the measurement, ISO 8601.
        version: version of Traffic Refinery that measured.
        tiles: the figures that matter most: value and what it is.
        facts: how it was measured: name and text of each.
    """

    title: str
    source: str
    when: str
    sections: Sequence[PageSection]
    tiles: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()
    version: str = __version__

    def pictures(self) -> list[Picture]:
        """The pictures of all sections."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Picture)]


def html(page: Page) -> str:
    """A page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["svg"] = lambda picture: Markup(inline_svg(picture.draw, picture.name, picture.title))
    environment.filters["when"] = lambda text: datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M %Z")
    environment.tests["of"] = lambda block, name: type(block).__name__ == name
    return environment.get_template(_TEMPLATE).render(page=page)


def write_page(page: Page, path: Path) -> None:
    """Write a page.

    Raises:
        OutputError: it cannot be written.
    """
    write_file(path, html(page))


def write_pictures(pictures: Sequence[Picture], folder: Path, suffix: str = "png") -> list[Path]:
    """Write pictures as files of their own.

    Raises:
        OutputError: one cannot be written.
    """
    make_directory(folder)
    return [save(picture.draw, folder / f"{picture.name}.{suffix}") for picture in pictures]


def write_report(page: Page, folder: Path) -> Path:
    """Write `report.html`, and its pictures beside it in `plots/`; returns the path of the page.

    Raises:
        OutputError: one cannot be written.
    """
    write_pictures(page.pictures(), folder / PICTURES)
    write_page(page, folder / "report.html")
    return folder / "report.html"


def read_result(path: Path, command: str) -> Any:
    """The JSON value in a file of results.

    Raises:
        UsageError: it cannot be read; the message names the command that writes such files.
    """
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"{path}: cannot be read: {reason}; name a directory that `{command}` made") from error
