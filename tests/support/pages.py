"""What holds of every page of a report."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from support import browsers
from trafficrefinery import __version__

_ALONE = {"meta", "link", "br", "hr", "img", "use", "path"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag, attrs):
        self._take(attrs)
        if tag not in _ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._take(attrs)

    def handle_endtag(self, tag):
        if tag not in _ALONE:
            assert self.open.pop() == tag

    def _take(self, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.references += [values[name] for name in ("src", "href") if name in values]
        self.references += re.findall(r"url\((.*?)\)", " ".join(value or "" for _, value in attrs))


def check(page: Path, title: str, version: str = __version__) -> str:
    """See that a page is whole and needs nothing from anywhere; its text."""
    text = page.read_text()
    reader = _Reader()
    reader.feed(text)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids)), "ids of two pictures are the same"
    assert {one for one in reader.references if not one.startswith("#")} == {"data:,"}
    assert {one[1:] for one in reader.references if one.startswith("#")} <= set(reader.ids)
    assert "<script" not in text
    assert not re.search(r"https?://", text)
    assert f"<h1>{title}" in text
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", text)
    assert f"Traffic Refinery {version}" in text
    visible = re.sub(r"<(style|svg).*?</\1>|<[^>]*>|[0-9a-f]{64}", " ", text, flags=re.DOTALL)
    assert not re.search(r"\d\.\d{6,}|\bnan\b|\bNone\b", visible)
    return text


def check_in_browser(browser: str, page: Path, folder: Path) -> None:
    """See that Chromium shows a page without errors, and that the page asks for nothing."""
    shot = folder / "page.png"
    done = browsers.opened(browser, page, folder, f"--screenshot={shot}")
    assert "CONSOLE" not in done.stderr
    assert shot.stat().st_size > 20_000
    assert browsers.asked_for(folder) == []
