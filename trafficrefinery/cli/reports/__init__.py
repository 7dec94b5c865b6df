"""What a command shows: a page of sections, with tables and pictures, for a browser and in part for a terminal.

A report is one file with a function that reads a directory of results and returns a `Page`:

    from trafficrefinery.cli.reports import Page, Section, Table, read_result

    def page_of(folder: Path) -> Page:
        \"\"\"One line for `trafficrefinery report`.\"\"\"
        ...

A distribution adds it with an entry point of the group `trafficrefinery.reports`; see `find`.
"""

from __future__ import annotations

from .page import Bullets, Note, Page, PageSection, PageTable, Picture, read_result, write_page

__all__ = ["Bullets", "Note", "Page", "PageSection", "PageTable", "Picture", "read_result", "write_page"]
