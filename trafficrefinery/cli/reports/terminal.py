"""A page on a terminal: its paragraphs, tables and lists."""

from __future__ import annotations

import sys
from typing import Literal

from trafficrefinery.cli.ui.lines import cell
from trafficrefinery.system.wording import one_line

from .page import Bullets, Note, Page, PageTable, Picture

_COLUMNS = 120
"""Width, in columns, when standard output is not a terminal."""
_NAME = 24
"""Characters of the first column that stay in one line."""


def print_page(page: Page) -> None:
    """All but pictures, notes and facts, which are on the page."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else _COLUMNS, highlight=False, markup=False)
    for section in page.sections:
        console.print(Text(section.title, "bold"))
        for block in section.blocks:
            if isinstance(block, Bullets):
                for line in block.lines:
                    console.print(f"  – {one_line(line)}")
            elif isinstance(block, PageTable):
                table = RichTable(box=box.SIMPLE, pad_edge=False)
                for at, title in enumerate(block.titles):
                    left = at == 0 or at in block.text
                    width = min(_NAME, max((len(row[at]) for row in block.rows), default=0)) if at == 0 else None
                    justify: Literal["left", "right"] = "left" if left else "right"
                    heading = Text("\n").join(map(cell, title.split("\n")))
                    table.add_column(heading, justify=justify, vertical="bottom", no_wrap=at > 0, min_width=width)
                for at, row in enumerate(block.rows):
                    if block.sums and at == len(block.rows) - block.sums:
                        table.add_section()
                    table.add_row(*map(cell, row))
                console.print(table)
            elif not isinstance(block, Note | Picture):
                console.print(one_line(block))
