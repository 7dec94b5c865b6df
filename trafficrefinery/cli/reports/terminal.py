"""A page on a terminal: its paragraphs, tables and lists."""

from __future__ import annotations

import sys

from .page import Bullets, Note, Page, Picture, Table

_COLUMNS = 120
"""Where standard output is no terminal."""


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
                    console.print(f"  – {line}")
            elif isinstance(block, Table):
                table = RichTable(box=box.SIMPLE, pad_edge=False)
                for at, title in enumerate(block.titles):
                    left = at == 0 or at in block.text
                    table.add_column(title, justify="left" if left else "right", vertical="bottom", no_wrap=at > 0)
                for at, row in enumerate(block.rows):
                    if block.sums and at == len(block.rows) - block.sums:
                        table.add_section()
                    table.add_row(*map(Text, row))
                console.print(table)
            elif not isinstance(block, Note | Picture):
                console.print(block)
